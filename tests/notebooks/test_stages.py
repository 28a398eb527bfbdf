"""The notebooks of the stages, run by papermill on the toy models that ship, and what their parameters are called."""

from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from tests.queue_for_tests import REPOSITORY
from wanavatar_lab import errors, media
from wanavatar_lab.cli import run_notebook
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, fields_of, plain_defaults
from wanavatar_lab.ui.copy_request import NOTEBOOKS
from wanavatar_lab.ui.parameters import DEFAULT

SAMPLES = REPOSITORY / "data" / "samples"


def run(name: str, place: Path, **values: Any) -> Any:
    """Execute a notebook as papermill's own documentation says, from anywhere; returns the executed one."""
    out = place / "out" / f"{name}.ipynb"
    out.parent.mkdir(exist_ok=True)
    papermill.execute_notebook(str(REPOSITORY / "notebooks" / f"{name}.ipynb"), str(out), values, progress_bar=False)
    return nbformat.read(out, as_version=4)


def said(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "stream" and output.name == "stderr" for output in outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream")


def made(notebook: Any) -> tuple[Path, Any]:
    """The file that it says it made, and the request of its run."""
    path = Path(said(notebook).strip())
    job = list_jobs()[0]
    assert path.parent == job.run.folder and path.is_file()
    return path, job.run.request()


def test_text_to_image(place: Path) -> None:
    prompt = "a man with a black moustache"
    values = {"prompt": prompt, "num_inference_steps": 1, "seed": 7, "upscale": False, "width": 64, "height": 96}
    path, request = made(run("01_text_to_image", place, interactive=False, **values))
    assert {name: getattr(request, name) for name in values} == values
    info = media.probe(path)
    assert (info.width, info.height) == (64, 96)


def test_upscale(place: Path) -> None:
    image = str(SAMPLES / "avatar_man.png")
    path, request = made(run("02_upscale", place, interactive=False, image=image, tile=64))
    assert (request.image, request.tile) == (image, 64)
    assert media.probe(path).width == 256


def test_image_to_video(place: Path) -> None:
    values = {"resolution": "64x64", "frame_num": 5, "num_inference_steps": 1, "prompt": "she nods", "seed": 3}
    path, request = made(run("03_image_to_video", place, interactive=False, **values))
    assert {name: getattr(request, name) for name in values} == values
    assert Path(request.image) == SAMPLES / "avatar_woman.png"
    info = media.probe(path)
    assert (info.width, info.frames) == (64, 5)


def test_speech_to_video(place: Path) -> None:
    values = {"resolution": "64x64", "num_inference_steps": 1, "audio_start": 0.5, "audio_duration": 0.5, "seed": 3}
    audio = str(SAMPLES / "korean.wav")
    notebook = run("04_speech_to_video", place, interactive=False, audio=audio, frames_per_segment=8, **values)
    path, request = made(notebook)
    assert {name: getattr(request, name) for name in values} == values
    assert (request.audio, request.guidance_scale) == (audio, 2.5)
    info = media.probe(path)
    assert info.kind == "video" and info.audio_rate is not None
    assert info.duration == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("name", [Path(path).stem for path in NOTEBOOKS.values()])
def test_where_somebody_looks_on_it_waits_for_the_button(name: str, place: Path) -> None:
    before = len(list_jobs())
    notebook = run(name, place)
    assert said(notebook) == "No result yet: press Run above, then run this cell again.\n"
    assert len(list_jobs()) == before
    # what is shown is told to the page, and no picture or sound is in the file
    assert len(nbformat.writes(notebook)) < 600_000
    (shown,) = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert "application/vnd.jupyter.widget-view+json" in shown


@pytest.mark.parametrize("name", [Path(path).stem for path in NOTEBOOKS.values()])
def test_a_wrong_value_is_refused_with_its_name(name: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notebook = str(REPOSITORY / "notebooks" / f"{name}.ipynb")
    out = str(place / "refused.ipynb")
    assert run_notebook.main([notebook, out, "-p", "profil", "full"]) == errors.REFUSED
    assert "profil: " in capfd.readouterr().err
    assert run_notebook.main([notebook, out, "-p", "profile", "huge", "-p", "interactive", "False"]) == errors.FAILED
    assert "profile: must be one of 'full', 'pocket' (got 'huge')" in capfd.readouterr().err


@pytest.mark.parametrize("stage", NOTEBOOKS)
def test_every_field_is_a_parameter_and_stands_at_its_default(stage: str) -> None:
    found = papermill.inspect_notebook(str(REPOSITORY / NOTEBOOKS[stage]))
    views = fields_of(STAGE_REQUESTS[stage])
    assert set(found) == {*views, "interactive"}
    defaults = {profile: plain_defaults(stage, profile) for profile in PROFILES}
    for name, view in views.items():
        if view.required or name == "profile":  # an example
            continue
        values = [defaults[profile][name] for profile in PROFILES]
        alike = all(value == values[0] for value in values)
        value = values[0] if alike else DEFAULT
        written = "" if value == [] else value
        assert eval(found[name]["default"]) == written, name


def test_the_check_names_machine_weights_and_stages(place: Path) -> None:
    text = said(run("00_check", place, profile="pocket"))
    assert "main memory free" in text and "torch" in text
    assert "present" in text and str(REPOSITORY / "weights" / "pocket") in text
    for stage in STAGE_REQUESTS:
        if stage in PROFILES["pocket"].locations:
            assert f"\n{stage}" in f"\n{text}"

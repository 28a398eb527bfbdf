"""The notebooks of the stages, run by papermill on the toy models that ship, and what their parameters are called."""

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image

from tests.queue_for_tests import REPOSITORY
from wanavatar_lab import errors, media
from wanavatar_lab.cli import run_notebook
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, fields_of, plain_defaults
from wanavatar_lab.ui.copy_request import NOTEBOOKS
from wanavatar_lab.ui.parameters import DEFAULT
from wanavatar_lab.ui.record import VIEW

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


def outputs(notebook: Any) -> list[Any]:
    """What its cells show, in each format, in their order."""
    return [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]


def made(notebook: Any) -> tuple[Path, Any]:
    """The file that it shows to have been made, and the request of its run, which it shows before."""
    job = list_jobs()[0]
    request, shown = outputs(notebook)[:2]
    assert VIEW not in shown and f"{job.run.request().labels['en']}: succeeded in " in said(notebook)
    assert shown["text/plain"].startswith(f"{job.run.request().labels['en']} {job.id}: succeeded in ")
    assert job.status().seed is None or f"\n  seed {job.status().seed}\n" in shown["text/plain"]
    for artifact in job.artifacts():
        assert f"\n  {artifact.path}" in shown["text/plain"] and f'title="{artifact.path}"' in shown["text/html"]
    assert ";base64," in shown["text/html"]
    assert request["text/plain"].startswith(type(job.run.request()).__name__)
    return Path(job.artifacts()[0]), job.run.request()


def plots(notebook: Any) -> list[int]:
    """The widths of the plots and pictures that it shows beside its run's, in hundreds of pixels: fonts differ."""
    pictures = [Image.open(io.BytesIO(base64.b64decode(shown["image/png"]))) for shown in outputs(notebook)[2:]]
    assert all(len(np.unique(np.asarray(picture.convert("L")))) > 50 for picture in pictures)  # none is blank
    return [round(picture.width / 100) for picture in pictures]


@pytest.mark.slow  # as below
def test_text_to_image(place: Path) -> None:
    prompt = "a man with a black moustache"
    values = {"prompt": prompt, "num_inference_steps": 1, "seed": 7, "upscale": False, "width": 64, "height": 96}
    notebook = run("01_text_to_image", place, interactive=False, **values)
    path, request = made(notebook)
    assert {name: getattr(request, name) for name in values} == values
    info = media.probe(path)
    assert (info.width, info.height) == (64, 96)
    assert plots(notebook) == [6, 1, 9]


def test_upscale(place: Path) -> None:
    image = str(SAMPLES / "avatar_man.png")
    notebook = run("02_upscale", place, interactive=False, image=image, tile=64)
    path, request = made(notebook)
    assert (request.image, request.tile) == (image, 64)
    assert media.probe(path).width == 256
    assert plots(notebook) == [10]


def test_text_to_speech(place: Path) -> None:
    values = {"text": "안녕하세요, 반갑습니다.", "voice": "man", "speaking_rate": 1.5, "seed": 3}
    notebook = run("03b_text_to_speech", place, interactive=False, **values)
    path, request = made(notebook)
    assert {name: getattr(request, name) for name in values} == values
    info = media.probe(path)
    assert (info.kind, info.audio_rate) == ("audio", 22_050) and 1 < (info.duration or 0) < 4
    assert plots(notebook) == [10]


@pytest.mark.slow  # it loads a pipeline into the kernel beside the worker's
def test_image_to_video(place: Path) -> None:
    values = {"resolution": "64x64", "frame_num": 5, "num_inference_steps": 1, "prompt": "she nods", "seed": 3}
    notebook = run("03_image_to_video", place, interactive=False, **values)
    path, request = made(notebook)
    assert {name: getattr(request, name) for name in values} == values
    assert Path(request.image) == SAMPLES / "avatar_woman.png"
    info = media.probe(path)
    assert (info.width, info.frames) == (64, 5)
    assert said(notebook).endswith(
        "\nprompt [1, 512, 128] · latents [1, 16, 5, 16, 16] · frames [1, 17, 128, 128, 3]\n"
    )
    assert plots(notebook) == [9, 9, 9]


@pytest.mark.slow
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
    assert said(notebook).endswith("\nWanSpeechToVideoPipeline · prompt [1, 27, 128] · audio [5, 99, 128]\n")
    assert plots(notebook) == [12, 11]


def test_where_somebody_looks_on_the_form_has_the_request(place: Path) -> None:
    notebook = run("02_upscale", place, tile=128)
    form, record = [shown for shown in outputs(notebook) if VIEW in shown or "not run yet" in shown["text/plain"]]
    assert form["text/html"] == ""  # the view, and below it what is kept of it
    assert "avatar_woman.png" in record["text/html"] and "not run yet" in record["text/html"]
    job = list_jobs()[0]
    assert job.status().state == "succeeded" and job.run.request().to_json()["tile"] == 128


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

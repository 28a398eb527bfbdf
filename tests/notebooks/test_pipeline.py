"""05_pipeline.ipynb, run as `make demo` runs it, on untrained networks of the true classes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests import toy_flux, toys
from tests.queue_for_tests import REPOSITORY, QueueUnderTest, use_queue
from tests.toy_i2v import i2v_pipeline
from training.pocket.saving import save_all_parts
from wanavatar_lab import errors, media
from wanavatar_lab.cli import run_notebook
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.requests import STAGE_REQUESTS

NOTEBOOK = REPOSITORY / "notebooks" / "05_pipeline.ipynb"
MADE = ["picture.png", "upscaled.png", "moving.mp4", "talking.mp4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with toy weights, a voice, and a queue of its own."""
    folder = tmp_path_factory.mktemp("pipeline")
    toy_flux.pocket_weights(toys.pocket_weights(folder / "weights"))
    save_all_parts(i2v_pipeline(), "image_to_video", folder / "weights")
    (folder / "weights" / "pocket" / "upscale").mkdir()
    speakers = "pocket/text_to_speech"
    shutil.copytree(REPOSITORY / "weights" / speakers, folder / "weights" / speakers)
    shutil.copy(REPOSITORY / "tests" / "golden" / "realesrgan_x2" / "toy_x2.pth", upscaler(folder))
    toys.voice(folder / "voice.wav", seconds=2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_WEIGHTS", str(folder / "weights"))
        queue = QueueUnderTest(use_queue(patch, folder / "runs", idle_seconds=60))
        yield folder
        queue.close()


def upscaler(place: Path) -> Path:
    return place / "weights" / "pocket" / "upscale" / "toy_x2.pth"


def run(place: Path, out: str, *more: str) -> int:
    words = ["profile", "pocket", "interactive", "False", "audio", str(place / "voice.wav"), "out", str(place / out)]
    pairs = [*zip(words[::2], words[1::2], strict=True), *zip(more[::2], more[1::2], strict=True)]
    options = [word for name, value in pairs for word in ("-p", name, value)]
    return run_notebook.main([str(NOTEBOOK), str(place / out / "05_pipeline.ipynb"), *options])


def test_a_sentence_and_a_voice_become_a_talking_avatar(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(place, "demo") == 0
    out = place / "demo"
    assert sorted(path.name for path in out.iterdir()) == ["05_pipeline.ipynb", *sorted(MADE)]
    assert [media.probe(out / name).width for name in ("picture.png", "upscaled.png")] == [128, 256]
    clips = [media.probe(out / name) for name in ("moving.mp4", "talking.mp4")]
    assert [(clip.width, clip.frames, clip.audio_rate is not None) for clip in clips] == [
        (128, 49, False),
        (128, 32, True),
    ]
    cells = nbformat.read(out / "05_pipeline.ipynb", as_version=4).cells
    voice, *runs, lips, clips_at_last = [
        output.data for cell in cells for output in cell.get("outputs", []) if "data" in output
    ]
    assert "<audio" in voice["text/html"] and "image/png" in lips
    for shown, name, job in zip(runs, MADE, reversed(list_jobs()), strict=True):
        assert job.id in shown["text/plain"] and f'title="{job.run.path(job.artifacts()[0])}"' in shown["text/html"]
        assert shown["text/html"].count("<video ") == name.endswith(".mp4") == 1 - shown["text/html"].count("<img ")
    kept = clips_at_last["text/html"]
    assert list(clips_at_last) == ["image/png", "text/html", "text/plain"]  # and no view, which would need this kernel
    # the links are relative to the notebook, which lies beside the files
    assert all(f'href="{name}"' in kept for name in MADE[2:]) and kept.count("<video ") == 2
    said = capfd.readouterr().out
    kept = "".join(
        output.text
        for cell in nbformat.read(out / "05_pipeline.ipynb", as_version=4).cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert said == kept
    lines = said.splitlines()
    assert len(lines) < 60
    for stage in ("text_to_image", "upscale", "image_to_video", "speech_to_video"):
        assert any(line.startswith(f"{STAGE_REQUESTS[stage].labels['en']}: succeeded in ") for line in lines)
        (row,) = [line.split() for line in lines if f" {stage} " in line and line.startswith(str(out))]
        assert float(row[4]) > 0
        assert int(row[6]) > 100  # MB
    assert "picture 2.00 s (32 frames), sound 2.00 s" in said
    assert "lips against loudness: Pearson r " in said


@pytest.mark.slow  # all stages once more; tests/ui/test_pipeline.py has the chain
def test_a_script_stands_for_the_recording(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = len(list_jobs())
    assert run(place, "said", "audio", "", "script", "Hello there") == 0
    out = place / "said"
    assert sorted(path.name for path in out.iterdir()) == ["05_pipeline.ipynb", *sorted([*MADE, "voice.wav"])]
    clip, voice = media.probe(out / "talking.mp4"), media.probe(out / "voice.wav")
    assert voice.duration is not None and 0.8 < voice.duration < 2
    assert clip.duration == pytest.approx(voice.duration, abs=1 / 16)
    made = list_jobs()[: len(list_jobs()) - before]
    assert [job.run.stage for job in made].count("text_to_speech") == 1
    (spoken,) = [job for job in made if job.run.stage == "speech_to_video"]
    assert spoken.run.request().to_json()["audio_duration"] is None
    assert " text_to_speech " in capfd.readouterr().out
    assert run(place, "both", "script", "Hello there") == errors.FAILED
    assert "script: is not used with a recording" in capfd.readouterr().err


def test_a_stage_that_fails_is_named_and_nothing_is_put_there(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    aside = upscaler(place).rename(place / "aside.pth")
    try:
        assert run(place, "failed") == errors.FAILED
    finally:
        aside.rename(upscaler(place))
    (complaint,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("wanavatar-lab:")]
    assert "upscale failed: " in complaint
    assert str(upscaler(place).parent) in complaint
    assert [path.name for path in (place / "failed").iterdir()] == ["05_pipeline.ipynb"]
    # it came as far as the picture, whose bytes are those of the run before
    pictures = {
        job.run.path(artifact).read_bytes()
        for job in list_jobs()
        if job.run.stage == "text_to_image"
        for artifact in job.artifacts()
    }
    assert pictures == {(place / "demo" / "picture.png").read_bytes()}


def test_bad_input_is_refused_before_anything_runs(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = len(list_jobs())
    assert run(place, "refused", "audio", str(place / "none.wav"), "seed", "-7") == errors.FAILED
    assert "seed: must be an integer from 0" in capfd.readouterr().err
    assert run(place, "refused", "audio", str(place / "none.wav")) == errors.FAILED
    assert "none.wav" in capfd.readouterr().err
    assert len(list_jobs()) == before

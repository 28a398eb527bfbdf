"""Runs of every stage from the command line and from the queue; one worker executes them all, as it does for a user."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import toys
from tests.queue_for_tests import QueueUnderTest, eventually, use_queue
from tests.test_hostile_weights import HOSTILE, target_fixture
from wanavatar_lab import cli, errors, jobs, media
from wanavatar_lab.jobs import Job
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage
from wanavatar_lab.runs.status import Status

__all__ = ["target_fixture"]

GOLDEN = Path(__file__).parent.parent / "golden" / "realesrgan_x2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, every_toy: Path) -> Iterator[Path]:
    """A folder with a picture and a voice, and a queue whose stages have toy networks."""
    folder = tmp_path_factory.mktemp("worker")
    toys.picture(folder / "a.png")
    toys.voice(folder / "v.wav")
    toys.voice(folder / "long.wav", seconds=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_WEIGHTS", str(every_toy))
        queue = QueueUnderTest(use_queue(patch, folder / "runs", idle_seconds=60))
        yield folder
        queue.close()


def levels(path: Path) -> np.ndarray:
    return media.read_samples(path).levels.astype(int)


def test_a_picture_from_the_command_line_and_again_by_two_processes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["text-to-image", "--profile", "pocket", "--prompt", "a woman", "--seed", "1", "--json"]
    size = ["--width", "64", "--height", "64", "--no-upscale"]
    assert cli.main([*words, *size, "--out", str(tmp_path / "a.png")]) == 0
    assert media.read_picture(tmp_path / "a.png").size == (64, 64)
    alone = json.loads(capsys.readouterr().out)["id"]
    again = ["runs", "rerun", alone, "--gpus", "2", "--json", "--out", str(tmp_path / "b.png")]
    assert cli.main(again) == 0
    assert np.abs(levels(tmp_path / "b.png") - levels(tmp_path / "a.png")).max() <= 1
    together = jobs.attach(json.loads(capsys.readouterr().out)["id"]).run
    facts = together.manifest()["facts"]
    assert (facts["gpus"], facts["shared"]) == (2, "sequence 2")
    assert "2 processes make this run: " in together.log_tail() and "gpus" not in together.manifest()["request"]


def test_upscale_from_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--image", str(GOLDEN / "input.png"), "--weights", str(GOLDEN / "toy_x2.pth"), "--tile", "48"]
    assert cli.main(["upscale", *words, "--out", str(tmp_path / "out.png")]) == 0
    made = jobs.list_jobs()[0].id
    assert cli.main(["runs", "rerun", made, "--gpus", "2"]) == errors.REFUSED
    assert "gpus: is not for upscale, which one GPU makes" in capsys.readouterr().err
    assert np.abs(levels(tmp_path / "out.png") - levels(GOLDEN / "output_tile48.png")).max() <= 1


def test_speech_to_video_from_the_command_line(place: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = ["--image", str(place / "a.png"), "--audio", str(place / "v.wav"), "--out", str(tmp_path / "d.mp4")]
    size = ["--resolution", "64x64", "--num-inference-steps", "2", "--frames-per-segment", "16"]
    assert cli.main(["speech-to-video", "--profile", "pocket", *files, *size, "--seed", "1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)
    assert media.probe(tmp_path / "d.mp4").frames == 16


def test_a_hostile_file_from_the_command_line(
    place: Path, target: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    HOSTILE["torchscript"](tmp_path / "x2.pth", target)
    words = ["--image", str(GOLDEN / "input.png"), "--weights", str(tmp_path / "x2.pth")]
    assert cli.main(["upscale", *words, "--out", str(tmp_path / "out.png")]) != 0
    assert "TorchScript archive" in "".join(capfd.readouterr())
    assert not (tmp_path / "out.png").exists()


def cancelled_while_denoising(request: Request, steps: int) -> tuple[Job, int]:
    """A run of so many steps that is cancelled once it has done one, and how many more it did until it ended."""
    job = jobs.submit(request)

    def done(status: Status) -> int:
        return (status.segment or 1) * steps + (status.step or 0)

    def begun() -> bool:
        status = job.status()
        assert not status.ended, status.error
        return status.phase == "denoise" and bool(status.step)

    eventually(begun, 60)
    job.cancel()
    before = done(job.status())  # a busy machine makes steps while it is asked to cancel
    status = job.wait(30, check=False)
    assert status.state == "cancelled"
    return job, done(status) - before


def test_a_picture_is_cancelled_within_one_denoising_step(place: Path) -> None:
    size = {"width": 1024, "height": 1024, "num_inference_steps": 12}
    request = TextToImage(profile="pocket", prompt="a woman", seed=1, upscale=False, **size)
    job, more = cancelled_while_denoising(request, 12)
    assert more <= 3, "one that ran, one that had begun, one whose status was not written yet"
    assert not list(job.run.folder.glob("*.png"))


def test_a_clip_is_cancelled(place: Path) -> None:
    size = {"resolution": "64x64", "frame_num": 41, "num_inference_steps": 100}
    request = ImageToVideo(profile="pocket", image=str(place / "a.png"), prompt="a person", seed=1, **size)
    job, _ = cancelled_while_denoising(request, 100)
    assert (job.status().step or 0) < 100
    assert not list(job.run.folder.glob("*.mp4"))


def test_a_talking_clip_is_cancelled_within_one_denoising_step(place: Path) -> None:
    size = {"resolution": "64x64", "frames_per_segment": 16, "num_inference_steps": 20}
    files = {"image": str(place / "a.png"), "audio": str(place / "long.wav")}
    job, more = cancelled_while_denoising(SpeechToVideo(profile="pocket", seed=1, **files, **size), 20)
    assert more <= 3, "one that ran, one that had begun, one whose status was not written yet"
    assert not (job.run.folder / "talking.mp4").exists()

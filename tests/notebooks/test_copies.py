"""What the gallery copies as Python, as a command and for papermill makes the same run again when it is really run.

`make notebooks` does that with every stage: see `every_notebook.py`.
"""

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.queue_for_tests import REPOSITORY
from wanavatar_lab import media
from wanavatar_lab.jobs import Job, list_jobs, submit
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, TextToSpeech, Upscale
from wanavatar_lab.ui.gallery import Gallery

SAMPLES = REPOSITORY / "data" / "samples"
REQUESTS: dict[str, Request] = {
    "text_to_image": TextToImage(
        profile="pocket",
        prompt="--a \"woman\" with 'red' hair, $HOME\n머리카락",
        width=64,
        height=96,
        num_inference_steps=1,
        upscale=False,
    ),
    "upscale": Upscale(profile="pocket", image=str(SAMPLES / "avatar_man.png"), tile=64),
    "image_to_video": ImageToVideo(
        profile="pocket",
        image=str(SAMPLES / "avatar_woman.png"),
        prompt="007",
        resolution="64x64",
        frame_num=5,
        num_inference_steps=1,
    ),
    "text_to_speech": TextToSpeech(profile="pocket", text="--it's 7 o'clock, $HOME", voice="man", speaking_rate=1.2),
    "speech_to_video": SpeechToVideo(
        profile="pocket",
        image=str(SAMPLES / "avatar_woman.png"),
        audio=str(SAMPLES / "korean.wav"),
        audio_duration=0.5,
        resolution="64x64",
        frames_per_segment=8,
        num_inference_steps=1,
        start_from_image=True,
    ),
}


def in_python(text: str, place: Path) -> None:
    """As a cell of a notebook."""
    code = compile(text, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {}
    asyncio.run(eval(code, names))
    assert [artifact.path for artifact in names["artifacts"]]


def in_a_shell(text: str, place: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs}
    done = subprocess.run(
        text, shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


WAYS: dict[str, Callable[[str, Path], None]] = {"python": in_python, "command": in_a_shell, "papermill": in_a_shell}


# the notebook of text_to_image opens the pipeline too, which takes long
@pytest.mark.parametrize(("stage", "ways"), [("text_to_image", ("python", "command")), ("upscale", ("papermill",))])
def test_a_copy_that_is_run_makes_the_same_again(
    stage: str, ways: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes_the_same_again(stage, place, monkeypatch, ways)


def makes_the_same_again(
    stage: str, place: Path, monkeypatch: pytest.MonkeyPatch, ways: Sequence[str] = tuple(WAYS)
) -> None:
    """Run a request, copy its run in each way, run what was copied, and compare what was asked and what was made.

    Args:
        place: has `notebooks`, as a checkout has.
        ways: names in `WAYS`.
    """
    job = submit(REQUESTS[stage])
    assert job.wait(120).state == "succeeded", job.status().error
    seeded = job.run.request()
    if "seed" in type(seeded).model_fields:
        seeded = seeded.changed(seed=job.status().seed)
    gallery, copied = Gallery(), dict[str, str]()
    monkeypatch.setattr(gallery, "send", lambda content, *_: copied.update({content["how"]: content["text"]}))
    for how in ways:
        gallery.receive({"kind": "copy", "run": job.id, "how": how})
        assert gallery.notice == ""
    for how in ways:
        before = len(list_jobs())
        WAYS[how](copied[how], place)
        assert len(list_jobs()) == before + 1, how
        again = list_jobs()[0]
        assert again.status().state == "succeeded", how
        assert again.run.request() == seeded, how
        assert content(again) == content(job), how


def content(job: Job) -> list[bytes]:
    """The file that it made, without the notes in it, which hold the request as it was written."""
    path = job.run.path(job.artifacts()[0])
    if path.suffix == ".mp4":
        return [frame.tobytes() for frame in media.read_frames(path)]
    if path.suffix == ".wav":
        return [media.read_audio(path).samples.tobytes()]
    return [media.read_picture(path).tobytes()]

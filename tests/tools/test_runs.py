"""Tools as requests: executed at once beside the queue, with a run folder whose result can be picked as an input."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

import wanavatar_lab
from tests.queue_for_tests import QueueUnderTest, eventually, queue_fixture, queue_settings_fixture
from tests.tools.clips import sound, video
from wanavatar_lab import jobs, locks
from wanavatar_lab.media import probe, read_audio
from wanavatar_lab.requests import (
    TOOLS,
    Concatenate,
    ExtractAudio,
    ExtractFrame,
    InterpolateFrames,
    NormalizeLoudness,
    Request,
    RequestError,
    Resample,
    SeparateVocals,
    SpeechToVideo,
    Trim,
    parse,
)
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.file_field import earlier
from wanavatar_lab.worker.at_once import places
from wanavatar_lab.worker.queue import RunQueue

__all__ = ["queue_fixture", "queue_settings_fixture"]


def made_by(request: Request) -> Run:
    """A run in this process, which saves the start of another one."""
    run = jobs.run_here(request)
    assert run.status().state == "succeeded", run.status().error
    return run


def test_a_tool_does_not_wait_for_the_queue(queue: QueueUnderTest, tmp_path: Path) -> None:
    jobs.pause()
    waiting = queue.submit(steps=1)
    job = jobs.submit(Trim(media=str(sound(tmp_path / "v.wav", 16_000, 16_000)), duration=0.5))
    assert job.run.status().state in ("running", "succeeded")
    assert job.wait(60, progress=False).artifacts[0].kind == "audio"
    assert waiting.status().state == "queued" and RunQueue(queue.runs_dir).run_ids() == [waiting.id]
    waiting.cancel()
    jobs.resume()


def test_every_tool_makes_a_run(queue_settings: Path, tmp_path: Path) -> None:
    clip, voice = str(video(tmp_path / "a.mp4", 16, tone=440)), str(sound(tmp_path / "v.wav", 16_000, 16_000))
    requests: dict[Request, tuple[str, str]] = {
        ExtractAudio(video=clip): ("audio", ".wav"),
        ExtractFrame(video=clip, frame=3): ("picture", ".png"),
        Trim(media=clip, start=0.25, duration=0.5): ("talking", ".mp4"),
        Trim(media=voice, start=0.25): ("audio", ".wav"),
        Resample(media=clip, rate=8_000, channels="stereo"): ("audio", ".wav"),
        NormalizeLoudness(media=voice): ("audio", ".wav"),
        InterpolateFrames(video=clip, fps=25): ("talking", ".mp4"),
        Concatenate(first=clip, second=clip): ("talking", ".mp4"),
    }
    assert {type(request) for request in requests} == {*TOOLS} - {SeparateVocals}
    for request, (kind, suffix) in requests.items():
        run = made_by(request)
        (made,) = run.status().artifacts
        assert (made.kind, Path(made.path).suffix) == (kind, suffix)
        assert probe(made.path).kind == kind.replace("talking", "video")
        told = wanavatar_lab.read_settings(made.path)
        assert told.stage == request.stage and "profile" not in told.request
        manifest = run.manifest()
        assert manifest["state"] == "succeeded" and manifest["device"] == "cpu" and "profile" not in manifest["request"]
    # what a tool made is offered for the next work, by what it is
    voices, pictures = (len(earlier(kinds)) for kinds in (("audio", "talking"), ("picture",)))
    assert (voices, pictures) == (7, 1)


def test_the_result_of_one_is_the_parent_of_the_next(queue_settings: Path, tmp_path: Path) -> None:
    first = made_by(ExtractAudio(video=str(video(tmp_path / "a.mp4", 16, tone=440))))
    second = made_by(Trim(media=first.status().artifacts[0].path, duration=0.5))
    assert second.manifest()["parents"] == [first.id]
    again = made_by(second.repeatable_request())
    assert read_audio(again.status().artifacts[0].path).seconds == 0.5
    assert "duration" in second.manifest()["facts"]


def test_what_is_missing_is_in_the_log_and_what_fails_is_said(queue_settings: Path, tmp_path: Path) -> None:
    voice = str(sound(tmp_path / "v.wav", 16_000, 16_000))
    run = made_by(Trim(media=voice, start=0.5, duration=9))
    assert "v.wav ends 0.50 s after 0.5 s" in run.log_tail()
    failed = jobs.run_here(Trim(media=voice, start=5))
    status = failed.status()
    assert status.state == "failed" and f"{voice} has no sound after 5 s" in (status.error or "")
    assert not (failed.folder / "audio.wav").exists()


def test_one_is_cancelled_and_one_that_dies_is_finished(queue_settings: Path, tmp_path: Path) -> None:
    # motion search of so many blocks takes seconds for each frame of this size
    clip = str(video(tmp_path / "a.mp4", 60, 16, size=(320, 240), tone=440))
    for end in ("cancel", "kill"):
        job = jobs.submit(InterpolateFrames(video=clip, fps=60))
        eventually(partial(begun, job))
        if end == "cancel":
            job.cancel()
        else:
            (worker,) = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if job.id in command_of(pid)]
            os.kill(worker, signal.SIGKILL)
        status = job.wait(30, check=False, progress=False)
        assert status.state == {"cancel": "cancelled", "kill": "failed"}[end]
        assert not (job.run.folder / "clip.mp4").exists() and not list(job.run.folder.glob(".clip*"))


def test_no_more_work_at_once_than_there_are_cores(queue_settings: Path, tmp_path: Path) -> None:
    voice = str(sound(tmp_path / "v.wav", 16_000, 16_000))
    (queue_settings / ".worker").mkdir(parents=True)
    held = [locks.take(place, wait=False) for place in places(queue_settings)]
    waiting, unwanted = (jobs.submit(Trim(media=voice, duration=0.5)) for _ in range(2))
    unwanted.cancel()
    assert unwanted.wait(30, check=False, progress=False).state == "cancelled"
    assert waiting.status().phase == "start"  # the other one, which was started later, has ended meanwhile
    for handle in held:
        assert handle is not None
        locks.drop(handle)
    assert waiting.wait(30, progress=False).artifacts


def begun(job: jobs.Job) -> bool:
    return (job.run.status().step or 0) > 0


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def test_a_tool_has_no_profile_and_says_so() -> None:
    with pytest.raises(RequestError, match="profile: there is no such field"):
        parse("trim", {"media": "a.wav", "profile": "pocket"})
    assert Trim(media="a.wav").named() == {"media": "a.wav"} and "profile" not in Trim(media="a.wav").to_json()
    assert SpeechToVideo(image="a.png", audio="a.wav").profile == "full"

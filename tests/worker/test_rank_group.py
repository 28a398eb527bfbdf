"""Runs that several processes make together, from submit to file: equal to those of one, and what if one dies.

All runs go through one queue, whose worker and ranks stay between them, as they do for a user. They take too long for
`make test`, which has one of them: in tests/stages/test_through_the_worker.py, beside runs of one process.
"""

import os
import resource
import signal
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tests import toys
from tests.queue_for_tests import QueueUnderTest, eventually, is_alive, use_queue
from wanavatar_lab import cli, jobs, media
from wanavatar_lab.jobs import Job
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage
from wanavatar_lab.worker.rank_group import Member

pytestmark = pytest.mark.slow

LIMIT = 60.0  # seconds in which a run has to end when one of its processes is lost
CLIP = {"profile": "pocket", "seed": 1, "resolution": "64x64"}

PICTURE = TextToImage(profile="pocket", prompt="a", seed=1, width=64, height=64, upscale=False)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, every_toy: Path) -> Iterator[QueueUnderTest]:
    folder = tmp_path_factory.mktemp("ranks")
    toys.picture(folder / "a.png")
    toys.voice(folder / "v.wav")
    toys.voice(folder / "long.wav", seconds=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_WEIGHTS", str(every_toy))
        queue = QueueUnderTest(use_queue(patch, folder / "runs", idle_seconds=120))
        yield queue
        queue.close()


@contextmanager
def changed(studio: QueueUnderTest, code: str) -> Iterator[QueueUnderTest]:
    """A queue of its own, all of whose processes begin with this code while the file `change` is beside its folder."""
    folder = studio.runs_dir.parent / f"changed{len(list(studio.runs_dir.parent.iterdir()))}"
    folder.mkdir()
    (folder / "change").touch()
    head = f"import os, pathlib, sys\nCHANGE = pathlib.Path({str(folder / 'change')!r})\n"
    body = textwrap.indent(code, "    ")
    (folder / "sitecustomize.py").write_text(f"{head}if CHANGE.exists():\n{body}\n")
    with pytest.MonkeyPatch.context() as patch:
        queue = QueueUnderTest(use_queue(patch, folder / "runs", idle_seconds=120))
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}")
        try:
            yield queue
        finally:
            queue.close()


def talking(studio: QueueUnderTest, voice: str = "v.wav", **fields: object) -> SpeechToVideo:
    files = {"image": str(studio.runs_dir.parent / "a.png"), "audio": str(studio.runs_dir.parent / voice)}
    sizes = {"num_inference_steps": 3, "frames_per_segment": 8}
    return SpeechToVideo(**CLIP | files | sizes | fields)


def moving(studio: QueueUnderTest, **fields: object) -> ImageToVideo:
    sizes = {"num_inference_steps": 4, "frame_num": 9, "prompt": "a person"}
    return ImageToVideo(**CLIP | sizes | {"image": str(studio.runs_dir.parent / "a.png")} | fields)


def made(request: Request, gpus: int) -> tuple[np.ndarray, Job]:
    job = jobs.submit(request, gpus=gpus)
    status = job.wait(120, check=False, progress=False)
    assert status.state == "succeeded", f"{status.error}\n{job.run.log_tail()}"
    return levels(job), job


def assert_same_but_for_the_encoder(found: np.ndarray, wanted: np.ndarray) -> None:
    """Two clips whose frames, before they were encoded, differed by one level in one pixel of a thousand.

    That may tip H.264's choice for a block, which later frames are predicted from. Sequences are 1e-5 apart in float32
    and decoded strips 1e-6: tests/s2v/test_context_parallel.py. Another seed's clip is more than ten levels away.
    """
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 0.25, np.abs(found - wanted).reshape(len(wanted), -1).mean(axis=1)


def levels(job: Job) -> np.ndarray:
    """The pixels of the picture or clip that a run has made."""
    path = job.run.path(job.artifacts()[0])
    if path.suffix == ".png":
        return media.read_samples(path).levels.astype(int)
    return np.stack(list(media.read_frames(path))).astype(int)


def denoises(job: Job) -> bool:
    status = job.status()
    assert not status.ended, f"{status.error}\n{job.run.log_tail()}"
    return status.phase == "denoise" and (status.step or 0) > 1


def others(studio: QueueUnderTest) -> list[psutil.Process]:
    """The processes beside the worker, by their rank."""
    worker = studio.process_ids().workers[0]
    assert worker is not None
    children = [child for child in psutil.Process(worker).children() if child.is_running()]
    return sorted((child for child in children if "rank_process" in " ".join(child.cmdline())), key=lambda one: one.pid)


def test_a_talking_clip_whose_passes_two_processes_share(studio: QueueUnderTest) -> None:
    alone, _ = made(talking(studio), 1)
    together, job = made(talking(studio), 2)
    assert_same_but_for_the_encoder(together, alone)
    assert job.run.manifest()["facts"]["shared"] == "guidance 2"
    assert "2 processes make this run: each computes one of the passes of guidance." in job.run.log_tail()


def test_a_talking_clip_whose_sequence_two_processes_share(studio: QueueUnderTest) -> None:
    request = talking(studio, guidance_scale=1.0, step_cache="first_block", step_cache_threshold=0.3)
    alone, _ = made(request, 1)
    together, job = made(request, 2)
    assert_same_but_for_the_encoder(together, alone)
    assert job.run.manifest()["facts"]["shared"] == "sequence 2"


@pytest.mark.parametrize(("speed", "shared"), [("exact", "guidance 2"), ("fast", "sequence 2")])
def test_both_experts_are_shared(studio: QueueUnderTest, speed: str, shared: str) -> None:
    request = moving(studio, speed=speed, num_inference_steps=8)
    alone, before = made(request, 1)
    together, job = made(request, 2)
    assert_same_but_for_the_encoder(together, alone)
    facts = job.run.manifest()["facts"]
    assert facts["shared"] == shared and facts.get("speed") == before.run.manifest()["facts"].get("speed")


def test_a_picture_is_shared_from_the_command_line(studio: QueueUnderTest, tmp_path: Path) -> None:
    words = ["text-to-image", "--profile", "pocket", "--prompt", "a", "--seed", "1", "--no-upscale"]
    words += ["--width", "64", "--height", "64", "--out"]
    for gpus in ("1", "2"):
        assert cli.main([*words, str(tmp_path / f"{gpus}.png"), "--gpus", gpus]) == 0
    alone, together = (media.read_samples(tmp_path / f"{gpus}.png").levels.astype(int) for gpus in (1, 2))
    assert np.abs(together - alone).max() <= 1


def test_an_error_that_all_processes_find_is_told_once_and_costs_none_of_them(studio: QueueUnderTest) -> None:
    made(PICTURE, 2)
    before = others(studio)
    job = jobs.submit(talking(studio, guidance_scale=1.0, attention="cudnn"), gpus=2)
    status = job.wait(60, check=False, progress=False)
    assert status.state == "failed" and status.error is not None and status.error.startswith("attention: must be ")
    made(PICTURE, 2)
    assert others(studio) == before


def test_a_cancelled_run_ends_within_a_step_and_leaves_all_processes(studio: QueueUnderTest) -> None:
    made(PICTURE, 2)
    before = others(studio)
    steps = 100  # so that a busy machine sees some of a segment
    job = jobs.submit(talking(studio, "long.wav", num_inference_steps=steps), gpus=2)
    eventually(partial(denoises, job), 180)
    job.cancel()
    status = job.status()  # a busy machine makes steps while it is asked to cancel
    done = (status.segment or 1) * steps + (status.step or 0)
    status = job.wait(30, check=False, progress=False)
    assert status.state == "cancelled"
    assert (status.segment or 1) * steps + (status.step or 0) - done <= 3, (
        "one that ran, one that had begun, one whose status was not written yet"
    )
    made(PICTURE, 2)
    assert others(studio) == before


@pytest.mark.parametrize("how", ["killed", "stopped", "failed", "leader stopped"])
def test_a_lost_process_ends_the_run_and_the_next_one_has_fresh_ones(studio: QueueUnderTest, how: str) -> None:
    job = jobs.submit(talking(studio, "long.wav", num_inference_steps=50, guidance_scale=1.0), gpus=2)
    eventually(lambda: job.status().phase == "denoise" and (job.status().step or 0) > 1, 120)
    (other,), worker = others(studio), studio.process_ids().workers[0]
    assert worker is not None
    if how == "killed":
        os.kill(other.pid, signal.SIGKILL)
    elif how == "failed":
        other.rlimit(resource.RLIMIT_AS, (2**20, 2**20))  # so that it finds no memory
    else:
        os.kill(other.pid if how == "stopped" else worker, signal.SIGSTOP)
    status = job.wait(LIMIT, check=False, progress=False)
    assert status.state == "failed", f"it has not ended in {LIMIT} s"
    wanted = {
        "killed": f"Rank 1 of 2 (process {other.pid}) ended: signal 9, SIGKILL",
        "stopped": f"Rank 1 of 2 (process {other.pid}) has not answered",
        "failed": f"Rank 1 of 2 (process {other.pid}) failed: ",
        "leader stopped": "Rank 0 of 2, the worker, has not answered",
    }[how]
    assert status.error is not None and wanted in status.error
    assert status.error.partition(". Its first")[0] in job.run.log_tail(200)
    if how == "failed":
        assert "Rank 1 of 2:\nTraceback" in job.run.log_tail(200)
    eventually(lambda: not is_alive(other.pid) and not is_alive(worker))
    made(PICTURE, 2)
    assert others(studio) and others(studio) != [other]


def test_processes_that_have_not_met_cost_one_run(studio: QueueUnderTest) -> None:
    do_not_meet = """
if "wanavatar_lab.worker.process" in sys.orig_argv:
    from wanavatar_lab.worker import rank_group
    rank_group.TIMEOUT = 1.0
if "wanavatar_lab.worker.rank_process" in sys.orig_argv:
    from wanavatar_lab.wan import context_parallel
    context_parallel.join = lambda *_: __import__("signal").pause()
"""
    with changed(studio, do_not_meet) as queue:
        error = jobs.submit(PICTURE, gpus=2).wait(120, check=False, progress=False).error or ""
        assert error.startswith("The 2 processes of the run lost each other: ")
        (queue.runs_dir.parent / "change").unlink()
        made(PICTURE, 2)


def test_a_run_that_is_cancelled_as_processes_meet_leaves_all_of_them(studio: QueueUnderTest) -> None:
    cancels = """
if "wanavatar_lab.worker.process" in sys.orig_argv:
    from wanavatar_lab.worker.rank_group import RankGroup
    start = RankGroup.start
    def cancelled(self, look):
        start(self, look)
        if CHANGE.exists():
            (self._run.folder / "cancel").touch()
    RankGroup.start = cancelled
"""
    with changed(studio, cancels) as queue:
        status = jobs.submit(PICTURE, gpus=2).wait(120, check=False, progress=False)
        assert status.state == "cancelled"
        before = others(queue)
        (queue.runs_dir.parent / "change").unlink()
        made(PICTURE, 2)
        assert before and others(queue) == before


def test_processes_whose_memory_ran_out_keep_none_of_it(studio: QueueUnderTest) -> None:
    runs_out = """
if {"wanavatar_lab.worker.process", "wanavatar_lab.worker.rank_process"} & {*sys.orig_argv}:
    from wanavatar_lab.stages import text_to_image
    draw = text_to_image._draw
    def drawn(*words):
        if CHANGE.exists():
            raise MemoryError
        return draw(*words)
    text_to_image._draw = drawn
"""
    with changed(studio, runs_out) as queue:
        error = jobs.submit(PICTURE, gpus=2).wait(120, check=False, progress=False).error or ""
        assert error.startswith("The machine ran out of memory.")
        assert not others(queue)
        (queue.runs_dir.parent / "change").unlink()
        made(PICTURE, 2)


def test_a_process_that_has_done_its_part_of_a_run_may_be_lost(tmp_path: Path) -> None:
    member = Member(1, 2, "cpu", tmp_path)
    os.kill(member.pid, signal.SIGKILL)
    killed = eventually(member.trouble)
    assert killed.startswith(f"Rank 1 of 2 (process {member.pid}) ended: signal 9, SIGKILL")
    member.ended = {"state": "succeeded", "error": "", "lost": False}
    assert member.trouble() is None
    member.forget()
    assert member.trouble() == killed, "the next run has to know"
    member.kill()


def test_long_messages_come_whole(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    member = Member(1, 2, "cpu", tmp_path)
    talks = True

    def talk() -> None:
        while talks:
            member.say(alive=True)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        for _ in range(30):
            member.say(go=None, prompt="a" * 240_000)  # before it has a run, it does nothing
        member.say(run="none", request={}, seed=0)
        ended = eventually(lambda: member.ended or member.trouble(), 60)
    finally:
        talks = False
        member.kill()
        thread.join()
    assert ended["state"] == "failed", "there is no such run"


def test_three_processes_make_the_same_clip(studio: QueueUnderTest) -> None:
    alone, _ = made(talking(studio), 1)
    together, job = made(talking(studio), 3)
    assert_same_but_for_the_encoder(together, alone)
    assert job.run.manifest()["facts"]["shared"] == "sequence 3"
    assert len(others(studio)) == 2

"""What runs, statuses and files show: in a notebook that someone looks at, under papermill, and in a terminal."""

import base64
import io
import queue as queues
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import jupyter_client
import numpy as np
import pytest
from PIL import Image

from tests.queue_for_tests import (  # noqa: F401  fixtures
    PATIENCE,
    QueueUnderTest,
    let_go,
    queue_settings_fixture,
    shared_queue_fixture,
)
from tests.stages_for_tests import Relax
from wanavatar_lab import media
from wanavatar_lab.errors import RunError
from wanavatar_lab.jobs import Job
from wanavatar_lab.runs import Run
from wanavatar_lab.runs.status import Artifact, Status


def embedded(html: str, tag: str, attribute: str) -> list[bytes]:
    """The data in this attribute of all such tags."""
    found = re.findall(rf"<{tag}[^>]* {attribute}=\"data:[a-z0-9/+-]+;base64,([^\"]*)\"", html)
    return [base64.b64decode(text) for text in found]


def shown(folder: Path, kind: str, name: str) -> str:
    return Artifact(kind=kind, path=name).within(folder)._repr_mimebundle_()["text/html"]


def test_a_portrait_picture_is_embedded_whole(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 2400), (200, 30, 30)).save(tmp_path / "a&b.png")
    html = shown(tmp_path, "picture", "a&b.png")
    (data,) = embedded(html, "img", "src")
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (512, 1024) and picture.getpixel((256, 1000)) == pytest.approx((200, 30, 30), abs=4)
    assert "width: 260px" in html and "1200 × 2400" in html  # of 520 pixels of height
    assert str(tmp_path / "a&b.png") in unescape(html)


def test_a_clip_plays_with_a_poster_or_is_its_first_frame(tmp_path: Path) -> None:
    with media.VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        for level in (40, 200):
            writer.write(np.full((96, 64, 3), level, np.uint8))
    html = shown(tmp_path, "video", "a.mp4")
    assert embedded(html, "video", "src") == [(tmp_path / "a.mp4").read_bytes()]
    (poster,) = embedded(html, "video", "poster")
    first = Image.open(io.BytesIO(poster))
    assert first.size == (64, 96) and np.asarray(first).mean() == pytest.approx(40, abs=4)
    assert "64 × 96 · 0.12 s · 16 fps" in html
    (tmp_path / "a.mp4").rename(tmp_path / "a.mkv")  # which no browser plays
    html = shown(tmp_path, "video", "a.mkv")
    assert "<video" not in html and "is not embedded" in html and len(embedded(html, "img", "src")) == 1


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.npy").write_bytes(b"numbers")
    media.write_audio(tmp_path / "a.wav", media.Audio(np.zeros((800, 1), np.float32), 16_000))
    assert "a.png" in shown(tmp_path, "picture", "a.png") and "<img" not in shown(tmp_path, "picture", "a.png")
    assert "No such file" in shown(tmp_path, "picture", "gone.png")
    assert "0.0 kB" in shown(tmp_path, "numbers", "a.npy")
    assert embedded(shown(tmp_path, "audio", "a.wav"), "audio", "src") == [(tmp_path / "a.wav").read_bytes()]


def test_a_status_is_a_state_a_bar_and_its_progress() -> None:
    status = Status(
        state="running",
        phase="denoise",
        step=3,
        steps=8,
        segment=1,
        segments=2,
        fraction=0.1875,
        eta_seconds=75,
        seed=7,
    )
    bundle = status._repr_mimebundle_()
    assert bundle["text/plain"] == "denoise, segment 1 of 2, step 3 of 8, 19%, 1:15 left\n  seed 7"
    assert "width: 18.8%" in bundle["text/html"] and "running" in bundle["text/html"]
    failed = Status(state="failed", error="No <room>.", started_at=0.0, finished_at=83.0)._repr_mimebundle_()
    assert failed["text/plain"] == "failed in 1:23: No <room>."
    assert "No &lt;room&gt;." in failed["text/html"]


def test_a_run_shows_its_files_and_its_request(queue_settings: Path) -> None:
    run = Run.create(Relax(profile="pocket", steps=5))
    (run.folder / "result.npy").touch()
    run.write_status(Status(state="succeeded", artifacts=[Artifact(kind="numbers", path="result.npy")], seed=4))
    bundle = run._repr_mimebundle_()
    path = str(run.folder / "result.npy")
    assert bundle["text/plain"].splitlines() == [f"Relax {run.id}: succeeded", "  seed 4", f"  {path}"]
    assert path in bundle["text/html"] and "<b>steps</b></td>" in bundle["text/html"]
    assert repr(run.status().artifacts) == f"[Artifact(kind='numbers', path={path!r})]"


def test_a_run_that_was_deleted_says_so_and_raises_nothing(
    queue_settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(Relax(profile="pocket"))
    shutil.rmtree(run.folder)
    for shown in (run, Job(run)):
        assert shown._repr_mimebundle_() == {"text/plain": f"There is no run in {run.folder}: it has no status.json."}
    Job(run)._ipython_display_()
    assert capsys.readouterr().err == ""
    queue_settings.rename(queue_settings.with_name("unmounted"))
    for shown in (run, Job(run)):
        assert shown._repr_mimebundle_()["text/plain"].startswith(
            f"The runs folder {queue_settings} cannot be read now"
        )


def test_waiting_shows_lines_and_raises_what_went_wrong(
    shared_queue: QueueUnderTest, capsys: pytest.CaptureFixture[str]
) -> None:
    job = shared_queue.submit(steps=5, step_seconds=0.05)
    assert job.wait(PATIENCE).state == "succeeded"
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == "" and all(line.startswith("Relax: ") for line in lines)
    assert re.fullmatch(r"Relax: succeeded in 0:0\d", lines[-1]) and len(set(lines)) == len(lines)
    failed = shared_queue.submit(fault="weights")
    with pytest.raises(RunError, match=rf"The run {failed.id} failed: The weights of relax are missing\. Get them\."):
        failed.wait(PATIENCE)
    assert "Relax: failed in" in capsys.readouterr().err
    cancelled = shared_queue.submit(hold_at=1)
    shared_queue.worker_at(cancelled, step=1)
    cancelled.cancel()
    with pytest.raises(RunError, match=rf"The run {cancelled.id} was cancelled at relax"):
        cancelled.wait(PATIENCE)
    capsys.readouterr()
    assert failed.wait(check=False, progress=False).state == "failed"
    assert capsys.readouterr().err == ""


class Kernel:
    """A kernel, and what its cells show."""

    def __init__(self) -> None:
        self.manager, self.client = jupyter_client.manager.start_new_kernel(kernel_name="python3")

    def run(self, code: str, *, looked_at: bool) -> list[dict[str, Any]]:
        """The messages of a cell in their order, executed as by a page, or as by papermill."""
        message = self.client.execute(code, allow_stdin=looked_at)
        found: list[dict[str, Any]] = []
        while True:
            one = self.client.get_iopub_msg(timeout=PATIENCE)
            if one["parent_header"].get("msg_id") == message:
                if one["msg_type"] == "error":
                    raise AssertionError("\n".join(one["content"]["traceback"]))
                found.append(one)
                if one["msg_type"] == "status" and one["content"]["execution_state"] == "idle":
                    return found

    def later(self) -> dict[str, Any]:
        """The next change of an output, after its cell has ended."""
        while True:
            one = self.client.get_iopub_msg(timeout=PATIENCE)
            if one["msg_type"] == "update_display_data":
                return dict(one["content"])


@pytest.fixture(scope="module")
def kernel(shared_queue: QueueUnderTest) -> Iterator[Kernel]:
    found = Kernel()
    yield found
    found.client.stop_channels()
    found.manager.shutdown_kernel(now=True)


def of_kind(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message["content"] for message in messages if message["msg_type"] == kind]


def test_a_notebook_has_a_bar_that_lives_and_papermill_lines_that_stay(
    kernel: Kernel, shared_queue: QueueUnderTest
) -> None:
    head = "from tests.stages_for_tests import Relax\nfrom wanavatar_lab import jobs\n"
    wait = f"{head}status = jobs.submit(Relax(profile='pocket', steps=4, step_seconds=0.3)).wait()"
    live = kernel.run(wait, looked_at=True)
    (first,), updates = of_kind(live, "display_data"), of_kind(live, "update_display_data")
    assert of_kind(live, "stream") == [] and len(updates) > 3
    assert {update["transient"]["display_id"] for update in updates} == {first["transient"]["display_id"]}
    widths = [float(re.findall(r"width: ([\d.]+)%", update["data"]["text/html"])[0]) for update in updates]
    assert widths == sorted(widths) and widths[-1] == 100.0 and 25.0 in widths
    assert "Relax: succeeded" in updates[-1]["data"]["text/plain"]

    kept = kernel.run(wait, looked_at=False)
    assert of_kind(kept, "display_data") == []
    lines = "".join(part["text"] for part in of_kind(kept, "stream")).splitlines()
    assert any(line.startswith("Relax: relax, step 1 of 4, 25%") for line in lines)
    assert lines[-1].startswith("Relax: succeeded in 0:0")
    awaited = kernel.run(f"{head}await jobs.submit(Relax(profile='pocket')).result()", looked_at=False)
    assert "Relax: succeeded" in "".join(part["text"] for part in of_kind(awaited, "stream"))


def test_a_job_that_a_cell_shows_follows_its_run(kernel: Kernel, shared_queue: QueueUnderTest) -> None:
    job = shared_queue.submit(steps=2, hold_at=1)
    shared_queue.worker_at(job, step=1)
    code = f"from wanavatar_lab import jobs\njobs.attach({job.id!r})"
    (content,) = of_kind(kernel.run(code, looked_at=True), "display_data")
    assert "running" in content["data"]["text/html"] and "of 2, " in content["data"]["text/plain"]
    let_go(job)
    while "succeeded" not in (change := kernel.later())["data"]["text/html"]:
        assert change["transient"]["display_id"] == content["transient"]["display_id"]
    assert str(job.run.folder / "result.npy") in change["data"]["text/plain"]
    # nothing more comes of a run that has ended, nor of one that is shown where nobody looks
    with pytest.raises(queues.Empty):
        kernel.client.get_iopub_msg(timeout=0.5)

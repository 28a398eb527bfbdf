"""The card of a run: what it shows of a real one, and what it can do to it."""

import asyncio
import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.queue_for_tests import QueueUnderTest, let_go, steps_done
from tests.ui import made_runs
from wanavatar_lab.errors import RunError
from wanavatar_lab.requests import TextToImage, Upscale
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.job_card import LOG_CHARACTERS, LOG_LINES, POLL_SECONDS, JobCard
from wanavatar_lab.ui.language import language


def followed(card: JobCard, *names: str) -> list[tuple[str, object]]:
    changes: list[tuple[str, object]] = []
    card.observe(lambda change: changes.append((change.name, change.new)), list(names))
    return changes


def test_a_run_is_followed_to_its_end(shared_queue: QueueUnderTest) -> None:
    async def follow() -> JobCard:
        card = JobCard(shared_queue.submit(steps=4, step_seconds=0.3, seed=5).id)
        changes.extend(followed(card, "state", "step"))
        status = await card.watch()
        assert status is not None and status.state == "succeeded"
        await asyncio.sleep(0)
        return card

    changes: list[tuple[str, object]] = []
    card = asyncio.run(follow())
    assert (card.state, card.steps, card.seed, card.fraction, card.error) == ("succeeded", 4, 5, 1.0, "")
    assert card.title == "Relax"
    assert card.elapsed == round(card.elapsed, 1) < 60 and not card.reveal
    assert "to standard output" in card.log
    assert card.memory_bytes


def test_nothing_is_pushed_where_nothing_changed(shared_queue: QueueUnderTest) -> None:
    job = shared_queue.submit()
    job.wait()
    card = JobCard(job.id)
    sent = followed(card, *(name for name in card.trait_names(sync=True) if not name.startswith("_")))
    assert card.look()
    assert sent == []


def test_cancel_is_acknowledged_at_once_and_ends_the_run(shared_queue: QueueUnderTest) -> None:
    async def run() -> None:
        job = shared_queue.submit(steps=1000, step_seconds=0.05)
        shared_queue.worker_at(job, step=1)
        card = JobCard(job.id)
        card.receive({"kind": "cancel"})
        assert card.cancelling  # before the worker can have answered
        await card.watch()
        assert (card.state, card.cancelling) == ("cancelled", False)
        assert steps_done(job) < 900

    asyncio.run(run())


def test_a_waiting_run_has_a_place_and_is_cancelled_at_once(shared_queue: QueueUnderTest) -> None:
    first = shared_queue.submit(hold_at=1, steps=2)
    shared_queue.worker_at(first, step=1)
    second, third = shared_queue.submit(), shared_queue.submit()
    card = JobCard(third.id)
    assert (card.state, card.queue_place) == ("queued", 2)
    card.cancel()
    assert card.look()
    assert (card.state, card.queue_place, card.cancelling) == ("cancelled", None, False)
    let_go(first)
    assert second.wait(20).state == "succeeded"


def test_another_client_that_cancels_is_seen(shared_queue: QueueUnderTest) -> None:
    job = shared_queue.submit(hold_at=1, steps=2, fault="deaf")
    shared_queue.worker_at(job, step=1)
    card = JobCard(job.id)
    job.cancel()
    card.look()
    assert card.cancelling
    let_go(job)
    job.wait(20, check=False)


def test_an_error_is_shown_in_full(shared_queue: QueueUnderTest) -> None:
    job = shared_queue.submit(fault="weights")
    job.wait(check=False)
    card = JobCard(job.id)
    assert (card.state, card.error) == ("failed", "The weights of relax are missing. Get them.")


def test_a_run_that_is_unknown_is_refused_and_one_that_goes_is_said(queue_settings: Path) -> None:
    with pytest.raises(RunError, match="There is no run"):
        JobCard("20260101-120000-ab12-relax")
    run = made_runs.ended_run(TextToImage(prompt="a face"))
    card = JobCard(run.id)
    shutil.rmtree(run.folder)
    assert card.look()
    assert card.state == "gone" and run.id in card.error


def test_a_runs_folder_that_is_away_for_a_while_is_said_and_the_run_is_followed_on(queue_settings: Path) -> None:
    run = Run.create(TextToImage(prompt="a face"))
    run.write_status(run.status().started())

    async def follow() -> None:
        with run.held():
            card = JobCard(run.id)
            watching = asyncio.ensure_future(card.watch())
            root = queue_settings.rename(queue_settings.with_name("unmounted"))
            assert not card.look()
            assert card.state == "running" and card.error.startswith(f"The runs folder {queue_settings} cannot be read")
            language.code = "ko"
            assert card.error.startswith("지금은 실행 폴더")
            await asyncio.sleep(2 * POLL_SECONDS)
            root.rename(queue_settings)
            assert not card.look()
            assert (card.state, card.error) == ("running", "")
            finish_run(run, "succeeded")
        status = await watching
        assert status is not None and (status.state, card.state) == ("succeeded", "succeeded")

    asyncio.run(follow())


def test_a_stage_without_a_seed_shows_none(queue_settings: Path, tmp_path: Path) -> None:
    run = made_runs.ended_run(Upscale(image=str(made_runs.picture(tmp_path / "a.png", side=8))))
    assert run.status().seed == 7  # as runs of before have it
    assert JobCard(run.id).seed is None
    assert JobCard(made_runs.ended_run(TextToImage(prompt="a face")).id).seed == 7


def test_the_log_is_capped(queue_settings: Path) -> None:
    run = made_runs.ended_run(TextToImage(prompt="a face"))
    (run.folder / "log.txt").write_text("\n".join(f"line {number} " + "x" * 500 for number in range(1000)))
    card = JobCard(run.id)
    assert card.log.endswith("x" * 500) and "line 999" in card.log
    assert len(card.log) <= LOG_CHARACTERS and card.log.count("\n") < LOG_LINES


def test_a_card_can_be_given_another_run(queue_settings: Path) -> None:
    first = made_runs.ended_run(TextToImage(prompt="a face"))
    second = made_runs.ended_run(TextToImage(prompt="a face"), state="failed")
    card = JobCard()
    assert (card.state, card.run_id) == ("", "")
    for run in (first, second):
        card.attach(run.id)
        assert (card.run_id, card.state) == (run.id, run.status().state)


def test_words_and_title_follow_the_language(queue_settings: Path) -> None:
    card = JobCard(Run.create(TextToImage(prompt="a face")).id)
    language.code = "ko"
    assert card.words["cancel"] == "취소" and card.lang == "ko"
    assert card.title == TextToImage.labels["ko"]
    card.close()
    language.code = "en"
    assert card.lang == "ko"


def test_a_preview_is_shown_where_a_stage_writes_one(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(queue_settings.parent))
    run = made_runs.ended_run(TextToImage(prompt="a face"))
    card = JobCard(run.id)
    assert card.preview == ""
    made_runs.picture(run.folder / "preview.png", side=32)
    card.look()
    assert card.preview == f"runs/{run.id}/preview.png"


def test_pictures_that_the_server_does_not_have_are_sent(
    queue_settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path / "elsewhere"))
    face = made_runs.picture(tmp_path / "face.png", side=64)
    run = made_runs.ended_run(Upscale(image=str(face)))
    card = JobCard(run.id)
    assert (card.pictured, card.thumbnail) == (True, "")
    made_runs.picture(run.folder / "preview.png", side=32)
    card.look()
    assert card.preview == "" and card.preview_version
    for asked, side in ((f"picture {run.id}", 64), (f"preview {card.preview_version}", 32)):
        sent: list[tuple[dict[str, object], list[bytes]]] = []
        monkeypatch.setattr(card, "send", lambda content, buffers=None, sent=sent: sent.append((content, buffers)))
        card.receive({"kind": "thumbnail", "id": asked})
        ((content, buffers),) = sent
        assert content == {"kind": "thumbnail", "id": asked, "type": "image/jpeg"}
        assert Image.open(io.BytesIO(buffers[0])).size == (side, side)

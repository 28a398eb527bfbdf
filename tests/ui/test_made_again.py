"""What was made once is made again, with runs of the pocket models: by its seed, by another, from the gallery."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.queue_for_tests import QueueUnderTest
from tests.ui.looking import named, until
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.gallery_panel import GalleryPanel
from wanavatar_lab.ui.panel import Panel

PROMPT = "a woman with red hair and a green sweater, blue background"


@pytest.fixture(autouse=True, scope="module")
def served(shared_queue: QueueUnderTest) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_SERVER_ROOT", str(shared_queue.runs_dir.parent))
        yield shared_queue.runs_dir.parent


@pytest.fixture(scope="module")
def drawn(served: Path) -> tuple[Panel, Run]:
    """A panel whose run has drawn its seed, and that run."""
    panel = Panel(TextToImage, prompt=PROMPT, num_inference_steps=2)
    asyncio.run(panel.run())
    assert panel.job is not None
    return panel, panel.job.run


def newest_bytes(before: Run) -> bytes:
    """The picture of the newest run, once it has ended."""
    job = list_jobs()[0]
    assert job.id != before.id and job.wait(60).state == "succeeded", job.status().error
    return (job.run.folder / "picture.png").read_bytes()


def test_the_seed_that_was_drawn_is_offered_by_the_form_and_makes_the_same_bytes(drawn: tuple[Panel, Run]) -> None:
    panel, run = drawn
    seed = run.status().seed
    assert panel.form.values()["seed"] == -1 and seed is not None
    named(panel, "Last seed").click()
    assert panel.form.values()["seed"] == seed
    made = asyncio.run(panel.run())
    assert made[0].read_bytes() == (run.folder / "picture.png").read_bytes()


def test_run_again_makes_the_same_bytes_and_a_new_seed_makes_others(drawn: tuple[Panel, Run]) -> None:
    run = drawn[1]
    gallery = GalleryPanel()
    gallery.gallery.receive({"kind": "again", "run": run.id})
    assert newest_bytes(run) == (run.folder / "picture.png").read_bytes()
    gallery.gallery.receive({"kind": "new_seed", "run": run.id})
    assert newest_bytes(run) != (run.folder / "picture.png").read_bytes()
    assert list_jobs()[0].run.request() == run.request()  # but for the seed, which is drawn anew
    gallery.gallery.receive({"kind": "change", "run": run.id})
    assert gallery.panel is not None and gallery.panel.form.values()["seed"] == run.status().seed
    gallery.close()


def test_the_seed_is_offered_as_soon_as_it_is_drawn(drawn: tuple[Panel, Run]) -> None:
    async def person() -> None:
        panel = Panel(TextToImage, prompt=PROMPT, num_inference_steps=2, seed=-1)
        assert named(panel, "Last seed").disabled
        named(panel, "Run").click()
        await until(lambda: not named(panel, "Last seed").disabled)
        assert panel.job is not None
        assert named(panel, "Last seed").tooltip == str(panel.job.run.status().seed)
        await until(lambda: panel.artifact, 60)

    asyncio.run(person())

"""What was made once is made again, with runs of the pocket models: by its seed, by another, from the gallery."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.queue_for_tests import QueueUnderTest
from tests.ui.looking import everything, named, until
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.requests import TextToImage, Upscale
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.gallery_panel import GalleryPanel
from wanavatar_lab.ui.history import History, Strip
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.page import Page
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.player import Compare

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


def histories(panel: Panel) -> list[History]:
    return [each for each in everything(panel) if isinstance(each, History)]


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


def test_the_strip_has_each_run_with_its_seed_and_brings_its_result_and_settings_back(
    drawn: tuple[Panel, Run],
) -> None:
    run = drawn[1]
    panel = Panel(TextToImage, prompt="another one", num_inference_steps=2, seed=5)
    (history,) = histories(panel)
    runs = [job.run for job in list_jobs()]
    assert [item["id"] for item in history.items] == [each.id for each in runs]
    assert [item["seed"] for item in history.items] == [each.status().seed for each in runs]
    item = next(item for item in history.items if item["id"] == run.id)
    assert (item["title"], item["settings"]) == (PROMPT, "Steps 2")
    assert item["path"] == f"runs/{run.id}/picture.png"
    history.receive({"kind": "choose", "run": run.id})
    (card,) = panel.cards
    (result,) = [each for each in everything(panel) if isinstance(each, Compare)]  # it was enlarged, too
    assert (card.run_id, card.state) == (run.id, "succeeded")
    assert (result.before, result.after) == (f"runs/{run.id}/picture.png", f"runs/{run.id}/upscaled.png")
    assert panel.artifact is None  # it is no run of this panel
    history.receive({"kind": "reuse_seed", "run": run.id})
    assert panel.form.values()["prompt"] == "another one" and panel.form.values()["seed"] == run.status().seed
    history.receive({"kind": "settings", "run": run.id})
    assert panel.form.request() == run.repeatable_request()
    language.code = "ko"
    item = next(item for item in history.items if item["id"] == run.id)
    assert item["settings"] == "스텝 수 2"
    language.code = "en"
    panel.close()


def test_a_result_of_the_strip_is_used_in_another_stage_in_its_larger_size(drawn: tuple[Panel, Run]) -> None:
    run = drawn[1]

    async def person() -> None:
        page = Page()
        panel = page.open_panel("text_to_image")
        panel._look.drawn = True  # as the page says
        await until(lambda: histories(panel))
        (history,) = histories(panel)
        stages = [use["stage"] for use in history.uses["picture"] if use["stage"] != "relax"]  # which tests add
        assert stages == ["upscale", "image_to_video", "speech_to_video"]
        item = next(item for item in history.items if item["id"] == run.id)
        assert (item["path"], item["link"]) == (f"runs/{run.id}/picture.png", f"runs/{run.id}/upscaled.png")
        history.receive({"kind": "use", "run": run.id, "stage": "image_to_video"})
        assert page.stage_in_use == "image_to_video" and history.notice == ""
        assert page.open_panel("image_to_video").form.values()["image"] == str(run.folder / "upscaled.png")
        history.receive({"kind": "use", "run": run.id, "stage": "nowhere"})
        assert "'nowhere', which this page does not have" in history.notice
        page.close()

    asyncio.run(person())
    (alone,) = histories(Panel(TextToImage))  # whose form takes no picture
    assert alone.uses == {"picture": [], "video": [], "audio": []}


def test_from_the_strip_the_same_bytes_are_made_and_the_first_result_stays_until_then(
    drawn: tuple[Panel, Run],
) -> None:
    run = drawn[1]

    async def person() -> None:
        panel = Panel(TextToImage, prompt="another one", num_inference_steps=2)
        panel._look.drawn = True  # as the page says; before that it draws what it has
        await until(lambda: histories(panel))
        (history,) = histories(panel)
        history.receive({"kind": "choose", "run": run.id})
        history.receive({"kind": "again", "run": run.id})
        await until(lambda: panel.job is not None)
        assert panel.job is not None
        assert panel.run_ids == [panel.job.id, run.id]
        await until(lambda: panel.artifact, 60)
        assert panel.artifact is not None
        assert panel.artifact.read_bytes() == (run.folder / "picture.png").read_bytes()
        assert panel.run_ids == [panel.job.id] and history.chosen == panel.job.id == history.items[0]["id"]
        panel.close()

    asyncio.run(person())


def test_an_earlier_result_is_chosen_as_a_file_by_its_thumbnail(drawn: tuple[Panel, Run]) -> None:
    run = drawn[1]
    form = Form(Upscale)
    named(form, "Picture").value = "earlier"
    (strip,) = [each for each in everything(form) if isinstance(each, Strip) and each.label == "earlier"]
    (item,) = [item for item in strip.items if item["id"] == str(run.folder / "picture.png")]
    assert (item["seed"], item["title"]) == (run.status().seed, f"picture.png · {PROMPT}")
    labels = [label for label, path in named(form, "Picture: Earlier result").options if path == item["id"]]
    assert len(labels) == 1 and f"seed {run.status().seed}" in labels[0]
    strip.chosen = item["id"]  # as the page does
    assert form.values()["image"] == item["id"] == named(form, "Picture: Earlier result").value
    form.take(str(run.folder / "picture.png"))
    assert strip.chosen in ("", item["id"])


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

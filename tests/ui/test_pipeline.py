"""The form of all stages in a row: real runs of untrained networks of the true classes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.queue_for_tests import REPOSITORY, QueueUnderTest, use_queue
from tests.ui import made_runs
from tests.ui.looking import alerts, everything, named, until
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.jobs import list_jobs, pause, resume
from wanavatar_lab.pipeline import Link
from wanavatar_lab.pipeline.chain import Chain
from wanavatar_lab.requests import Upscale
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.pipeline import Pipeline
from wanavatar_lab.ui.player import Compare
from wanavatar_lab.ui.widget import Look

PATIENCE = 240.0  # seconds; only a failing test waits so long


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, every_toy: Path) -> Iterator[Path]:
    """A folder that is served, with a queue of its own, and toy weights."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "pocket").mkdir()
        shipped = REPOSITORY / "weights" / "pocket"
        for part in [*(every_toy / "pocket").iterdir(), shipped / "upscale", shipped / "text_to_speech"]:
            (folder / "pocket" / part.name).symlink_to(part)
        patch.setenv("WANAVATAR_WEIGHTS", str(folder))
        queue = QueueUnderTest(use_queue(patch, folder / "runs", idle_seconds=60))
        patch.setenv("WANAVATAR_SERVER_ROOT", str(folder))
        made_runs.sound(folder / "voice.wav", seconds=0.5)
        made_runs.picture(folder / "face.png", side=64)
        yield folder
        queue.close()


def form(served: Path, **values: Any) -> Pipeline:
    given: dict[str, Any] = {
        "prompt": "a man",
        "motion_prompt": "he nods",
        "audio": str(served / "voice.wav"),
        "seed": 1,
    }
    return Pipeline(**(given | values))


def states(pipeline: Pipeline) -> list[str]:
    return [step["state"] for step in pipeline.steps.steps]


def jobs_of(pipeline: Pipeline) -> list[str]:
    return [pipeline.made[link.file].job.id for link in pipeline.links]


def large(pipeline: Pipeline) -> list[str]:
    (shown,) = pipeline._large.children
    return [shown.before, shown.after] if isinstance(shown, Compare) else shown.paths


@pytest.mark.slow  # two times all stages
def test_all_stages_run_and_each_can_be_changed_and_repeated(served: Path) -> None:
    pipeline = form(served)

    async def person() -> None:
        named(pipeline, "Run all stages").click()
        await until(lambda: pipeline.steps.busy)
        assert named(pipeline, "Running…").disabled
        await until(lambda: pipeline.artifact and not pipeline.steps.busy, PATIENCE)
        assert states(pipeline) == ["succeeded"] * 5
        kinds = [step["kind"] for step in pipeline.steps.steps]
        assert kinds == ["picture", "picture", "video", "audio", "video"]
        assert [step["seed"] for step in pipeline.steps.steps] == [1, None, 1, None, 1]
        assert pipeline.steps.steps[3]["title"] == "Your recording"
        assert [path.name for path in pipeline.artifacts] == [
            "picture.png",
            "upscaled.png",
            "moving.mp4",
            "talking.mp4",
        ]
        first = jobs_of(pipeline)
        assert pipeline.steps.chosen == 4 and large(pipeline) == [f"runs/{first[3]}/talking.mp4"]
        pipeline.steps.chosen = 1
        assert large(pipeline) == [f"runs/{first[0]}/picture.png", f"runs/{first[1]}/upscaled.png"]

        # nothing takes its result, so that the others stay
        pipeline.steps.receive({"kind": "again"})
        await until(lambda: pipeline.steps.busy)
        assert states(pipeline)[2:] == ["succeeded"] * 3 and pipeline.steps.steps[1]["path"] == ""
        pipeline.steps.receive({"kind": "change"})
        assert not pipeline._change.children  # while something runs nothing can be changed
        await until(lambda: not pipeline.steps.busy, PATIENCE)
        second = jobs_of(pipeline)
        assert [second[at] == first[at] for at in range(4)] == [True, False, True, True]

        # and what takes its result is made again
        pipeline.steps.chosen = 0
        pipeline.steps.receive({"kind": "change"})
        (of_stage,) = [each for each in everything(pipeline._change) if isinstance(each, Form)]
        assert of_stage.values()["prompt"] == "a man"
        of_stage.set(prompt="an old man", seed=-1)
        named(pipeline, "Run this stage and what follows").click()
        await until(lambda: pipeline.steps.busy)
        assert states(pipeline)[1:] == ["pending", "pending", "succeeded", "pending"]
        await until(lambda: not pipeline.steps.busy, PATIENCE)
        assert not set(jobs_of(pipeline)) & set(second)
        of_first = pipeline.made["picture.png"].job.run.request().to_json()
        assert of_first["prompt"] == "an old man"
        assert [step["seed"] for step in pipeline.steps.steps][1:] == [None, 1, None, 1]
        assert pipeline.form.values()["prompt"] == "a man"
        record = pipeline.record()
        assert all(run_id in record.html for run_id in jobs_of(pipeline))

    asyncio.run(person())


def test_a_picture_and_a_script_are_given_and_a_stage_that_is_cancelled_is_said(served: Path) -> None:
    given = {"picture": str(served / "face.png"), "script": "Hello"}
    pipeline = form(served, prompt=None, audio=None, **given)
    before = len(list_jobs())

    async def person() -> None:
        running = asyncio.create_task(pipeline.run())
        await until(lambda: states(pipeline)[1] == "succeeded", PATIENCE)
        assert pipeline.steps.steps[0]["path"] == "face.png" and not pipeline.steps.steps[0]["ready"]
        language.code = "ko"
        assert pipeline.steps.steps[0]["title"] == "내 이미지"
        await until(lambda: states(pipeline)[2] in ("queued", "running"))
        pipeline.steps.receive({"kind": "cancel"})
        with pytest.raises(LabError, match="image_to_video was cancelled"):
            await running
        assert states(pipeline) == ["succeeded", "succeeded", "cancelled", "pending", "pending"]
        assert pipeline.steps.chosen == 2
        assert [path.name for path in pipeline.artifacts] == ["upscaled.png"]
        pipeline.steps.chosen = 0
        assert large(pipeline) == ["face.png"]
        # it goes on from there
        pipeline.steps.chosen = 2
        assert pipeline.steps.steps[2]["ready"]
        pipeline.again(2)
        await until(lambda: states(pipeline)[2] in ("queued", "running"))

    asyncio.run(person())
    pipeline.close()  # and the stages go on without it: what followed them ended with the loop

    async def later() -> None:
        again = Pipeline()
        following = asyncio.create_task(again.attach())
        await until(lambda: again.steps.busy)
        assert states(again)[:2] == ["succeeded"] * 2 and again.steps.steps[0]["path"] == "face.png"
        assert again.steps.steps[1]["kind"] == "picture"
        await following
        assert states(again) == ["succeeded"] * 5 and again.steps.steps[3]["kind"] == "audio"
        names = ["upscaled.png", "moving.mp4", "voice.wav", "talking.mp4"]
        assert [path.name for path in again.artifacts] == names
        assert again.made["talking.mp4"].job.run.manifest()["parents"] == [again.made["voice.wav"].job.id]
        another = Pipeline()
        await another.attach()  # the end was seen
        assert states(another) == ["pending"] * 5

    asyncio.run(later())
    assert len(list_jobs()) == before + 5


def test_the_chain_of_another_page_is_shown_and_keeps_nobody_from_their_own(served: Path) -> None:
    pause()
    other = Chain.start([Link("upscaled.png", Upscale(profile="pocket", image=str(served / "face.png")))])

    async def person() -> None:
        pipeline = form(served)
        for each in everything(pipeline):
            if isinstance(each, Look):
                each.set_state({"drawn": True})  # as the page says
        await until(lambda: states(pipeline)[1] == "queued")
        named(pipeline, "Run all stages").click()
        await until(lambda: states(pipeline)[:2] == ["queued", "pending"])
        assert named(pipeline, "Running…").disabled
        with pytest.raises(LabError, match="The stages run already"):
            await pipeline.run()
        pipeline.steps.receive({"kind": "cancel"})
        await until(lambda: states(pipeline)[0] == "cancelled" and not pipeline.steps.busy)

    asyncio.run(person())
    resume()
    (made,) = asyncio.run(other.follow(lambda _: None))
    assert made.path.name == "upscaled.png"


def test_what_is_wrong_stands_at_its_field_and_nothing_is_queued(served: Path) -> None:
    before = len(list_jobs())
    pipeline = Pipeline(audio=str(served / "voice.wav"))
    named(pipeline, "Run all stages").click()
    assert "is required, unless a picture is given" in alerts(pipeline)
    language.code = "zh"
    assert "未提供图片时为必填项" in alerts(pipeline)
    language.code = "en"
    pipeline.form.set(prompt="a man", profile="full")
    with pytest.raises(RequestError, match=r"Wan2\.2-S2V-14B"):
        asyncio.run(pipeline.run())
    assert "FLUX.2-klein-9B" in alerts(pipeline)
    assert len(list_jobs()) == before and states(pipeline) == ["pending"] * 5

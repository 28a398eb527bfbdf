"""A chain with a card for each stage, in real runs of the test stage."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.queue_for_tests import QueueUnderTest, let_go
from tests.stages_for_tests import Relax
from tests.ui.looking import until
from wanavatar_lab.errors import LabError
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.pipeline import Link
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.pipeline_cards import PipelineCards, follow

LINKS = (
    Link("a.npy", Relax(profile="pocket", seed=1, hold_at=1)),
    Link("b.npy", Relax(profile="pocket", seed=1), {"start": "a.npy"}),
)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What a cell displays."""
    shown: list[Any] = []

    monkeypatch.setattr("IPython.display.display", shown.append)
    yield shown
    for thing in shown:
        if isinstance(thing, PipelineCards):
            thing.close()


def cards_of(displayed: list[Any]) -> PipelineCards:
    (cards,) = [thing for thing in displayed if isinstance(thing, PipelineCards)]
    return cards


def test_each_stage_has_a_card_from_the_beginning(shared_queue: QueueUnderTest, displayed: list[Any]) -> None:
    async def person() -> None:
        made = asyncio.create_task(follow(LINKS, True))
        await until(lambda: displayed and cards_of(displayed).children[0].state == "running")
        first, second = (child for child in cards_of(displayed).children if isinstance(child, JobCard))
        assert (second.state, second.run_id, second.title) == ("pending", "", Relax.labels["en"])
        language.code = "ko"
        assert (second.title, second.words["pending"]) == (Relax.labels["ko"], "이전 단계 대기")
        job = first.job
        assert job is not None
        await until(lambda: first.steps == job.run.request().to_json()["steps"])
        let_go(job)
        assert [one.link.file for one in await made] == ["a.npy", "b.npy"]
        await until(lambda: second.state == "succeeded")
        assert [card.run_id for card in (first, second)] == [one.job.id for one in made.result()]

    asyncio.run(person())


def test_a_run_that_is_cancelled_on_its_card_ends_the_chain(shared_queue: QueueUnderTest, displayed: list[Any]) -> None:
    async def person() -> None:
        made = asyncio.create_task(follow(LINKS, True))
        await until(lambda: displayed and cards_of(displayed).children[0].state == "running")
        cards = cards_of(displayed)
        first, _ = cards.children
        first.receive({"kind": "cancel"})
        with pytest.raises(LabError, match="relax was cancelled"):
            await made
        await until(lambda: first.state == "cancelled")
        assert list(cards.children) == [first]  # the turn of the second does not come any more

    before = len(list_jobs())
    asyncio.run(person())
    assert len(list_jobs()) == before + 1


def test_where_nobody_looks_on_lines_are_printed(
    shared_queue: QueueUnderTest, displayed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    links = [Link("a.npy", Relax(profile="pocket", seed=1))]
    asyncio.run(follow(links, False))
    assert capsys.readouterr().out.splitlines()[-1].startswith("relax: done in ")
    assert displayed == []

"""A pipeline of stages in a notebook: a card for each, in order, while they run.

made = await follow(links, interactive)
"""

from collections.abc import Sequence

from wanavatar_lab import pipeline
from wanavatar_lab.jobs import Job
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.widget import LabBox


class PipelineCards(LabBox):
    """A card for each link of a pipeline; those that have not started are pending.

    Args:
        links: of the pipeline.
    """

    def __init__(self, links: Sequence[pipeline.Link]) -> None:
        self._cards = [JobCard(stage=link.request.stage) for link in links]
        super().__init__(self._cards)

    def attach(self, index: int, job: Job) -> None:
        """Show the run of a link, and follow it."""
        self._cards[index].attach(job.id)

    def end(self) -> None:
        """Remove the cards of links that will not run any more."""
        self.children = [card for card in self._cards if card.run_id]
        for card in self._cards:
            if not card.run_id:
                card.close()


async def follow(links: Sequence[pipeline.Link], interactive: bool) -> list[pipeline.Made]:
    """Run the links and show their progress.

    Args:
        links: each takes only what earlier ones make.
        interactive: whether a person looks at the notebook, and gets cards; otherwise lines for a log are printed.

    Raises:
        RequestError, LabError: as `pipeline.follow`.
    """
    if not interactive:
        return await pipeline.follow(links, pipeline.on_progress())
    from IPython.display import display  # only a kernel has it

    cards = PipelineCards(links)
    display(cards)
    try:
        return await pipeline.follow(links, lambda _: None, cards.attach)  # the cards follow the runs by themselves
    finally:
        cards.end()
        await cards.keep()

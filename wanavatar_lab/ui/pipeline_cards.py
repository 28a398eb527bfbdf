"""A chain of stages as a notebook shows it: a card for each, from the first to the last, while they are made.

made = await follow(links, interactive)
"""

from collections.abc import Sequence

import ipywidgets as widgets

from wanavatar_lab import pipeline
from wanavatar_lab.jobs import Job
from wanavatar_lab.ui.job_card import JobCard


class ChainCards(widgets.VBox):
    """A card for each link; those whose turn has not come say so.

    Args:
        links: of the chain.
    """

    def __init__(self, links: Sequence[pipeline.Link]) -> None:
        self._cards = [JobCard(stage=link.request.stage) for link in links]
        super().__init__(self._cards)

    def attach(self, index: int, job: Job) -> None:
        """Show the run of a link, and follow it."""
        self._cards[index].attach(job.id)

    def end(self) -> None:
        """Take the cards away whose turn will not come."""
        idle = [card for card in self._cards if not card.run_id]
        self.children = [card for card in self._cards if card.run_id]
        for card in idle:
            card.close()

    def close(self) -> None:
        """Take all cards away. A run that is under way goes on."""
        for card in self.__dict__.get("_cards", ()):  # __del__ calls this too, also for one whose __init__ raised
            card.close()
        super().close()


async def follow(links: Sequence[pipeline.Link], interactive: bool) -> list[pipeline.Made]:
    """Make what the links ask for, as `chain.follow`, and show it.

    Args:
        links: each takes only what earlier ones make.
        interactive: whether someone looks at the notebook, and gets cards; otherwise lines for a log are printed.

    Raises:
        RequestError, LabError: as `chain.follow`.
    """
    if not interactive:
        return await pipeline.follow(links, pipeline.on_progress())
    from IPython.display import display  # only a kernel has use for it

    cards = ChainCards(links)
    display(cards)
    try:
        return await pipeline.follow(links, lambda _: None, cards.attach)  # the cards look for themselves
    finally:
        cards.end()

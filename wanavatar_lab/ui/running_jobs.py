"""Cards of all runs that wait or are being executed, whoever submitted them: what a page shows after a reload."""

import asyncio

import ipywidgets

from wanavatar_lab.errors import RunError
from wanavatar_lab.runs.run import runs_folder
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.tasks import loop_runs, start
from wanavatar_lab.worker.queue import RunQueue

MOST_CARDS = 8
LOOK_SECONDS = 1.0


class Ongoing(ipywidgets.VBox):
    """A card per run, in the order in which they start; the card of a run that has ended stays until `clear`."""

    def __init__(self) -> None:
        self._cards: dict[str, JobCard] = {}
        self._ended = False
        super().__init__()
        self.look()
        if loop_runs():
            start(self._keep_looking())

    def look(self) -> None:
        """Take in runs that were submitted since; cards of runs that ended go where there are too many."""
        waiting = RunQueue(runs_folder()).run_ids()[:MOST_CARDS]
        new = [run_id for run_id in waiting if run_id not in self._cards]
        for run_id in new:
            try:
                self._cards[run_id] = JobCard(run_id)
            except RunError:
                continue  # its ticket is written before its folder has its name: the next look finds it
        ended = [run_id for run_id in self._cards if run_id not in waiting]
        for run_id in ended[: max(0, len(self._cards) - MOST_CARDS)]:
            self._cards.pop(run_id).close()
        if new or ended:  # the same ones again send nothing
            self.children = tuple(self._cards.values())

    def clear(self) -> None:
        """Take the cards of runs that have ended away."""
        for run_id in [run_id for run_id, card in self._cards.items() if card.state not in ("queued", "running")]:
            self._cards.pop(run_id).close()
        self.children = tuple(self._cards.values())

    def close(self) -> None:
        """End the widget and its cards."""
        self._ended = True
        for card in getattr(self, "_cards", {}).values():
            card.close()
        super().close()

    async def _keep_looking(self) -> None:
        while not self._ended:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

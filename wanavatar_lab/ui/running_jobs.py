"""Cards of all runs that are queued or running, of any client: what a page shows after a reload."""

from wanavatar_lab.errors import RunError
from wanavatar_lab.runs.run import runs_folder
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.tasks import repeat
from wanavatar_lab.ui.widget import LabBox
from wanavatar_lab.worker.queue import Lane

MOST_CARDS = 8  # each is read from the disk five times a second
LOOK_SECONDS = 1.0


class RunningJobs(LabBox):
    """A card per run, in the order of the queue; the card of a run that has ended stays until `clear`."""

    def __init__(self) -> None:
        self._cards: dict[str, JobCard] = {}
        super().__init__()
        self.look()
        repeat(self.look, LOOK_SECONDS, self)

    def look(self) -> None:
        """Add runs that were submitted since; where there are too many cards, those of runs that ended are removed."""
        waiting = Lane(runs_folder()).queue()[:MOST_CARDS]
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
        """Remove the cards of runs that have ended."""
        for run_id in [run_id for run_id, card in self._cards.items() if not card.active]:
            self._cards.pop(run_id).close()
        self.children = tuple(self._cards.values())

"""The queue on a page: the runs of all clients in their order, which can be changed, and a pause.

QueueView()               # in a notebook: shows it

Order and pause are on disk (`worker/queue.py`): every page, notebook and shell sees and changes the same.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets

from wanavatar_lab import jobs
from wanavatar_lab.errors import RunError
from wanavatar_lab.runs.run import Run, runs_folder
from wanavatar_lab.ui.elements import bare
from wanavatar_lab.ui.job_card import JobCard, about
from wanavatar_lab.ui.language import language, read_words, stage_name
from wanavatar_lab.ui.messages import noticed
from wanavatar_lab.ui.served_files import served_path
from wanavatar_lab.ui.widget import LabBox, LabWidget, Look, repeat, script, styles
from wanavatar_lab.worker.queue import RunQueue

MOST_CARDS = 8  # of the run that is running and of those that failed, whose reason stands only there
MOST_ROWS = 100  # of runs that wait; a sweep may have more
LOOK_SECONDS = 1.0
WORDS = read_words(__file__, "queue_view")


class WaitingRuns(LabWidget):
    """The runs that wait, one in a row: moved by buttons, by Alt with an arrow key or Home, and by dragging.

    Args:
        changed: called after each change by a person.

    Attributes:
        runs: the rows, as the page needs them.
        notice: the last error.
        reveal: the page scrolls to the last run, once.
    """

    _esm = script("waiting_runs")
    _css = styles("waiting_runs")
    WORDS = WORDS

    runs: traitlets.List[Any] = traitlets.List().tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)
    reveal = traitlets.Bool(False).tag(sync=True)

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed, self._ids = changed, list[str]()
        self._known: dict[str, dict[str, Any]] = {}
        super().__init__()

    def show(self, ids: Sequence[str]) -> None:
        """Show these runs, which are read once: what a run was submitted with does not change."""
        self._ids = [*ids]
        known = {run_id: self._known.get(run_id) or _row(Run(runs_folder() / run_id)) for run_id in ids}
        self._known = {run_id: row for run_id, row in known.items() if row is not None}
        self.runs = [{**row, "title": stage_name(row["stage"])} for row in self._known.values()]

    def show_words(self) -> None:
        """Put every text into the language shown, also the names of stages."""
        super().show_words()
        self.show(self._ids)

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Move or cancel a run."""
        with noticed(self):  # as that it has just started, or another client cancelled it
            job = jobs.attach(str(content.get("run", "")))
            if content.get("kind") == "move":
                job.move(str(content.get("to", "")))
            elif content.get("kind") == "cancel":
                job.cancel()
        self._changed()


def _row(run: Run) -> dict[str, Any] | None:
    """A run as the page needs it; None where its folder is not there yet, or damaged."""
    with suppress(RunError):
        seed = run.read_json("request.json").get("seed", -1)
        prompt, picture = about(run)
        thumbnail = served_path(picture)
        return {"id": run.id, "stage": run.stage, "prompt": prompt, "thumbnail": thumbnail, "seed": seed}
    return None


class QueueView(LabBox):
    """The queue of all clients: the card of the run that is running, the waiting ones in their order, a pause, and what
    cancels all.

    The card of a run that failed stays while there is room; the others end up in the gallery.

    Args:
        elsewhere: the runs that the page shows elsewhere, which are left out here.
    """

    def __init__(self, elsewhere: Callable[[], Collection[str]] = tuple) -> None:
        self._elsewhere = elsewhere
        self._seen: list[str] = []  # the runs of the queue that were shown, in their order
        self._paused = False
        self._reveal = ""  # a run whose card is revealed once it has one
        self._cards: dict[str, JobCard] = {}
        self._count, self._place = bare(widgets.HTML), bare(widgets.VBox)
        self._pause, self._cancel = bare(widgets.Button), bare(widgets.Button)
        buttons = bare(widgets.HBox, "wl-queue-buttons", children=[self._pause, self._cancel])
        # with a layout of its own, since it is hidden while the queue is empty
        self._head = widgets.HBox([self._count, buttons], _dom_classes=["wl-queue-head"])
        self._pause.on_click(lambda _: self._pressed(lambda: self.pause(not self._paused)))
        self._cancel.on_click(lambda _: self._pressed(self.cancel_all))
        self.waiting = WaitingRuns(self.look)
        parts = [Look(), self._head, self._place, self.waiting]
        super().__init__(parts, _dom_classes=["wl-queue"])
        self.look()
        repeat(self.look, LOOK_SECONDS, self)

    @property
    def cards(self) -> tuple[JobCard, ...]:
        """The cards shown."""
        return tuple(self._cards.values())

    @property
    def count(self) -> int:
        """How many runs of the queue are shown."""
        return len(self._seen)

    def look(self) -> None:
        """Show what has changed on the disk."""
        queue, elsewhere = RunQueue(runs_folder()), self._elsewhere()
        waiting = [run_id for run_id in queue.waiting() if run_id not in elsewhere]
        # a run that has just ended keeps its ticket until the supervisor has heard of it
        seen = [each for each in queue.run_ids() if each not in elsewhere and (each in waiting or not _ended(each))]
        gone = [run_id for run_id in self._seen if run_id not in seen and run_id not in elsewhere]
        for run_id in [each for each in seen if each not in waiting] + [each for each in gone if _failed(each)]:
            self._add(run_id)
        for run_id, card in [*self._cards.items()]:
            done = run_id not in seen and card.look()
            room = card.state == "failed" and len(self._cards) <= MOST_CARDS
            if run_id in elsewhere or run_id in waiting or (done and not room):
                self._cards.pop(run_id).close()
        if self._place.children != self.cards:  # the same ones again send nothing
            self._place.children = self.cards
        self.waiting.show(waiting[:MOST_ROWS])
        paused = queue.is_paused()
        if (seen, paused) != (self._seen, self._paused):
            self._seen, self._paused = seen, paused
            self.show_words()

    def reveal(self, run_id: str) -> None:
        """Show a run that was just submitted, and let the page scroll to it."""
        self._reveal = run_id
        self.look()
        self.waiting.reveal = run_id in self._seen and run_id not in self._cards

    def pause(self, wanted: bool = True) -> None:
        """Let no run of the queue start until this is called with False; a running one goes on."""
        (jobs.pause if wanted else jobs.resume)()
        self.look()

    def cancel_all(self) -> None:
        """Cancel every run that is shown here, the last one first, so that none starts meanwhile."""
        for run_id in reversed(self._seen):
            with suppress(RunError):  # it was deleted since
                if run_id in self._cards:
                    self._cards[run_id].cancel()
                else:
                    jobs.attach(run_id).cancel()
        self.look()

    def show_words(self) -> None:
        """Say in the language shown how many runs there are, and whether they may start."""
        count = len(self._seen)
        key = "one" if count == 1 else "more" if count > MOST_ROWS else "many"
        parts = [f"<strong>{escape(WORDS.text(key, count=count, shown=MOST_ROWS))}</strong>"] if count else []
        parts += [f'<span class="wl-queue-paused">{escape(WORDS.text("paused"))}</span>'] if self._paused else []
        self._count.value = f'<div lang="{language.code}" role="status">{" ".join(parts)}</div>'
        self._pause.description = WORDS.text("resume" if self._paused else "pause")
        self._cancel.description = WORDS.text("cancel_all")
        self._cancel.disabled = not count
        self._head.layout.display = None if count or self._paused else "none"

    def _pressed(self, act: Callable[[], object]) -> None:
        with noticed(self.waiting):  # as that a runs folder is not writable
            act()

    def _add(self, run_id: str) -> None:
        if run_id not in self._cards:
            with suppress(RunError):  # its ticket is written before its folder has its name: the next look finds it
                self._cards[run_id] = JobCard(run_id, reveal=run_id == self._reveal)


def _ended(run_id: str) -> bool:
    status = Run(runs_folder() / run_id).readable_status()
    return status is not None and status.ended


def _failed(run_id: str) -> bool:
    status = Run(runs_folder() / run_id).readable_status()
    return status is not None and status.state == "failed"

"""Several runs of one request that differ in their seeds, as one strip of thumbnails that fills while they run.

runs = submit_batch(request, 4)
Batch(runs)                # in a notebook: shows it
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from html import escape
from typing import Annotated, Any

import ipywidgets as widgets

from wanavatar_lab.errors import RunError
from wanavatar_lab.jobs import Job
from wanavatar_lab.requests import Request, fields_of
from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.requests.fields import LARGEST_SEED
from wanavatar_lab.requests.request import Described, must_be
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.elements import bare
from wanavatar_lab.ui.fields import NumberControl
from wanavatar_lab.ui.history import Strip, Thumbnail, thumbnail
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.messages import noticed
from wanavatar_lab.ui.record import Record, joined, record_of_run
from wanavatar_lab.ui.sweep import sweep
from wanavatar_lab.ui.widget import LabBox, repeat

MOST_RUNS = 32  # thumbnails that a person still looks through; a sweep may have more
LOOK_SECONDS = 0.5
WORDS = read_words(__file__, "batch")


class _Size(Described):
    count: Annotated[int, spec("How many", ge=1, le=MOST_RUNS)] = 1


class HowMany(NumberControl):
    """The field beside the button of a form: how many runs it queues, each with a seed of its own."""

    def __init__(self, request_class: type[Request]) -> None:
        super().__init__(fields_of(_Size)["count"], request_class)
        self.value = 1
        self.on_change(self._check)

    @property
    def allowed(self) -> bool:
        """Whether the number can be used; below the field stands why not."""
        return self.value in range(1, MOST_RUNS + 1)

    def _check(self) -> None:
        self.error = "" if self.allowed else must_be(self.view.allowed, self.value)


def seeds_from(first: int, count: int) -> list[int]:
    """Seeds that differ: `first` and those that follow it, or drawn ones where that is -1."""
    if first < 0:
        return secrets.SystemRandom().sample(range(LARGEST_SEED + 1), count)
    return [(first + index) % (LARGEST_SEED + 1) for index in range(count)]


def submit_batch(request: Request, count: int) -> list[Job]:
    """Queue `count` runs of a request with a seed, each with another one; all or none.

    Raises:
        RequestError, LabError: as `jobs.submit`.
    """
    seed: int = request.seed  # type: ignore[attr-defined]  # of requests that have one
    return [*sweep(request, seed=seeds_from(seed, count)).jobs]


class Batch(LabBox):
    """Runs in one strip: thumbnails of those that have ended, the state of the others; and what cancels the rest.

    Args:
        jobs: the runs.
        chosen: called with a run that has ended when a person chooses its thumbnail.
    """

    def __init__(self, jobs: Sequence[Job], chosen: Callable[[Run], object] = lambda _: None) -> None:
        self.jobs, self._chosen = list(jobs), chosen
        self._ended: dict[str, Thumbnail] = {}
        self.strip = Strip()
        self._count, self._cancel = bare(widgets.HTML), bare(widgets.Button)
        head = bare(widgets.HBox, "wl-queue-head", children=[self._count, self._cancel])
        self._cancel.on_click(lambda _: self._pressed())
        self.strip.observe(self._choose, "chosen")
        super().__init__([head, self.strip], _dom_classes=["wl-batch"])
        if not self.look():
            repeat(self.look, LOOK_SECONDS, self)

    @property
    def unfinished(self) -> list[Job]:
        """The runs that have not ended, in the order in which they will: the one that is running first."""
        left = [(job, job.run.readable_status()) for job in self.jobs if job.id not in self._ended]
        waiting = [(job, status) for job, status in left if status is not None and not status.ended]
        return [job for job, status in sorted(waiting, key=lambda each: each[1].state != "running")]

    def look(self) -> bool:
        """Show what has changed on the disk; whether all runs have ended."""
        shown = []
        for job in self.jobs:
            with suppress(RunError):  # it was deleted
                item = self._ended.get(job.id)
                if item is None:
                    status = job.status()
                    item = thumbnail(job.run, status)
                    if item.seed is None:  # it has not begun
                        seed = job.run.read_json("request.json").get("seed", -1)
                        item = replace(item, seed=None if seed < 0 else seed)
                    if status.ended:
                        self._ended[job.id] = item
                shown.append(item)
        items = [*self.strip.items]
        self.strip.show(shown)
        if self.strip.items != items:
            self.show_words()
        return len(self._ended) == len(shown)

    def cancel(self) -> None:
        """Cancel the runs that have not ended, the last one first, so that none starts meanwhile."""
        for job in reversed(self.jobs):
            with suppress(RunError):  # it was deleted
                job.cancel()
        self.look()

    def record(self) -> Record:
        """The runs with what they made."""
        return joined((record_of_run(job.run) for job in self.jobs if job.id in self._ended), across=True)

    def show_words(self) -> None:
        """Say in the language shown how many have ended; settings of thumbnails are words too."""
        count, done = len(self.strip.items), len(self._ended)
        told = f"<strong>{escape(WORDS.text('head'))}</strong> {escape(WORDS.text('done', done=done, count=count))}"
        self._count.value = f'<div lang="{language.code}" role="status">{told}</div>'
        self._cancel.description = WORDS.text("cancel")
        self._cancel.disabled = done == count

    def _pressed(self) -> None:
        with noticed(self.strip):  # as that a runs folder is not writable
            self.cancel()

    def _choose(self, change: Mapping[str, Any]) -> None:
        with noticed(self.strip):  # as that it was deleted
            if change["new"] in self._ended:
                self._chosen(Run.open(change["new"]))

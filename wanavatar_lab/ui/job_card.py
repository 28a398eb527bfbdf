"""A card that shows how far a run is, whoever submitted it, and can end it.

    card = JobCard(job.id)            # shows itself and follows the run
    status = await card.watch()       # in a cell that goes on when the run has ended

All that is shown is read from the run's folder, so a card made later, in another kernel, shows the same.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any, ClassVar

import traitlets

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Words
from wanavatar_lab.runs.status import Status
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.tasks import loop_runs, start
from wanavatar_lab.ui.widget import LabWidget, can_show, script, server_path, styles

POLL_SECONDS = 0.2
LOG_LINES, LOG_CHARACTERS = 40, 8000
PREVIEWS = ("preview.webp", "preview.png")  # a picture of the latents, where a stage writes one

WORDS = read_words(__file__, "job_card")


class JobCard(LabWidget):
    """The card of one run.

    Args:
        run_id: the run; "" shows an empty card, for `attach` later.
        stage: whose turn is to come, while there is no run.
        reveal: the page scrolls to the card, once, if that is out of sight.

    Attributes:
        state: as `Status.state`; "" or "coming" without a run, "gone" where its folder is no more.
        cancelling: from the click on Cancel until the run has ended.

    Raises:
        RunError: there is no such run.
    """

    _esm = script("job_card")
    _css = styles("job_card")
    WORDS: ClassVar[dict[str, Words]] = WORDS

    run_id = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Unicode("").tag(sync=True)
    phase = traitlets.Unicode("").tag(sync=True)
    step = traitlets.Int(None, allow_none=True).tag(sync=True)
    steps = traitlets.Int(None, allow_none=True).tag(sync=True)
    segment = traitlets.Int(None, allow_none=True).tag(sync=True)
    segments = traitlets.Int(None, allow_none=True).tag(sync=True)
    fraction = traitlets.Float(0.0).tag(sync=True)
    eta_seconds = traitlets.Float(None, allow_none=True).tag(sync=True)
    memory_bytes = traitlets.Int(None, allow_none=True).tag(sync=True)
    queue_place = traitlets.Int(None, allow_none=True).tag(sync=True)
    seed = traitlets.Int(None, allow_none=True).tag(sync=True)
    elapsed = traitlets.Float(0.0).tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    log = traitlets.Unicode("").tag(sync=True)
    preview = traitlets.Unicode("").tag(sync=True)
    preview_version = traitlets.Unicode("").tag(sync=True)
    cancelling = traitlets.Bool(False).tag(sync=True)
    reveal = traitlets.Bool(False).tag(sync=True)

    def __init__(self, run_id: str = "", *, stage: str = "", reveal: bool = False) -> None:
        self.job: jobs.Job | None = None
        self._stage = stage
        self._log_seen: tuple[int, int] | None = None
        super().__init__(reveal=reveal, state="coming" if stage else "")
        self.on_msg(self._hear)
        if run_id:
            self.attach(run_id)

    def attach(self, run_id: str) -> None:
        """Show another run from now on, and follow it where an event loop runs.

        Raises:
            RunError: there is no such run.
        """
        self.job = jobs.attach(run_id)
        self._stage, self._log_seen = self.job.run.stage, None
        with self.hold_sync():
            self.run_id, self.cancelling, self.preview, self.log = run_id, False, "", ""
            self.show_words()
        if not self.look() and loop_runs():
            start(self.watch())

    async def watch(self) -> Status | None:
        """Follow the run until it has ended, without blocking; returns its last status.

        Where the card is given another run meanwhile, the watch of this one ends.
        """
        job = self.job
        while job is not None and self.job is job and not self.look():
            await asyncio.sleep(POLL_SECONDS)
        return job.status() if job is not None and self.state != "gone" else None

    def close(self) -> None:
        """End the card; the run goes on."""
        self.job = None
        super().close()

    def cancel(self) -> None:
        """Ask for the run to end; `cancelling` says at once that it was heard."""
        if self.job is None or self.cancelling:
            return
        self.cancelling = True
        try:
            self.job.cancel()
        except (LabError, OSError) as fault:
            with self.hold_sync():
                self.cancelling, self.error = False, str(fault)

    def look(self) -> bool:
        """Read the run's folder and show what changed; whether there will be no more changes."""
        if self.job is None:
            return True
        try:
            status = self.job.status()
            log = self._new_log()
            preview = self._preview()
        except (LabError, OSError) as fault:
            # deleted, or damaged: nothing will come of it, and that is shown
            with self.hold_sync():
                self.state, self.error, self.cancelling = "gone", str(fault), False
            return True
        with self.hold_sync():
            self._show(status)
            if log is not None:
                self.log = log
            self.preview, self.preview_version = preview
        return status.ended

    def show_words(self) -> None:
        """Put every text into the language that is shown, the stage's name too."""
        super().show_words()
        known = STAGE_REQUESTS.get(self._stage)
        self.title = language.of(known.labels) if known else self._stage

    def _show(self, status: Status) -> None:
        # a trait that is set to the value it has sends nothing
        self.state = status.state
        self.phase = status.phase
        self.step, self.steps = status.step, status.steps
        self.segment, self.segments = status.segment, status.segments
        self.fraction = status.fraction
        self.eta_seconds = status.eta_seconds
        self.memory_bytes = status.memory_bytes
        self.queue_place = status.queue_place
        self.seed = status.seed
        self.error = status.error or ""
        # by the clock that wrote the times, since the page's may differ; in whole seconds while it grows
        begin = status.started_at or status.submitted_at
        if begin is None:
            self.elapsed = 0.0
        else:
            self.elapsed = round(status.finished_at - begin, 1) if status.finished_at else int(time.time() - begin)
        if status.ended:
            self.cancelling = False
        elif self.job is not None and self.job.run.cancel_requested():
            self.cancelling = True  # also where another client asked

    def _new_log(self) -> str | None:
        """The end of the log if it has grown since the last look."""
        assert self.job is not None
        facts = (self.job.run.folder / "log.txt").stat()
        if (seen := (facts.st_size, facts.st_mtime_ns)) == self._log_seen:
            return None
        self._log_seen = seen
        return self.job.run.log_tail(LOG_LINES)[-LOG_CHARACTERS:]

    def _preview(self) -> tuple[str, str]:
        assert self.job is not None
        for name in PREVIEWS:
            path = self.job.run.folder / name
            with suppress(FileNotFoundError):  # there is none, or the run has ended just now and took it away
                version = path.stat().st_mtime_ns
                if can_show(path):
                    return server_path(path), str(version)
        return "", ""

    def _hear(self, _: Any, content: dict[str, Any], __: list[memoryview]) -> None:
        if content.get("kind") == "cancel":
            self.cancel()

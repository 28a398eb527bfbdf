"""The card of a run: progress, log and preview, with a button that cancels it; any client's run can be shown.

    card = JobCard(job.id)            # shows itself and follows the run
    status = await card.watch()       # in a cell that waits until the run has ended

Everything shown is read from the run's folder, so a card made later, in another kernel, shows the same.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import traitlets

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RunError, RunsAway
from wanavatar_lab.requests import STAGE_REQUESTS, Words
from wanavatar_lab.requests.request import prompt_of
from wanavatar_lab.runs.run import Run, check_there
from wanavatar_lab.runs.status import Status
from wanavatar_lab.ui.language import read_words, shorten, stage_name
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.ui.record import Record, record_of_run
from wanavatar_lab.ui.served_files import kind_of, served_path
from wanavatar_lab.ui.widget import LabWidget, loop_runs, script, start, styles

POLL_SECONDS = 0.2
LOG_LINES, LOG_CHARACTERS = 40, 8000
LONGEST_PROMPT = 300  # characters of it on a card, which shows two lines
PREVIEWS = ("preview.webp", "preview.png")  # of the latents, where a stage writes one
# fields of the status that are traits of the card under the same name
SHOWN = (
    "state phase step steps segment segments fraction eta_seconds memory_bytes queue_place queue_paused seed".split()
)


class JobCard(LabWidget):
    """The card of one run.

    Args:
        run_id: the run; "" shows an empty card, for `attach` later.
        stage: of the run that will follow, while there is none.
        reveal: the page scrolls to the card, once, if it is out of sight.

    Attributes:
        state: as `Status.state`; without a run "" or "pending", "gone" where its folder is deleted or damaged.
        cancelling: from the click on Cancel until the run has ended.
        prompt, thumbnail: what the run is about: its prompt, or else the names of its input files, and the picture
            that it was given; "" where there is none, or the page cannot get it from its server.
        pictured: whether it was given a picture; one that the server does not have is sent when it is asked for.

    Raises:
        RunError: there is no such run.
    """

    _esm = script("notice", "thumbnails", "job_card")
    _css = styles("job_card")
    # which the card of a training extends
    WORDS: ClassVar[dict[str, Words]] = read_words(__file__, "states", "job_card")

    run_id = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    thumbnail = traitlets.Unicode("").tag(sync=True)
    pictured = traitlets.Bool(False).tag(sync=True)
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
    queue_paused = traitlets.Bool(False).tag(sync=True)
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
        self._picture: Path | None = None  # that the run was given
        self._log_seen: tuple[int, int] | None = None
        self._said = ""  # the error as it was raised
        super().__init__(reveal=reveal, state="pending" if stage else "")
        if run_id:
            self.attach(run_id)

    @property
    def active(self) -> bool:
        """Whether the run is queued or running."""
        return self.state in ("queued", "running")

    def attach(self, run_id: str) -> None:
        """Show another run from now on; in a running event loop, follow it.

        Raises:
            RunError: there is no such run.
        """
        self.job = jobs.attach(run_id)
        self._stage, self._log_seen = self.job.run.stage, None
        with self.hold_sync():
            self.run_id, self.cancelling, self.log = run_id, False, ""
            self.preview = self.preview_version = ""
            self.prompt, self._picture = about(self.job.run)
            self.thumbnail, self.pictured = served_path(self._picture), self._picture is not None
            self.show_words()
        if not self.look() and loop_runs():
            start(self.watch())

    async def watch(self) -> Status | None:
        """Follow the run until it has ended, without blocking; returns its last status, None if it is gone.

        Where the card gets another run meanwhile, this ends.
        """
        job = self.job
        while job is not None and self.job is job and not self.look():
            await asyncio.sleep(POLL_SECONDS)
        if not self.active:
            await self.keep()
        return job.status() if job is not None and self.state != "gone" else None

    def record(self) -> Record:
        """The run, with what it made."""
        return Record() if self.job is None else record_of_run(self.job.run)

    def close(self) -> None:
        """Close the card; the run continues."""
        self.job = None
        super().close()

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Cancel the run, continue the paused queue, or send a picture, where the page asks for it."""
        if content.get("kind") == "cancel":
            self.cancel()
        elif content.get("kind") == "thumbnail" and self.job is not None:
            from wanavatar_lab.ui.thumbnails import answer  # most servers have the files themselves

            preview = str(content.get("id")).startswith("preview")
            start(answer(self, content, _newest_preview(self.job) if preview else self._picture))
        elif content.get("kind") == "resume":
            try:
                jobs.resume()
            except (LabError, OSError) as fault:
                self._say(str(fault))

    def cancel(self) -> None:
        """Cancel the run; `cancelling` acknowledges it at once."""
        if self.job is None or self.cancelling:
            return
        self.cancelling = True
        try:
            self.job.cancel()
        except (LabError, OSError) as fault:
            self.cancelling = False
            self._say(str(fault))

    def look(self) -> bool:
        """Read the run's folder and show what changed; whether nothing will change any more."""
        if self.job is None:
            return True
        try:
            status = self.job.status()
            facts = (self.job.run.folder / "log.txt").stat()
            seen = facts.st_size, facts.st_mtime_ns
            log = self.log if seen == self._log_seen else self.job.run.log_tail(LOG_LINES)[-LOG_CHARACTERS:]
            preview = self._preview(self.job)
        except (LabError, OSError) as fault:
            try:
                check_there(self.job.run.folder.parent)
            except RunsAway as away:  # its disk may come back, and until then the card shows what was last known
                self._say(str(away))
                return False
            # deleted, or damaged: it will not change, and the card shows why
            self.state, self.cancelling = "gone", False
            self._say(str(fault))
            return True
        with self.hold_sync():
            # a trait that is set to the value it has sends nothing
            for name in SHOWN:
                setattr(self, name, getattr(status, name))
            if self._stage in STAGE_REQUESTS and "seed" not in STAGE_REQUESTS[self._stage].model_fields:
                self.seed = None  # of runs of before; this stage has no use for it
            self._say(status.error or "")
            # by the clock that wrote the times, since the page's may differ; in whole seconds while it grows
            begin = status.started_at or status.submitted_at or status.finished_at or time.time()
            self.elapsed = round(status.finished_at - begin, 1) if status.finished_at else int(time.time() - begin)
            # also where another client asked for it
            self.cancelling = not status.ended and (self.cancelling or self.job.run.cancel_requested())
            self.log, self._log_seen = log, seen
            self.preview, self.preview_version = preview
        return status.ended

    def show_words(self) -> None:
        """Put every text into the language shown, the stage's name and the error too."""
        super().show_words()
        self.title = stage_name(self._stage)
        self._say(self._said)

    def _say(self, error: str) -> None:
        self._said, self.error = error, in_language(error)

    def _preview(self, job: jobs.Job) -> tuple[str, str]:
        with suppress(FileNotFoundError):  # there is none, or the run has just ended and removed it
            if (path := _newest_preview(job)) is not None:
                return served_path(path), str(path.stat().st_mtime_ns)
        return "", ""


def _newest_preview(job: jobs.Job) -> Path | None:
    return next((path for name in PREVIEWS if (path := job.run.folder / name).exists()), None)


def about(run: Run) -> tuple[str, Path | None]:
    """The prompt of a run, or else the names of its input files, and the picture that it was given, if it was."""
    try:
        values = run.read_json("request.json")
    except RunError:  # damaged, as the card says
        return "", None
    given = [Path(value) for value in values.values() if isinstance(value, str) and value.startswith("/")]
    text = prompt_of(values) or ", ".join(path.name for path in given)
    picture = next((path for path in given if kind_of(path) == "picture" and path.exists()), None)
    return shorten(text, LONGEST_PROMPT), picture


async def progress_lines(*jobs_in_order: jobs.Job) -> None:
    """Print the progress of runs until they have ended, about six lines for each, where a notebook runs headless.

    One that is deleted meanwhile is passed over.
    """
    # a page does without it
    from wanavatar_lab.pipeline.progress import TYPICAL, UNKNOWN, Forecast, on_progress

    requests = [job.run.request() for job in jobs_in_order]
    forecast = Forecast([(each.stage, TYPICAL[each.profile].get(each.stage, UNKNOWN)) for each in requests])
    show = on_progress()
    for index, job in enumerate(jobs_in_order):
        with suppress(RunError):
            while not (status := job.status()).ended:
                show(forecast.progress(index, status))
                await asyncio.sleep(POLL_SECONDS)
            show(forecast.progress(index, status))

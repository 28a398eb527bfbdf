"""Run a chain: submit each link when its inputs exist, and wait for it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError
from wanavatar_lab.pipeline.links import Link, check
from wanavatar_lab.pipeline.progress import Forecast, Progress
from wanavatar_lab.requests import Request
from wanavatar_lab.runs.status import Status, main_artifact

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Made:
    """The result of a link.

    Attributes:
        link: which.
        job: its run.
        status: the run's last one.
        path: the file, in the run's folder.
    """

    link: Link
    job: jobs.Job
    status: Status
    path: Path

    @classmethod
    def of(cls, job: jobs.Job, link: Link | str) -> Self:
        """What a job that succeeded has made.

        Args:
            job: of the link.
            link: the link, or the name of its result where the job was submitted by itself.

        Raises:
            LabError: it made nothing of its stage's kind, or its folder is gone or damaged.
        """
        link = Link(link, job.run.request()) if isinstance(link, str) else link
        status = job.status()
        return cls(link, job, status, job.run.path(main_artifact(status.artifacts, link.request.artifact)))


async def follow(
    links: Sequence[Link],
    show: Callable[[Progress], None],
    begun: Callable[[int, jobs.Job], None] = lambda _, __: None,
    *,
    kept: Mapping[str, Made] | None = None,
    runs_dir: Path | str | None = None,
    submit: Callable[[Link, Request], Awaitable[jobs.Job]] | None = None,
    cancel: bool = True,
) -> list[Made]:
    """Run the links one after the other, without blocking the event loop.

    Where this process ends, the run under way is the last one; a `Chain` goes on.

    Args:
        links: each takes files of earlier ones only.
        show: called with the progress a few times a second.
        begun: called when a link's run is submitted, with the link's index and the run.
        kept: results of links, by their file, that are not run again.
        runs_dir: where runs are; None for the settings'.
        submit: gives the run of a link; None submits it, after a look at the input files of all.
        cancel: cancel the run under way where this is cancelled, as by the stop button of a notebook; else it goes on.

    Raises:
        RequestError: an input file is missing, or a value is not allowed.
        LabError: a run failed or was cancelled by someone else; the text says which, why, and where its log is.
    """
    if submit is None:
        check(links)
    made: dict[str, Made] = dict(kept or {})
    ahead = [(index, link) for index, link in enumerate(links) if link.file not in made]
    forecast = Forecast([(link.request.stage, link.typical) for _, link in ahead])
    for number, (index, link) in enumerate(ahead):
        taken = {name: str(made[file].path) for name, file in link.takes.items()}
        request = link.request.changed(**taken)
        job = await submit(link, request) if submit else jobs.submit(request, runs_dir=runs_dir)
        begun(index, job)
        try:
            while not (status := job.status()).ended:
                show(forecast.progress(number, status))
                await asyncio.sleep(POLL_SECONDS)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if cancel:
                job.cancel()
            raise
        stage, run = link.request.stage, f"Its run is {job.id}; `wanavatar-lab logs {job.id}` shows the log."
        if status.state == "cancelled":
            raise LabError(f"{stage} was cancelled. {run}")
        if status.state != "succeeded":
            raise LabError(f"{stage} failed: {status.error or status.message} {run}")
        made[link.file] = Made.of(job, link)
        show(forecast.progress(number, status))
    return [made[link.file] for link in links]

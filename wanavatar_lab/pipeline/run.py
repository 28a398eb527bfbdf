"""Submit each link of a chain when what it needs is there, and wait for it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError
from wanavatar_lab.pipeline.links import Link, check
from wanavatar_lab.pipeline.progress import Forecast, Progress
from wanavatar_lab.runs.status import Status, main_artifact

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Made:
    """What a link has made.

    Attributes:
        link: which.
        job: its run.
        status: how that ended.
        path: the file, in the run's folder.
    """

    link: Link
    job: jobs.Job
    status: Status
    path: Path


async def follow(
    links: Sequence[Link],
    show: Callable[[Progress], None],
    begun: Callable[[int, jobs.Job], None] = lambda _, __: None,
    *,
    runs_dir: Path | str | None = None,
) -> list[Made]:
    """Make what the links ask for, one after the other, without blocking the event loop.

    Whoever stops waiting (the stop button of a notebook, a cancelled task) also cancels the run that is under way.

    Args:
        links: each takes only what earlier ones make.
        show: told how far it is, a few times a second.
        begun: told of the run of each link, and which link it is, from 0, when that is submitted.

    Raises:
        RequestError: an input file is missing, or a value is not allowed.
        LabError: a stage failed or was cancelled from elsewhere; the text says which, why, and where its log is.
    """
    check(links)
    forecast = Forecast([(link.request.stage, link.typical) for link in links])
    made: dict[str, Made] = {}
    for index, link in enumerate(links):
        taken = {name: str(made[file].path) for name, file in link.takes.items()}
        job = jobs.submit(link.request.changed(**taken), runs_dir=runs_dir)
        begun(index, job)
        try:
            while not (status := job.status()).ended:
                show(forecast.progress(index, status))
                await asyncio.sleep(POLL_SECONDS)
        except (KeyboardInterrupt, asyncio.CancelledError):
            job.cancel()
            raise
        made[link.file] = Made(link, job, status, _result(link, job, status))
        show(forecast.progress(index, status))
    return list(made.values())


def _result(link: Link, job: jobs.Job, status: Status) -> Path:
    stage, run = link.request.stage, f"Its run is {job.id}; `wanavatar-lab logs {job.id}` shows the log."
    if status.state == "cancelled":
        raise LabError(f"{stage} was cancelled. {run}")
    if status.state != "succeeded":
        raise LabError(f"{stage} failed: {status.error or status.message} {run}")
    return job.run.path(main_artifact(status.artifacts, link.request.artifact))

"""The command queue: the order of the runs that have not ended, and whether they may start."""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import suppress

from wanavatar_lab import jobs
from wanavatar_lab.cli.options import add_common
from wanavatar_lab.cli.output import answer, run_lines, say
from wanavatar_lab.errors import SUCCEEDED, RunError
from wanavatar_lab.runs.display import progress_line
from wanavatar_lab.runs.status import Status
from wanavatar_lab.worker.queue import PLACES

ACTIONS = {
    "list": "List the runs that have not ended, in the order in which they run.",
    "move": "Change the place of a waiting run.",
    "pause": "Let no run start until the queue is resumed; one that is running goes on.",
    "resume": "Continue a paused queue.",
    "cancel": "Cancel every run of the queue.",
}
PAUSED = "The queue is paused: no run starts until `wanavatar-lab queue resume`."


def add_actions(command: argparse.ArgumentParser) -> None:
    """Add the actions with their arguments."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == "move":
            action.add_argument("id", metavar="ID", help="id of the run, from `wanavatar-lab queue list`")
            action.add_argument(
                "to", metavar="TO", help=f"{', '.join(PLACES)}, or the id of the run before which it goes"
            )
        add_common(action)


def with_status(found: Iterable[jobs.Job]) -> Iterator[tuple[jobs.Job, Status]]:
    """Runs that were listed, without those that were deleted since."""
    for job in found:
        with suppress(RunError):
            yield job, job.status()


def queue(arguments: argparse.Namespace) -> int:
    """Do one of the actions, and list the queue where it is changed.

    Raises:
        RunError: a run to be moved does not wait, or there is no such place.
    """
    folder = arguments.runs_dir
    cancelled = []
    match arguments.action:
        case "move":
            jobs.attach(arguments.id, runs_dir=folder).move(arguments.to)
        case "pause":
            jobs.pause(runs_dir=folder)
        case "resume":
            jobs.resume(runs_dir=folder)
        case "cancel":
            cancelled = jobs.cancel_all(runs_dir=folder)
    left = list(with_status(jobs.list_queue(runs_dir=folder)))
    paused = jobs.is_paused(runs_dir=folder)
    if arguments.json:
        listed = [{"id": job.id, **status.model_dump(mode="json")} for job, status in left]
        answer(
            {"paused": paused, "runs": listed, **({"cancelled": [job.id for job in cancelled]} if cancelled else {})}
        )
        return SUCCEEDED
    if cancelled:
        say(f"Cancellation requested for {len(cancelled)} run{'s' * (len(cancelled) != 1)}.")
    if paused:
        say(PAUSED)
    if left:
        answer("\n".join(run_lines((job.run, status, progress_line(status)) for job, status in left)))
    elif not cancelled:
        say("No runs in the queue.")
    return SUCCEEDED

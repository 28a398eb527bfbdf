"""The commands for runs: list, show, follow, cancel, run again, and what else is done with one by its id."""

import argparse
import re
import shutil
import time
from pathlib import Path
from typing import Any

from wanavatar_lab import jobs
from wanavatar_lab.cli.options import add_common, add_gpus, add_output, add_run_id, place_fault
from wanavatar_lab.cli.output import ProgressLine, answer, complain, run_lines, say
from wanavatar_lab.cli.queue import PAUSED, with_status
from wanavatar_lab.errors import FAILED, INTERRUPTED, SUCCEEDED, DiskFull, LabError, RequestError, RunError
from wanavatar_lab.files import whole_file
from wanavatar_lab.memory.sharing import SHARED_STAGES
from wanavatar_lab.requests import Request
from wanavatar_lab.requests.request import must_be, shown
from wanavatar_lab.runs.display import ProgressView, clock, progress_line
from wanavatar_lab.runs.inputs import changed_since
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Status, main_artifact

POLL_SECONDS = 0.2
ACTIONS = {
    "list": "List runs, newest first; the action may be left out, as in runs --limit 5.",
    "show": "Show a run: its progress or how it ended, its request, its files, and what it was made from.",
    "cancel": "Cancel a queued or running run.",
    "rerun": "Run a request again with the same seed. Its fields can be changed, as in --seed 5.",
}


def add_actions(command: argparse.ArgumentParser) -> None:
    """Add the actions with their arguments."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == "list":
            action.add_argument("--limit", type=_count, metavar="N", default=20, help="number of runs (default 20)")
        else:
            add_run_id(action)
        if name == "rerun":
            action.add_argument("--new-seed", action="store_true", help="draw another seed")
            add_gpus(action)
            add_output(action)
        else:
            add_common(action)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number from 0 on; got {text!r}")
    return int(text)


def runs(arguments: argparse.Namespace) -> int:
    """Do one of the actions."""
    return {"show": show, "cancel": cancel, "rerun": rerun}.get(arguments.action, list_)(arguments)


def list_(arguments: argparse.Namespace) -> int:
    """List runs, newest first."""
    listed = list(with_status(jobs.list_jobs(runs_dir=arguments.runs_dir)[: arguments.limit]))
    if arguments.json:
        answer([_facts(job, status) for job, status in listed])
    elif listed:
        answer("\n".join(run_lines((job.run, status, _summary(status)) for job, status in listed)))
    else:
        say("No runs yet.")
    return SUCCEEDED


def show(arguments: argparse.Namespace) -> int:
    """Show a run: the status, the request, the files, and the runs whose files it took."""
    job = jobs.attach(arguments.id, runs_dir=arguments.runs_dir)
    now, request = job.status(), job.run.read_json("request.json")
    manifest = job.run.manifest() if (job.run.folder / "manifest.json").exists() else None
    if arguments.json:
        answer({**_facts(job, now), "request": request, "manifest": manifest})
        return SUCCEEDED
    lines = [
        f"{job.id}  {now.state}",
        _summary(now),
        *(f"{name}: {value}" for name, value in request.items() if value is not None),
    ]
    lines += [f"seed used: {now.seed}"] if now.seed is not None and request.get("seed") != now.seed else []
    lines += [f"made from: {parent}" for parent in (manifest or {}).get("parents", [])]
    lines += [f"file: {job.run.path(artifact)}" for artifact in now.artifacts]
    answer("\n".join(line for line in lines if line))
    return SUCCEEDED


def rerun(arguments: argparse.Namespace) -> int:
    """Submit the request of a run again, follow the new run, and print or copy its result.

    Raises:
        RequestError: a changed field, an input file, --out or --gpus is wrong; nothing was submitted.
    """
    run = Run.open(arguments.id, runs_dir=arguments.runs_dir)
    request = run.request() if arguments.new_seed else run.repeatable_request()
    if arguments.new_seed and "seed" not in type(request).model_fields:
        raise RequestError([("new_seed", f"{request.stage} has no seed; leave the option out")])
    request = request.changed(**({"seed": -1} if arguments.new_seed else {}), **arguments.values)
    request.check_inputs()
    if problems := option_problems(arguments, type(request)):
        raise RequestError(problems)
    if (run.folder / "manifest.json").exists() and (changed := changed_since(request, run.manifest())):
        say(f"The result will differ: {', '.join(changed)} changed since {run.id}.")
    return follow(jobs.submit(request, runs_dir=arguments.runs_dir, gpus=arguments.gpus), arguments, request)


def attach(arguments: argparse.Namespace) -> int:
    """Follow a run, and print or copy its result."""
    job = jobs.attach(arguments.id, runs_dir=arguments.runs_dir)
    request = job.run.request()
    if problems := option_problems(arguments, type(request)):
        raise RequestError(problems)
    return follow(job, arguments, request)


def status(arguments: argparse.Namespace) -> int:
    """Show a run's progress."""
    job = jobs.attach(arguments.id, runs_dir=arguments.runs_dir)
    now = job.status()
    if arguments.json:
        answer(_facts(job, now))
        return SUCCEEDED
    lines = [f"{arguments.id}  {now.state}", _summary(now)]
    lines += [str(job.run.path(artifact)) for artifact in now.artifacts]
    answer("\n".join(line for line in lines if line))
    return SUCCEEDED


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel a queued or running run."""
    job = jobs.attach(arguments.id, runs_dir=arguments.runs_dir)
    before = job.status()
    if not before.ended:
        job.cancel()
    if arguments.json:
        answer(_facts(job, job.status()))
    else:
        say(f"{job.id} is already {before.state}." if before.ended else f"Cancellation requested for {job.id}.")
    return SUCCEEDED


def logs(arguments: argparse.Namespace) -> int:
    """Show the last lines of a run's log.

    Raises:
        RunError: there is no such run.
        LabError: its log cannot be read.
    """
    run = Run.open(arguments.id, runs_dir=arguments.runs_dir)
    try:
        text = run.log_tail(max(arguments.lines, 1))
    except OSError as error:
        raise LabError(f"The log of {run.id} cannot be read: {error.strerror}.") from error
    answer({"id": arguments.id, "log": text} if arguments.json else text)
    return SUCCEEDED


def follow(job: jobs.Job, arguments: argparse.Namespace, request: Request) -> int:
    """Show progress until the run has ended, then print or copy its result. Ctrl-C cancels the run."""
    try:
        if job.status().queue_paused:
            say(PAUSED)
        ended = _wait(job, request, quiet=arguments.json)
    except RunError as error:  # the request is fine; the run's folder was removed meanwhile
        raise LabError(str(error)) from error
    except KeyboardInterrupt:
        job.cancel()
        say(f"Cancelling {job.id} ... (Ctrl-C again stops waiting for it.)")
        ended = _wait(job, request, quiet=arguments.json)
        if arguments.json:
            complain(LabError(f"The run {job.id} was cancelled."), machine=True, facts=_facts(job, ended))
        return INTERRUPTED
    if ended.state != "succeeded":
        reason = ended.error or ended.message or f"It ended as {ended.state}."
        text = f"The run {job.id} {'was cancelled' if ended.state == 'cancelled' else 'failed'}: {reason}"
        complain(LabError(text), machine=arguments.json, facts=_facts(job, ended))
        if not arguments.json:
            say(f"Its log: wanavatar-lab logs {job.id}")
        return FAILED
    if not request.queued and not arguments.json and (log := job.run.log_tail()):
        say(log)  # of a tool only what it warns of, such as a part that is shorter than was asked for
    result = job.run.path(main_artifact(ended.artifacts, request.artifact))
    if arguments.out:
        result = _hand_over(result, Path(arguments.out), overwrite=arguments.overwrite)
    answer({**_facts(job, ended), "out": str(result.absolute())} if arguments.json else str(result))
    return SUCCEEDED


def _wait(job: jobs.Job, request: Request, *, quiet: bool) -> Status:
    """Wait for the end, with a bar on a terminal; else with lines of text, unless `quiet`."""
    line = ProgressLine()
    lines = None if line.drawable or quiet else ProgressView(request.labels["en"])
    try:
        while not (now := job.status()).ended:
            line.show(progress_line(now), now.fraction if now.state == "running" else None)
            if lines is not None and (request.queued or now.step):  # of a tool not how it starts, which takes a second
                lines.show(now)
            time.sleep(POLL_SECONDS)
    finally:
        line.clear()
    if lines is not None and now.state == "succeeded":  # another end is an error, which is said in full
        lines.show(now)
    return now


def _hand_over(result: Path, out: Path, *, overwrite: bool) -> Path:
    """Copy the result to `out`, whole or not at all.

    Raises:
        DiskFull: there is no room for it there; nothing is left behind.
        LabError: it cannot be written there, a file has come there meanwhile, or it is another kind of file. All
            errors name the result's path.
    """
    if out.exists() and not overwrite:
        raise LabError(f"{out} exists by now, and is kept. The result is at {result}.")
    if result.suffix.lower() != out.suffix.lower():
        raise LabError(f"The result is a {result.suffix} file and cannot be written as {out}. It is at {result}.")
    try:
        with whole_file(out) as temporary:
            shutil.copyfile(result, temporary)
    except DiskFull as error:
        raise DiskFull(f"No space left for {out}. Free some space there; the result is at {result}.") from error
    except OSError as error:
        raise LabError(f"{out} could not be written ({error.strerror}). The result is at {result}.") from error
    return out


def option_problems(arguments: argparse.Namespace, request: type[Request]) -> list[tuple[str, str]]:
    """What is wrong with --out and --gpus, checked before anything is submitted."""
    return _out_problems(arguments, request) + _gpus_problems(getattr(arguments, "gpus", None), request.stage)


def _gpus_problems(gpus: str | None, stage: str) -> list[tuple[str, str]]:
    if gpus is None:
        return []
    if stage not in SHARED_STAGES:  # which only shows where the stage is that of an earlier run
        return [("gpus", f"is not for {stage}, which one GPU makes; leave the option out")]
    right = re.fullmatch(r"auto|[1-9]\d{0,2}", gpus)
    return [] if right else [("gpus", must_be("auto, or a number from 1", gpus))]


def _out_problems(arguments: argparse.Namespace, request: type[Request]) -> list[tuple[str, str]]:
    """Why the result could not be written to --out."""
    out = arguments.out
    if out is None:
        return []
    path, fault = Path(out), place_fault(out)
    if request.suffix and path.suffix.lower() != request.suffix:
        fault = f"must end in {request.suffix}"
    elif not fault and path.exists() and not arguments.overwrite:
        fault = "exists already; give another name, or --overwrite to replace it"
    return [("out", f"{fault} (got {shown(out)})")] if fault else []


def _facts(job: jobs.Job, now: Status) -> dict[str, Any]:
    return {"id": job.id, "stage": job.run.stage, "folder": str(job.run.folder), **now.model_dump(mode="json")}


def _summary(now: Status) -> str:
    """One line on what a run does or how it ended."""
    if not now.ended:
        return progress_line(now)
    if now.state == "failed":
        return now.error or now.message
    if now.started_at is None or now.finished_at is None:
        return now.message
    return f"{now.message or now.state} ({clock(now.finished_at - now.started_at)})"

"""The commands for stages, runs and LoRAs; `evaluate`, `extend-prompt`, `plan`, `queue` and `weights` have their own
files."""

import argparse
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wanavatar_lab import jobs
from wanavatar_lab.cli.evaluate import evaluate
from wanavatar_lab.cli.extend_prompt import extend_prompt
from wanavatar_lab.cli.output import ProgressLine, answer, complain, lora_lines, run_lines, say
from wanavatar_lab.cli.plan import plan
from wanavatar_lab.cli.queue import PAUSED, queue
from wanavatar_lab.cli.weights import weights
from wanavatar_lab.errors import FAILED, INTERRUPTED, SUCCEEDED, DiskFull, LabError, RequestError, RunError
from wanavatar_lab.files import whole_file
from wanavatar_lab.lora import describe, find_adapters
from wanavatar_lab.requests import STAGE_REQUESTS, Request, parse
from wanavatar_lab.requests.request import must_be, shown
from wanavatar_lab.runs import made_with
from wanavatar_lab.runs.display import clock, progress_line
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.copy_request import as_command

POLL_SECONDS = 0.2


def make(arguments: argparse.Namespace) -> int:
    """Submit the request, follow its run, and print or copy the result.

    Raises:
        RequestError: a field, an input file or --out is wrong; all of them are named, and nothing was submitted.
    """
    problems: list[tuple[str, str]] = []
    request = None
    try:
        request = parse(arguments.stage, arguments.values)
        request.check_inputs()
    except RequestError as error:
        problems += error.problems
    problems += _out_problems(arguments, STAGE_REQUESTS[arguments.stage])
    gpus = getattr(arguments, "gpus", None)
    if gpus is not None and not re.fullmatch(r"auto|[1-9]\d{0,2}", gpus):
        problems.append(("gpus", must_be("auto, or a number from 1", gpus)))
    if problems or request is None:
        raise RequestError(problems)
    job = jobs.submit(request, runs_dir=arguments.runs_dir, gpus=gpus)
    return _follow(job, arguments, request)


def attach(arguments: argparse.Namespace) -> int:
    """Follow a run, and print or copy its result."""
    job = jobs.attach(arguments.id, runs_dir=arguments.runs_dir)
    request = job.run.request()
    if problems := _out_problems(arguments, type(request)):
        raise RequestError(problems)
    return _follow(job, arguments, request)


def runs(arguments: argparse.Namespace) -> int:
    """List runs, newest first."""
    listed = [(job, job.status()) for job in jobs.list_jobs(runs_dir=arguments.runs_dir)[: max(arguments.limit, 0)]]
    if arguments.json:
        answer([_facts(job, status) for job, status in listed])
    elif listed:
        answer("\n".join(run_lines((job.run, status, _summary(status)) for job, status in listed)))
    else:
        say("No runs yet.")
    return SUCCEEDED


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
    """Show the last lines of a run's log."""
    text = Run.open(arguments.id, runs_dir=arguments.runs_dir).log_tail(max(arguments.lines, 1))
    answer({"id": arguments.id, "log": text} if arguments.json else text)
    return SUCCEEDED


def loras(arguments: argparse.Namespace) -> int:
    """List the LoRAs under the weights folder."""
    folder = read_settings().weights_dir
    found = describe(find_adapters(folder), folder)
    if arguments.json:
        answer([one.to_json() for one in found])
    elif found:
        answer("\n".join(lora_lines(found)))
    else:
        say(f"No LoRAs in {folder}/loras. Put files into img, mov/character, mov/move or mov/camera.")
    return SUCCEEDED


def settings(arguments: argparse.Namespace) -> int:
    """Show how a picture or clip was made, and the command that makes it again."""
    made = made_with.read_settings(arguments.file)
    if arguments.json:
        answer(asdict(made))
        return SUCCEEDED
    lines = [f"{name}: {value}" for name, value in made.request.items()]
    lines += [f"input {one['name']}: sha256 {one['sha256']}" for one in made.inputs.values()]
    lines += [f"weights {name}: {digest}" for name, digest in made.weights.items()]
    with suppress(RequestError):  # of a stage that is not known here, or of another release
        lines += ["", as_command(made.to_request())]
    answer("\n".join([f"made with WanAvatar Lab {made.version}".rstrip(), *lines]))
    return SUCCEEDED


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "runs": runs,
    "status": status,
    "attach": attach,
    "cancel": cancel,
    "logs": logs,
    "loras": loras,
    "extend-prompt": extend_prompt,
    "evaluate": evaluate,
    "settings": settings,
    "plan": plan,
    "queue": queue,
    "weights": weights,
}


def _follow(job: jobs.Job, arguments: argparse.Namespace, request: Request) -> int:
    """Show progress until the run has ended, then print or copy its result. Ctrl-C cancels the run."""
    if job.status().queue_paused:
        say(PAUSED)
    try:
        ended = _wait(job)
    except RunError as error:  # the request is fine; the run's folder was removed meanwhile
        raise LabError(str(error)) from error
    except KeyboardInterrupt:
        job.cancel()
        say(f"Cancelling {job.id} ... (Ctrl-C again stops waiting for it.)")
        ended = _wait(job)
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
    result = job.run.path(main_artifact(ended.artifacts, request.artifact))
    if arguments.out:
        result = _hand_over(result, Path(arguments.out), overwrite=arguments.overwrite)
    answer({**_facts(job, ended), "out": str(result.absolute())} if arguments.json else str(result))
    return SUCCEEDED


def _wait(job: jobs.Job) -> Status:
    line = ProgressLine()
    try:
        while not (now := job.status()).ended:
            line.show(progress_line(now))
            time.sleep(POLL_SECONDS)
    finally:
        line.clear()
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


def _out_problems(arguments: argparse.Namespace, request: type[Request]) -> list[tuple[str, str]]:
    """Why the result could not be written to --out, checked before anything is submitted."""
    out = arguments.out
    if out is None:
        return []
    path, fault = Path(out), ""
    try:
        if request.suffix and path.suffix.lower() != request.suffix:
            fault = f"must end in {request.suffix}"
        elif path.is_dir() or not path.name:
            fault = "must be the name of a file, not of a folder"
        elif not path.parent.is_dir():
            fault = f"must be in an existing folder; {str(path.parent)!r} does not exist"
        elif not os.access(path.parent, os.W_OK):
            fault = f"must be in a writable folder; {str(path.parent)!r} is not"
        elif path.exists() and not arguments.overwrite:
            fault = "exists already; give another name, or --overwrite to replace it"
    except OSError as error:  # a name that is too long
        fault = f"cannot be written: {error.strerror}"
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

"""Start a training in the background, watch it, stop it, and find it again later.

    python -m training.launch --recipe s2v_14b_2gpu --samples data/me/samples --run runs/training/me \\
        --with zero2 --processes 2
    python -m training.launch --hostfile hosts --with zero2 …            # on the machines that it lists, by ssh
    python -m training.launch --machines 2 --machine-rank 1 --main-address gpu1 --with zero2 …    # on each, without ssh
    python -m training.launch --state runs/training/me
    python -m training.launch --stop runs/training/me

A run outlives the process that starts it, a notebook's kernel for example: a supervisor (`training.launch.supervisor`)
in a session of its own runs `accelerate launch` and records how it ended. torchrun puts each training process into a
process group of its own, so a run's processes are found by an environment variable instead (`processes_of`).

A run is stopped by SIGTERM, which every training process answers with a checkpoint of the last completed step. A run on
several machines is asked for that by a file in its folder, so that every machine that sees the folder can stop it.
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from training.config import TrainingConfig
from training.config.arguments import add_config, config_of
from training.launch.folder_locks import is_trained_in, starting_in
from training.launch.machine_states import BEAT, LOST_AFTER, STATE, State, joint_state, read_reports
from training.launch.machines import (
    ROOT,
    Machine,
    check_machines,
    is_local,
    is_loopback,
    processes_on_each,
    read_machines,
)
from training.launch.processes import (
    CONFIGS,
    ENDED,
    LAUNCHED,
    LOG,
    MACHINE,
    MACHINES,
    MARK,
    PATIENCE,
    STOP,
    STOP_CODE,
    TOLD,
    Launcher,
    Plan,
    StopSignal,
    folder_of_machine,
    is_of,
    keep_previous_log,
    processes_of,
    ranks_among,
    send,
)
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import report_write_errors, write_json, write_text


@dataclass(frozen=True)
class Ending:
    """The state of a run.

    Attributes:
        state: "not started" if it was never launched.
        why: the reason, if it failed.
    """

    state: State
    why: str = ""


@dataclass(frozen=True)
class Place:
    """Where one machine stands among those of a run that somebody else starts, such as SLURM.

    Attributes:
        number: of this machine, from 0.
        count: of machines.
        address: of machine 0.
        port: there; the same for all.
    """

    number: int
    count: int
    address: str
    port: int = 29_500


def start(
    config: TrainingConfig,
    launcher: Launcher = "plain",
    processes: int = 1,
    module: str = "training.train",
    machines: Sequence[Machine] = (),
) -> Ending:
    """Start or resume a run; returns when its supervisor has started.

    Args:
        config: its `run` is the folder by which the run is found again.
        launcher: "plain" is one process without accelerate's launcher; the others are files of `training/configs`.
        processes: on each machine, unless `machines` says it; one per GPU.
        module: the program that trains; it takes `--config`.
        machines: to train on; none is this one alone.

    Raises:
        LabError: the run is running, the launcher does not start so many processes, or the machines cannot train
            together.
    """
    run = _free_folder(config)
    if machines:
        processes = processes_on_each(machines, processes)
        first = machines[0].name
        if is_loopback(first) and not all(is_local(machine.name) for machine in machines):
            raise LabError(
                f"{first} comes first, where the other machines would look for it on themselves: write the name by "
                "which they reach it."
            )
    _check_processes(launcher, processes, len(machines) or 1)
    with starting_in(run):
        _free_folder(config)  # once more: another process may have started it since
        plan = None
        if machines:
            port = check_machines(machines, processes, run, config.samples.absolute(), config.profile)
            names = tuple(machine.name for machine in machines)
            launch = secrets.token_hex(8)
            plan = Plan(len(machines), names, machines[0].address, port, launch, starts=tuple(range(len(machines))))
        _write_told(config, run)
        _supervise(run, launcher, processes, module, plan)
    return state(run)


def start_on_this(
    config: TrainingConfig, launcher: Launcher, processes: int, module: str, place: Place
) -> "subprocess.Popen[bytes]":
    """Start this machine's part of a run on several; the same is called on each of them. Returns its supervisor.

    Args:
        processes: on each machine.

    Raises:
        LabError: as for `start`.
    """
    if not 0 <= place.number < place.count:
        raise LabError(f"There is no machine {place.number} among {place.count}: give --machine-rank 0 to the last.")
    _check_processes(launcher, processes, place.count)
    plan = Plan(place.count, (), place.address, place.port)
    if place.number:
        run = config.run.absolute()
        keep_previous_log(folder_of_machine(run, place.number))  # here, since it is followed from now on
        return _start_supervisor(run, launcher, processes, module, plan, place.number)
    with starting_in(config.run.absolute()):
        run = _free_folder(config)
        _write_told(config, run)
        return _supervise(run, launcher, processes, module, replace(plan, starts=(0,)))


def _free_folder(config: TrainingConfig) -> Path:
    """The folder of a run that is not running."""
    run = config.run.absolute()
    if state(run).state == "running" or is_trained_in(run):
        raise LabError(f"The run in {run} is running already. Stop it first, or give this one another folder.")
    return run


def _check_processes(launcher: str, processes: int, machines: int) -> None:
    if processes < 1:
        raise LabError(f"{processes} processes are too few: give 1 or more.")
    if launcher == "plain" and processes * machines != 1:
        what = f"{processes} processes" if machines == 1 else f"{machines} machines"
        raise LabError(f"{what} need a launcher: {', '.join(CONFIGS)}.")


def _write_told(config: TrainingConfig, run: Path) -> None:
    """Write the settings of a start, with absolute paths, since the supervisor has another working directory."""
    places = {name: place.absolute() for name in ("samples", "run", "init_from") if (place := getattr(config, name))}
    write_text(run / TOLD, config.model_copy(update=places).model_dump_json(indent=1) + "\n")


def _supervise(run: Path, launcher: str, processes: int, module: str, plan: Plan | None) -> "subprocess.Popen[bytes]":
    """Start the supervisor of a whole run, and note it."""
    keep_previous_log(run)
    (run / ENDED).unlink(missing_ok=True)
    (run / STOP).unlink(missing_ok=True)
    for old in (run / MACHINES).glob(f"*/{STATE}"):
        old.unlink(missing_ok=True)
    supervisor = _start_supervisor(run, launcher, processes, module, plan)
    started, count = psutil.Process(supervisor.pid).create_time(), plan.count if plan else 1
    noted = {"pid": supervisor.pid, "started": started, "processes": processes * count}
    write_json(run / LAUNCHED, noted | ({"machines": count} if plan else {}))
    return supervisor


def _start_supervisor(
    run: Path, launcher: str, processes: int, module: str, plan: Plan | None, number: int | None = None
) -> "subprocess.Popen[bytes]":
    words = [str(run), launcher, str(processes), module]
    words += [json.dumps(asdict(plan))] if plan else []
    words += [str(number)] if number is not None else []
    mark = {MARK: str(run)} | ({MACHINE: str(number)} if number is not None else {})
    return subprocess.Popen(
        [sys.executable, "-m", "training.launch.supervisor", *words],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | mark,
        cwd=ROOT,
    )


def stop(run: Path, patience: float = PATIENCE) -> Ending:
    """Stop a run after a checkpoint of its last completed step; processes that take longer than `patience` are killed.

    Args:
        patience: seconds.

    Raises:
        LabError: the run is not running.
    """
    if state(run).state != "running":
        raise LabError(f"The run in {run} is not running, so there is nothing to stop.")
    if _is_led(run):
        return _stop_machines(run, patience)
    # Not to torchrun, which would pass SIGTERM on and kill its processes half a minute later, in the middle of their
    # checkpoint. Without a launcher, or before it has started anything, no process has a rank: then to all.
    everyone, supervisor = processes_of(run), _supervisor(run)
    ranks = ranks_among(everyone)
    send([*ranks, *([supervisor] if supervisor else [])] if ranks else everyone, signal.SIGTERM)
    deadline = time.monotonic() + patience
    # a process that is exiting has lost its environment and cannot be found by it, so the supervisor is asked for too
    while ((left := processes_of(run)) or _supervisor(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    send(left, signal.SIGKILL)
    # the supervisor writes no file if it is killed, here or before, or if it had not installed its handler yet
    if left or not (run / ENDED).is_file():
        why = f"It had to be killed after {patience:.0f} s." if left else ""
        write_json(run / ENDED, {"state": "stopped", "why": why})
    return state(run)


def _stop_machines(run: Path, patience: float) -> Ending:
    """Ask all machines of a run to stop, and wait until they have."""
    write_json(run / STOP, {"patience": patience})
    deadline = time.monotonic() + patience + LOST_AFTER * BEAT  # some may be lost, which takes so long to notice
    while (found := state(run)).state == "running" and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def state(run: Path) -> Ending:
    """The state of a run, by its folder."""
    if _supervisor(run) is not None:
        return Ending("running")
    if (run / ENDED).is_file():
        return Ending(**json.loads((run / ENDED).read_text()))
    if not (run / LAUNCHED).is_file():
        return Ending("not started")
    if processes_of(run):  # only the supervisor was killed
        return Ending("running")
    if _is_led(run):  # what leads them is gone, or is on another machine
        return Ending(*joint_state(run))
    return Ending("failed", "Its processes were killed, or the machine went down. Start it again to resume it.")


def _is_led(run: Path) -> bool:
    """Whether a run was started by groups, one on each machine."""
    return (run / LAUNCHED).is_file() and "machines" in json.loads((run / LAUNCHED).read_text())


def _supervisor(run: Path) -> psutil.Process | None:
    """The run's supervisor, if it is alive."""
    if not (run / LAUNCHED).is_file():
        return None
    noted: dict[str, Any] = json.loads((run / LAUNCHED).read_text())
    try:
        process = psutil.Process(noted["pid"])
    except psutil.NoSuchProcess:
        return None
    # The system may have given the process id to another process since. When that began does not tell: it is counted
    # from the machine's clock, and is another time once the clock was set.
    return process if is_of(process, run) else None


def follow(run: Path, supervisor: "subprocess.Popen[bytes] | None" = None, number: int = 0) -> Ending:
    """Print what a run prints until it ends; a SIGTERM or Ctrl+C meanwhile stops it.

    Args:
        supervisor: of machine `number`, whose part of the run alone is followed if it is not machine 0.
    """
    stopping, log, printed = StopSignal(signal.SIGTERM, signal.SIGINT), run / LOG, 0
    if number:
        log = folder_of_machine(run, number) / LOG

    def runs() -> bool:
        return supervisor.poll() is None if number and supervisor else state(run).state == "running"

    told, goes_on = False, True
    while goes_on:
        goes_on = runs()
        if stopping.received and not told:
            told = True
            print("Stopping after a checkpoint …", flush=True)
            if supervisor:
                supervisor.send_signal(signal.SIGTERM)
            else:
                stop(run)
        if log.is_file():
            with open(log, "rb") as file:
                file.seek(printed)
                said = file.read()
            printed += len(said)
            sys.stdout.write(said.decode(errors="replace"))
            sys.stdout.flush()
        time.sleep(0.5 if goes_on else 0)
    if number:
        report, _ = read_reports(run)[number]
        return Ending(report.state, report.why)
    return state(run)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stop", type=Path, metavar="RUN", help="stop a run after a checkpoint")
    what.add_argument("--state", type=Path, metavar="RUN", help="print the state of a run")
    what.add_argument("--follow", action="store_true", help="stay, and print what the run prints; Ctrl+C stops it")
    add_config(parser)
    parser.add_argument("--with", dest="launcher", choices=("plain", *CONFIGS), default="plain")
    parser.add_argument("--processes", type=int, default=1, help="on each machine, one per GPU")
    parser.add_argument("--module", default="training.train", help=argparse.SUPPRESS)  # another program that trains
    where = parser.add_argument_group("several machines")
    told = "a file with a machine a line, as gpu1 slots=8, or such lines with commas; reached by ssh without a password"
    where.add_argument("--hostfile", default="", metavar="FILE", help=told)
    where.add_argument(
        "--machines", type=int, metavar="INT", help="how many, where this is started on each, as by SLURM"
    )
    where.add_argument("--machine-rank", type=int, metavar="INT", help="the number of this one, from 0")
    where.add_argument("--main-address", metavar="HOST", help="of machine 0")
    where.add_argument("--main-port", type=int, default=Place.port, metavar="PORT", help="there; default: %(default)s")
    given = parser.parse_args(argv)
    try:
        found = _do(given)
    except (LabError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{found.state}{': ' if found.why else ''}{found.why}", flush=True)
    if given.follow or given.machines is not None:
        raise SystemExit({"finished": 0, "stopped": STOP_CODE}.get(found.state, 1))


def _do(given: argparse.Namespace) -> Ending:
    """What the command line says."""
    if given.stop or given.state:
        with report_write_errors(settings={}):
            return stop(given.stop) if given.stop else state(given.state)
    config = config_of(given)
    with report_write_errors(settings={"--run": config.run, "--samples": config.samples}):
        return _start(config, given)


def _start(config: TrainingConfig, given: argparse.Namespace) -> Ending:
    """Start this machine's part of a run, or the whole of it."""
    run = config.run.absolute()
    alone = (given.machines, given.machine_rank, given.main_address)
    if alone == (None, None, None):
        found = start(config, given.launcher, given.processes, given.module, read_machines(given.hostfile))
        return follow(run) if given.follow else found
    if None in alone or given.hostfile:
        raise LabError("--machines, --machine-rank and --main-address belong together, and instead of --hostfile.")
    place = Place(given.machine_rank, given.machines, given.main_address, given.main_port)
    supervisor = start_on_this(config, given.launcher, given.processes, given.module, place)
    return follow(run, supervisor, place.number)

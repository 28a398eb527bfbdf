"""The supervisor of a launched run: starts the training, waits for its processes, and records how they ended.

`training.launch.launch` starts it. It is apart from `wanavatar_lab.worker.supervisor`, which gives one run after
another to a worker that stays: this one has a single command to run, whose processes are in many groups.

A run on several machines has a supervisor on each (`supervise_group`), and where it was started one that leads
(`lead`): that starts the others, joins their logs, and records how the run ended.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import torch

from training.config import TrainingConfig
from training.launch.machine_states import Cause, Report, State, Watch, joint_ending
from training.launch.machines import command_on, differences, facts
from training.launch.processes import (
    CONFIGS,
    ENDED,
    LOG,
    MACHINE,
    MARK,
    PATIENCE,
    STOP,
    STOP_CODE,
    TOLD,
    Plan,
    StopSignal,
    failures_since,
    folder_of_machine,
    keep_previous_log,
    note_failure,
    processes_of,
    ranks_among,
    send,
    usable_cores,
)
from wanavatar_lab.files import write_json
from wanavatar_lab.worker.child_process import how_it_ended

# seconds for the other processes to end after one has died: torchrun kills them after 30
LEFT_ALONE = 40.0
# The same where there are several machines, which all have to stop within a minute. A process that waits for one that
# has died cannot save a checkpoint.
GROUP_LEFT_ALONE, SHUTDOWN = 15.0, 10


def supervise(run: Path, launcher: str, processes: int, module: str) -> int:
    """Run the training to its end and record how it ended; returns the exit code of its command."""
    stop = StopSignal()
    # port 0 is any free one: there may be another run on this machine
    command = command_of(run, launcher, processes, module, ["--main_process_port", "0"])
    began = time.time()
    with open(run / LOG, "wb") as log:
        environment = environment_of(launcher, processes)
        code = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment).wait()
    # the launcher may exit before the processes that it started
    deadline = time.monotonic() + (PATIENCE if stop.received else LEFT_ALONE)
    while (left := [each for each in processes_of(run) if each.pid != os.getpid()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    send(left, signal.SIGKILL)
    how: State = "stopped" if stop.received or code == STOP_CODE else "finished" if code == 0 else "failed"
    why = ""
    if how == "failed":
        reasons = failures_since(run, began)
        why = why_failed((run / LOG).read_text(errors="replace"), code, reasons)
        if why not in reasons.values():  # that a process was killed it could not note itself
            note_failure(run, why, rank=None)
    write_json(run / ENDED, {"state": how, "why": why})
    return code


def command_of(run: Path, launcher: str, processes: int, module: str, options: Sequence[str]) -> list[str]:
    """The command that trains; `options` are of accelerate's launcher, and `processes` on all machines."""
    command = [sys.executable, "-m"]
    if launcher != "plain":
        command += ["accelerate.commands.launch", "--config_file", str(CONFIGS[launcher])]
        command += ["--num_processes", str(processes), *options, "-m"]
    return [*command, module, "--config", str(run / TOLD)]


def environment_of(launcher: str, processes: int) -> dict[str, str]:
    """The environment of the command that trains, with so many processes on this machine."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "1"
    if launcher != "plain":
        # launchers give each process one thread, which is slow for an optimizer in CPU RAM
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    return environment


def root_cause(output: str) -> tuple[int, int, int] | None:
    """Rank, exit code and process id of the process that ended a run, by torchrun's report in its output."""
    found = re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)\s*\(pid:\s*(\d+)\)", output, re.DOTALL)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def why_failed(output: str, code: int, reasons: Mapping[int, str] | None = None) -> str:
    """Why a run failed.

    Args:
        output: of its launcher. torchrun's report in it says which process ended the run and how.
        code: exit code of the launcher.
        reasons: what processes noted themselves, by rank; one that was killed could not.
    """
    reasons = reasons or {}
    if found := root_cause(output):
        rank, exit_code, pid = found
        how, why = how_it_ended(exit_code), reasons.get(rank, f"See {LOG}.")
        return f"Rank {rank} (process {pid}) ended the run: {how}. {why}"
    if reasons:
        return next(iter(reasons.values()))
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"The training ended with {how_it_ended(code)}. Its last line: {lines[-1] if lines else '(none)'}"


# --- several machines


def supervise_group(run: Path, launcher: str, processes: int, module: str, plan: Plan, number: int) -> int:
    """Run the processes of machine `number`, until they or those of another machine end; returns the exit code.

    Args:
        processes: on each machine.
    """
    stop, watch = StopSignal(), Watch(run, plan.count, plan.launch)
    watch.look()  # before it writes its own: what is there is of an earlier start
    place, began, code = folder_of_machine(run, number), time.time(), 1
    place.mkdir(parents=True, exist_ok=True)
    keep_previous_log(place)
    # of this machine's last start, if its supervisor was killed then: they would hold the GPUs
    send(_others(run, number), signal.SIGKILL)
    report = Report(number, plan.name_of(number), plan.launch)
    report.write(run)
    try:
        with open(place / LOG, "wb") as log:
            report = _begun(report, run, watch, stop)
            if report.state == "running":
                options = ["--num_machines", str(plan.count), "--machine_rank", str(number)]
                options += ["--main_process_ip", plan.address, "--main_process_port", str(plan.port)]
                command = command_of(run, launcher, processes * plan.count, module, options)
                environment = environment_of(launcher, processes)
                environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN))
                # A scheduler sends SIGTERM to all processes. By it torchrun just ends, instead of killing those that
                # train in the middle of their checkpoint, for which `_follow` waits.
                environment["PET_SIGNALS_TO_HANDLE"] = "SIGINT"
                environment |= gpus_of(plan, number, processes, torch.cuda.device_count(), os.environ)
                with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as training:
                    told, killed = _follow(training, report, run, watch, stop)
                code = training.returncode
                output = (place / LOG).read_text(errors="replace")
                report = _ended(report, output, code, failures_since(place, began), told, killed)
    except Exception as error:
        report = replace(report, state="failed", why=f"{type(error).__name__}: {error}", cause="raised", at=time.time())
        raise
    finally:
        send(_others(run, number), signal.SIGKILL)
        report.write(run)
    return code


def gpus_of(plan: Plan, number: int, processes: int, count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that gives a group its share of this machine's GPUs where the machine stands for several.

    Args:
        processes: of a group, one per GPU.
        count: of the GPUs here.
        environment: may name the GPUs that are used.
    """
    if not count or plan.names.count(plan.name_of(number)) < 2:
        return {}
    known = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    known = known if known != [""] else [str(gpu) for gpu in range(count)]
    before = processes * plan.names[:number].count(plan.name_of(number))
    return {"CUDA_VISIBLE_DEVICES": ",".join(known[before : before + processes])}


def _begun(report: Report, run: Path, watch: Watch, stop: StopSignal) -> Report:
    """The report of a machine when all have begun; it has failed if this one has other things than the first."""
    while not (report.facts and len(watch.reports) == watch.count):
        time.sleep(0.1)
        if watch.look():
            report.touch(run)
        if stop.received or (run / STOP).is_file():
            return replace(report, state="stopped")
        if trouble := watch.trouble:
            return replace(report, state="failed", why=f"{trouble} failed.", at=time.time())
        first = watch.reports.get(0)
        if not report.facts and (report.number == 0 or (first and first.facts)):  # the first has written the settings
            config = TrainingConfig.model_validate_json((run / TOLD).read_text())
            report = replace(report, facts=facts(config.samples, config.profile))
            report.write(run)
            if first and first.facts and (different := differences(report.facts, first.facts)):
                # "killed", since no other machine has begun
                return replace(report, state="failed", why=f"{'; '.join(different)}.", cause="killed", at=time.time())
    return report


def _follow(
    training: "subprocess.Popen[bytes]", report: Report, run: Path, watch: Watch, stop: StopSignal
) -> tuple[bool, str]:
    """Wait for the end of a group; gives whether it was told to stop, and why it had to be killed, or nothing."""
    told, deadline, why = False, float("inf"), ""
    while training.poll() is None or (told and ranks_among(_others(run, report.number))):
        time.sleep(0.1)
        now, looked = time.monotonic(), watch.look()
        if not told and (stop.received or (looked and (run / STOP).is_file())):
            # not to torchrun, see `launch.stop`; before there are ranks to all
            everyone = _others(run, report.number)
            send(ranks_among(everyone) or everyone, signal.SIGTERM)
            told = True
            patience = _patience(run)
            deadline, why = now + patience, f"It had to be killed after {patience:.0f} s."
        if looked:
            report.touch(run)
            if (trouble := watch.trouble) and deadline > now + GROUP_LEFT_ALONE:
                # nobody who waits for a lost machine will hear of its end
                deadline, why = now + (0 if trouble.cause == "lost" else GROUP_LEFT_ALONE), f"{trouble} failed."
        if now > deadline:
            send(_others(run, report.number), signal.SIGKILL)
            training.wait()
            return told, why
    return told, ""


def _ended(report: Report, output: str, code: int, reasons: Mapping[int, str], told: bool, killed: str) -> Report:
    """The last report of a group whose launcher has ended with `code`; see `_follow`."""
    cause = root_cause(output)
    exit_code = cause[1] if cause else code
    if code == 0:
        return replace(report, state="finished")
    if told or exit_code == STOP_CODE:  # another machine's processes may have been told, which tell all
        return replace(report, state="stopped", why=killed)
    if killed:
        return replace(report, state="failed", why=killed, at=time.time())
    # a process that NCCL's watchdog aborts waits for another one; who was killed waits for none
    kind: Cause = "killed" if exit_code < 0 and exit_code != -signal.SIGABRT else "raised"
    return replace(report, state="failed", why=why_failed(output, code, reasons), cause=kind, at=time.time())


def _patience(run: Path) -> float:
    """Seconds that processes have to stop in."""
    return float(json.loads((run / STOP).read_text())["patience"]) if (run / STOP).is_file() else PATIENCE


def _others(run: Path, number: int) -> list[Any]:
    """The processes of a group but this one."""
    return [each for each in processes_of(run, number) if each.pid != os.getpid()]


def lead(run: Path, launcher: str, processes: int, module: str, plan: Plan) -> int:
    """Start a run's groups, join what they print, and record how the run ended; returns 0 if it finished.

    Args:
        processes: on each machine.
    """
    stop, watch, starters = StopSignal(), Watch(run, plan.count, plan.launch), {}
    with open(run / LOG, "ab", buffering=0) as log:
        for number in plan.starts:
            words = [sys.executable, "-m", "training.launch.supervisor", str(run), launcher, str(processes), module]
            words += [json.dumps(asdict(plan)), str(number)]
            mark = {MARK: str(run), MACHINE: str(number)}
            command = command_on(plan.name_of(number), words, mark)
            environment = os.environ | mark
            starters[number] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        joined, deadline = JoinedLogs(run, log), float("inf")
        while not watch.is_over and time.monotonic() < deadline:
            time.sleep(0.1)
            if stop.received and not (run / STOP).is_file():
                write_json(run / STOP, {"patience": PATIENCE})
            if not watch.look():
                continue
            joined.copy(watch.reports)
            for number, starter in starters.items():
                if starter.poll() and number not in watch.reports:
                    why = f"its supervisor has not begun: {how_it_ended(starter.returncode)}. {_last_line(run / LOG)}"
                    name = plan.name_of(number)
                    Report(number, name, plan.launch, "failed", why, "killed", time.time()).write(run)
            if watch.trouble and deadline == float("inf"):
                deadline = time.monotonic() + LEFT_ALONE
        for starter in starters.values():
            try:
                starter.wait(GROUP_LEFT_ALONE)
            except subprocess.TimeoutExpired:  # ssh to a machine that is lost
                starter.kill()
        joined.copy(watch.reports, rest=True)
    send([each for each in processes_of(run) if each.pid != os.getpid()], signal.SIGKILL)
    how, why = joint_ending(watch.reports.values())
    if how == "failed":
        note_failure(run, why, rank=None)
    write_json(run / ENDED, {"state": how, "why": why})
    return 0 if how == "finished" else 1


class JoinedLogs:
    """What the groups of a run print, as one log whose lines begin with the machine.

    Args:
        run: its folder.
        log: of the whole run, open for bytes.
    """

    def __init__(self, run: Path, log: IO[bytes]) -> None:
        self._run, self._log = run, log
        self._read: dict[int, int] = {}

    def copy(self, reports: Mapping[int, Report], rest: bool = False) -> None:
        """Copy the lines that are new.

        Args:
            reports: of the machines whose logs there are.
            rest: also a last line without an end.
        """
        for number, report in sorted(reports.items()):
            path = folder_of_machine(self._run, number) / LOG
            try:
                with open(path, "rb") as file:
                    file.seek(self._read.get(number, 0))
                    said = file.read()
            except OSError:  # not there yet, or the shared disk hesitates: the next look reads it
                continue
            whole = said if rest else said[: said.rfind(b"\n") + 1]
            self._read[number] = self._read.get(number, 0) + len(whole)
            begin = f"[{number} {report.name}] ".encode()
            self._log.write(b"".join(begin + line + b"\n" for line in whole.splitlines()))


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def main(run: str, launcher: str, processes: str, module: str, plan: str = "", number: str = "") -> int:
    """What `training.launch.launch`, which has checked the words, starts: a whole run, its lead or a group of it."""
    told = Path(run), launcher, int(processes), module
    if not plan:
        return supervise(*told)
    planned = Plan(**json.loads(plan))
    return supervise_group(*told, planned, int(number)) if number else lead(*told, planned)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

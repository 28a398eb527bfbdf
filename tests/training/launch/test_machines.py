"""The machines of a run: read from a hostfile, reached, compared, and noticed when one is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.launched import SLOW
from tests.training.runs import MODULE, alone, ranks, said, stand_in_for_ssh, wait_for, wait_for_words
from tests.training.toy import config_of, write_samples
from training.launch import machine_states
from training.launch.launch import Place, follow, start, start_on_this, state, stop
from training.launch.machine_states import LOST_AFTER, Report, Watch, first_cause, joint_ending, joint_state
from training.launch.machines import (
    ROOT,
    Machine,
    check_machines,
    command_on,
    facts,
    free_port,
    is_local,
    processes_on_each,
    read_machines,
    resolves,
)
from training.launch.processes import LAUNCHED, LOG, MACHINE, STOP_CODE, Plan, folder_of_machine, processes_of, send
from training.launch.supervisor import JoinedLogs, gpus_of
from training.loop.run_folder import checkpoints
from wanavatar_lab.errors import LabError

TWO = [Machine("localhost", 1), Machine("localhost", 1)]


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# the rack\ngpu1 slots=8\n\nme@gpu2.lan  slots = 8  # new\n10.0.0.3\n")
    wanted = [Machine("gpu1", 8), Machine("me@gpu2.lan", 8), Machine("10.0.0.3", None)]
    assert read_machines(str(hosts)) == wanted
    assert read_machines("gpu1 slots=8, me@gpu2.lan slots=8, 10.0.0.3") == wanted
    assert read_machines("") == read_machines("  ") == []
    assert processes_on_each(wanted, 8) == 8


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("gpu1 slots=eight", "'gpu1 slots=eight' is no machine"),
        ("gpu1 slots=0", "'gpu1 slots=0' is no machine"),
        ("gpu1, -oProxyCommand=rm", "'-oProxyCommand=rm' is no machine"),  # ssh would take it as an option
        ("gpu1; rm", "'gpu1; rm' is no machine"),
        ("# nobody\n", "There is no machine in '# nobody'"),
        ("hosst", "The hostfile hosst cannot be read"),
        ("no/such/hosts", r"The hostfile no/such/hosts cannot be read"),
    ],
)
def test_what_is_no_hostfile_is_refused(told: str, why: str) -> None:
    with pytest.raises(LabError, match=why):
        read_machines(told)


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,20}", fullmatch=True)


@given(st.lists(st.tuples(names, st.integers(1, 64)), min_size=1, max_size=5), st.sampled_from(["\n", ", "]))
def test_machines_that_are_written_are_read(machines: list[tuple[str, int]], between: str) -> None:
    told = between.join(f"{name} slots={slots}" for name, slots in machines)
    assert read_machines(told) == [Machine(*each) for each in machines]


@given(st.text())
def test_any_text_is_machines_or_refused(text: str) -> None:
    with suppress(LabError):
        assert all(not machine.name.startswith("-") for machine in read_machines(text))


def test_machines_with_different_numbers_of_gpus_are_refused() -> None:
    with pytest.raises(LabError, match=r"gpu1 8, gpu2 4\. Write slots=4 for each"):
        processes_on_each([Machine("gpu1", 8), Machine("gpu2", 4)], 1)


def test_another_machine_gets_the_command_as_it_is_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_local("localhost") and is_local("127.0.0.1") and is_local(socket.gethostname())
    assert not is_local("me@localhost") and Machine("me@gpu1").address == "gpu1"
    assert resolves("localhost") and not resolves("nowhere.invalid")
    assert not is_local("192.0.2.1")  # of no machine, by RFC 5737
    stand_in_for_ssh(tmp_path, monkeypatch)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth 0; $HOME")
    monkeypatch.setenv("WANAVATAR_API_TOKEN", "hidden")
    shows = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]))"
    words = [sys.executable, "-c", shows, "a b", "'", '"$HOME"', ""]
    done = subprocess.run(command_on("192.0.2.1", words, {MACHINE: "1"}), capture_output=True, text=True, check=True)
    arguments, folder, environment = json.loads(done.stdout)
    assert arguments == words[3:] and folder == str(ROOT)
    assert (environment["NCCL_SOCKET_IFNAME"], environment[MACHINE]) == ("eth 0; $HOME", "1")
    assert environment["MACHINE_NAME"] == "192.0.2.1" and "hidden" not in environment.values()
    assert command_on("localhost", words) == words


GOOD = {
    "code": ["abc", "1"],
    "packages": {"python": "3.11.7", "torch": "2.11"},
    "device": "a GPU",
    "gpus": 8,
    "samples": ["/s", "1", [2, 3]],
    "weights": ["/w", True],
    "token": True,
    "knows_first": True,
    "port": 4_000,
}
# prints the file that is named after the machine
ANSWERS = """#!/bin/sh
while [ $# -gt 2 ]; do shift; done
cat "$(dirname "$0")/$1" 2>/dev/null || { echo "Permission denied (publickey)." >&2; exit 255; }
"""


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({}, ""),
        ({"token": False}, "gpu2 does not see the run's folder"),
        ({"knows_first": False}, "gpu2 does not know gpu1, where the processes of all meet"),
        ({"code": ["def", "2"]}, r"gpu2 has other code \(commit def, and abc there\)"),
        ({"code": ["abc", "2"]}, r"gpu2 has other code \(commit abc, changed, and abc, changed there\)"),
        ({"packages": {"python": "3.11.7", "torch": "2.10"}}, r"gpu2 has other releases \(torch 2.10, and torch 2.11"),
        ({"gpus": 4}, "gpu2 has 4 GPUs, too few for 8 processes"),
        ({"device": "its CPU", "gpus": 0}, "gpu2 computes on its CPU, and the first on a GPU"),
        ({"samples": ["/s", "1", [1, 2]]}, "gpu2 sees other samples in /s"),
        ({"weights": ["/w", False]}, "gpu2 lacks the network's weights in /w, and the first has them"),
        (None, r"gpu2: ssh does not reach it \(Permission denied \(publickey\)\.\)\. `ssh gpu2 true` has to work"),
        ("no python", r"gpu2: `.* -m training.launch.machines` failed there \(no output\)"),
    ],
)
def test_machines_that_cannot_train_together_are_refused_with_the_reason(
    other: dict[str, Any] | str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_ssh(tmp_path, monkeypatch, ANSWERS)
    monkeypatch.setattr("training.launch.machines.is_local", lambda name: False)
    (tmp_path / "bin" / "gpu1").write_text(json.dumps(GOOD))
    if other is not None:
        (tmp_path / "bin" / "gpu2").write_text(json.dumps(GOOD | other) if isinstance(other, dict) else other)
    told = [Machine("gpu1"), Machine("gpu2")], 8, tmp_path, tmp_path / "samples", "full"
    if why:
        with pytest.raises(LabError, match=why):
            check_machines(*told)
    else:
        assert check_machines(*told) == 4_000
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]  # the token is gone


def test_what_a_machine_has_changes_with_its_samples(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", count=2)
    before = facts(tmp_path / "samples", "pocket")
    assert before == facts(tmp_path / "samples", "pocket") and before["weights"][1]
    next((tmp_path / "samples").glob("*.safetensors")).unlink()
    after = facts(tmp_path / "samples", "pocket")
    assert {name for name in before if before[name] != after[name]} == {"samples"}


def test_the_first_machine_has_a_name_that_others_know(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", count=2)
    with pytest.raises(LabError, match="localhost comes first"):
        start(config_of(tmp_path), "ddp", machines=[Machine("localhost"), Machine("192.0.2.1")])
    with pytest.raises(LabError, match="2 machines need a launcher: ddp, fsdp2, zero2"):
        start(config_of(tmp_path), machines=TWO)
    with pytest.raises(LabError, match="no machine 2 among 2"):
        start_on_this(config_of(tmp_path), "ddp", 1, MODULE, Place(2, 2, "localhost"))
    assert state(tmp_path / "run").state == "not started"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_states, "BEAT", 0.0)


def test_groups_of_one_machine_share_its_gpus() -> None:
    plan = Plan(3, ("gpu1", "gpu2", "gpu1"), "gpu1", 4_000)
    shares = [gpus_of(plan, number, 2, 4, {}) for number in range(3)]
    assert shares == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert gpus_of(plan, 2, 1, 2, {"CUDA_VISIBLE_DEVICES": "5,7"}) == {"CUDA_VISIBLE_DEVICES": "7"}
    assert gpus_of(plan, 2, 1, 0, {}) == {}


def test_what_machines_print_is_joined_by_lines(tmp_path: Path) -> None:
    reports = {0: Report(0, "gpu1"), 1: Report(1, "gpu2"), 2: Report(2, "gpu3")}  # the last has no log yet
    logs = {number: folder_of_machine(tmp_path, number) / LOG for number in (0, 1)}
    for number, log in logs.items():
        log.parent.mkdir(parents=True)
        log.write_bytes(b"step 1\nste" if number == 0 else b"")
    with open(tmp_path / LOG, "ab", buffering=0) as joint:
        joined = JoinedLogs(tmp_path, joint)
        joined.copy(reports)
        with open(logs[0], "ab") as more, open(logs[1], "ab") as other:
            more.write(b"p 2\n")
            other.write("끝".encode())
        joined.copy(reports)
        joined.copy(reports, rest=True)
    assert (tmp_path / LOG).read_text() == "[0 gpu1] step 1\n[0 gpu1] step 2\n[1 gpu2] 끝\n"


def touch(report: Report, run: Path, at: int) -> None:
    os.utime(folder_of_machine(run, report.number) / machine_states.STATE, ns=(at, at))


def test_a_machine_that_is_not_heard_of_has_failed(looks: None, tmp_path: Path) -> None:
    one, two = Report(0, "gpu1"), Report(1, "gpu2")
    two.write(tmp_path)  # of an earlier start, whose supervisor was killed
    watch = Watch(tmp_path, 2)
    watch.look()
    one.write(tmp_path)
    watch.look()
    assert watch.reports == {0: one}
    for at in range(1, LOST_AFTER + 2):
        touch(one, tmp_path, at)
        if at == 1:
            touch(two, tmp_path, 1)
        watch.look()
        assert [report.number for report in watch.reports.values() if report.state == "failed"] == (
            [1] if at > LOST_AFTER else []
        )
    assert watch.reports[1].cause == "lost"
    over = [watch.is_over]
    replace(one, state="finished").write(tmp_path)
    watch.look()
    assert [*over, watch.is_over] == [False, True]
    how, why = joint_ending(watch.reports.values())
    assert how == "failed" and why.startswith("Machine 1 (gpu2): not heard of for")


def test_only_reports_of_this_start_count(looks: None, tmp_path: Path) -> None:
    replace(Report(0, "gpu1", "old"), state="failed").write(tmp_path)
    watch = Watch(tmp_path, 1, "new")
    watch.look()
    assert not watch.reports
    Report(0, "gpu1", "new").write(tmp_path)
    watch.look()
    assert watch.reports[0].launch == "new" and not watch.trouble


def test_a_machine_that_never_comes_is_waited_for_so_long(
    looks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(tmp_path, 1)
    watch.look()
    assert not watch.trouble
    monkeypatch.setattr(machine_states, "JOIN", -1.0)
    watch.look()
    assert watch.trouble and "Start the same command there, with its own --machine-rank" in watch.trouble.why


def test_who_was_killed_is_the_cause_and_not_who_lost_the_connection(tmp_path: Path) -> None:
    cut = Report(0, "gpu1", state="failed", why="connection closed", cause="raised", at=1.0)
    killed = Report(1, "gpu2", state="failed", why="signal 9", cause="killed", at=2.0)
    told = Report(2, "gpu3", state="failed", cause="told", at=0.0)
    assert first_cause([told, cut, killed]) == killed
    assert first_cause([told, replace(killed, cause="raised"), cut]) == cut  # by time
    assert first_cause([Report(0, "gpu1")]) is None
    assert joint_state(tmp_path)[0] == "failed"
    Report(0, "gpu1").write(tmp_path)
    replace(killed, state="stopped", why="").write(tmp_path)
    assert joint_state(tmp_path) == ("running", "")
    touch(Report(0, "gpu1"), tmp_path, 0)
    assert joint_state(tmp_path) == ("failed", "Machine 0 (gpu1): not heard of any more.")
    replace(Report(0, "gpu1"), state="finished").write(tmp_path)
    assert joint_state(tmp_path) == ("stopped", "")


# --- with processes


@pytest.fixture
def left_alone(tmp_path: Path) -> Iterator[None]:
    with alone(tmp_path):
        yield


ENDLESS = {"max_train_steps": 100_000, "checkpointing_steps": 100_000, "gradient_accumulation_steps": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_a_machine_that_is_gone_ends_the_run_within_a_minute(samples: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, samples=samples, **ENDLESS)
    start(config, "ddp", 1, MODULE, TWO)
    wait_for_words(config.run, "step 2 of")
    for process in processes_of(config.run, 1):  # its supervisor too
        process.kill()
    began = time.monotonic()
    wait_for(config.run, "failed", 60)
    assert time.monotonic() - began < 60
    assert state(config.run).why.startswith("Machine 1 (localhost): not heard of for 30 s: it is down")
    assert not processes_of(config.run)


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_a_run_without_its_lead_is_seen_and_stopped(samples: Path, tmp_path: Path) -> None:
    """As from another machine, which has no process of the run."""
    config = config_of(tmp_path, samples=samples, **ENDLESS)
    start(config, "ddp", 1, MODULE, TWO)
    with pytest.raises(LabError, match="is running already"):
        start(config, "ddp", 1, MODULE, TWO)
    wait_for_words(config.run, "step 2 of")
    os.kill(json.loads((config.run / LAUNCHED).read_text())["pid"], signal.SIGKILL)
    assert state(config.run).state == "running" and joint_state(config.run) == ("running", "")
    assert stop(config.run).state == "stopped"
    assert len(checkpoints(config.run)) == 1
    assert not ranks(config.run)


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_without_ssh_each_machine_starts_its_own_part(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SLOW, "6")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")
    config = config_of(tmp_path, samples=samples, **ENDLESS)
    (tmp_path / "told.json").write_text(config.model_dump_json())
    words = ["--config", str(tmp_path / "told.json"), "--with", "ddp", "--module", MODULE, "--machines", "2"]
    words += ["--main-address", "localhost", "--main-port", str(free_port()), "--machine-rank"]
    command = [sys.executable, "-m", "training.launch", *words]
    parts = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for number in (1, 0)
    ]
    wait_for_words(config.run, "step 2 of")
    # as a scheduler does to one machine, which stops all; torchrun would kill what saves
    send([*processes_of(config.run, 0), psutil.Process(parts[1].pid)], signal.SIGTERM)
    outputs = [part.communicate(timeout=120)[0] for part in parts]
    assert [part.returncode for part in parts] == [STOP_CODE, STOP_CODE], said(config.run)
    assert outputs[1].count("step 2 of") == 1 and "step 2 of" not in outputs[0]
    (saved,) = checkpoints(config.run)
    assert f"The run was stopped after step {saved.name.split('-')[1]} of 100000" in outputs[1]
    assert not processes_of(config.run)


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_a_part_that_lacks_the_weights_ends_the_run_and_says_so(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ssh nobody has asked before: here machine 1 has its weights elsewhere."""
    config = config_of(tmp_path, samples=samples, profile="pocket", max_train_steps=1)
    port = free_port()
    first = start_on_this(config, "ddp", 1, MODULE, Place(0, 2, "localhost", port))
    monkeypatch.setenv("WANAVATAR_WEIGHTS_DIR", str(tmp_path))
    other = start_on_this(config, "ddp", 1, MODULE, Place(1, 2, "localhost", port))
    ending = follow(config.run, first)
    assert other.wait(60) == 1
    assert ending.state == "failed" and ending.why.startswith("Machine 1 (")
    assert f"lacks the network's weights in {tmp_path}" in ending.why


def test_a_plan_survives_a_command_line() -> None:
    plan = Plan(2, ("gpu1", "gpu2"), "gpu1", 4_000, "a", (0, 1))
    assert plan.name_of(1) == "gpu2" and Plan(2, (), "gpu1", 4_000).name_of(1) == socket.gethostname()

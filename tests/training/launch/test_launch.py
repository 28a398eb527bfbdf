"""Runs that are started by a launcher: they are found again, stopped whole, and say who died."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file  # type: ignore[import-untyped]
from accelerate.commands.launch import (  # type: ignore[import-untyped]
    _validate_launch_command,
    launch_command_parser,
)
from accelerate.utils.launch import (  # type: ignore[import-untyped]
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
)
from safetensors.torch import load_file

from tests.training.launched import SLOW
from tests.training.runs import MODULE, alone, finished, ranks, said, wait_for, wait_for_step, wait_for_words
from tests.training.toy import config_of
from training.config import TrainingConfig
from training.launch import launch, supervisor
from training.launch.launch import start, state, stop
from training.launch.machines import Machine
from training.launch.processes import CONFIGS, FAILURES, LAUNCHED, LOG, MARK, ONE, PREVIOUS_LOG, TOLD, processes_of
from training.launch.supervisor import why_failed
from training.loop.checkpoint import same_bits
from training.loop.run_folder import WEIGHTS, checkpoints
from wanavatar_lab.errors import LabError

pytestmark = pytest.mark.slow

WAITS = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"]
ENDLESS = {"max_train_steps": 100_000, "checkpointing_steps": 100_000}


@pytest.fixture(autouse=True)
def left_alone(tmp_path: Path) -> Iterator[None]:
    with alone(tmp_path):
        yield


@contextmanager
def standing_in(run: Path, **marks: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of a run that does nothing."""
    with subprocess.Popen(WAITS, env=os.environ | {MARK: str(run), **marks}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def whole(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a run of one process learns that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with alone(folder):
        return load_file(finished(config_of(folder, samples=samples)) / WEIGHTS)


def test_a_run_that_is_stopped_saves_first_and_goes_on_bit_by_bit(
    whole: dict[str, torch.Tensor], samples: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path, samples=samples, checkpointing_steps=2)
    start(config, module=MODULE)
    with pytest.raises(LabError, match="is running already"):
        start(config, module=MODULE)
    wait_for_step(config.run, 2)
    assert len(processes_of(config.run)) == 2
    assert stop(config.run).state in ("stopped", "finished")
    assert not processes_of(config.run)
    with pytest.raises(LabError, match="nothing to stop"):
        stop(config.run)
    assert same_bits(load_file(finished(config) / WEIGHTS), whole)


def test_the_last_whole_step_is_saved_though_no_checkpoint_was_due(samples: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, samples=samples, **ENDLESS)
    start(config, module=MODULE)
    wait_for_words(config.run, "step 1 of")
    assert stop(config.run).state == "stopped"
    (saved,) = checkpoints(config.run)
    assert f"The run was stopped after step {saved.name.split('-')[1]} of 100000" in said(config.run)


def test_a_run_whose_supervisor_was_killed_is_stopped_all_the_same(samples: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, samples=samples, **ENDLESS)
    start(config, module=MODULE)
    wait_for_words(config.run, "step 1 of")
    os.kill(json.loads((config.run / LAUNCHED).read_text())["pid"], signal.SIGKILL)
    assert state(config.run).state == "running"
    assert stop(config.run).state == "stopped" and not processes_of(config.run)
    assert len(checkpoints(config.run)) == 1


def test_a_run_whose_rank_dies_ends_and_says_which(samples: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, samples=samples, max_train_steps=100_000, gradient_accumulation_steps=1)
    start(config, "ddp", 2, MODULE)
    wait_for_step(config.run, 2)
    victim = ranks(config.run)[1]
    assert sorted(ranks(config.run)) == [0, 1]
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    wait_for(config.run, "failed", 60)
    assert time.monotonic() - began < 60
    why = state(config.run).why
    assert f"Rank 1 (process {victim.pid}) ended the run: signal 9, SIGKILL" in why
    assert why in (json.loads(line)["why"] for line in (config.run / FAILURES).read_text().splitlines())
    assert not processes_of(config.run)


def test_two_processes_that_are_stopped_save_the_same_step(samples: Path, tmp_path: Path) -> None:
    config = config_of(
        tmp_path, samples=samples, max_train_steps=100_000, gradient_accumulation_steps=1, checkpointing_steps=100_000
    )
    start(config, "ddp", 2, MODULE)
    wait_for_words(config.run, "step 2 of")
    assert sorted(ranks(config.run)) == [0, 1]
    assert stop(config.run).state == "stopped", said(config.run)
    assert len(checkpoints(config.run)) == 1 and not processes_of(config.run)


def test_who_is_stopped_may_take_longer_to_save_than_torchrun_would_wait(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SLOW, "6")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")
    config = config_of(
        tmp_path, samples=samples, max_train_steps=100_000, gradient_accumulation_steps=1, checkpointing_steps=100_000
    )
    start(config, "ddp", 2, MODULE)
    wait_for_words(config.run, "step 2 of")
    began = time.monotonic()
    assert stop(config.run).state == "stopped", said(config.run)
    assert time.monotonic() - began > 6
    assert len(checkpoints(config.run)) == 1 and not processes_of(config.run)


def test_ranks_share_the_cores_unless_they_are_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "usable_cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads = {count: supervisor.environment_of("zero2", count)["OMP_NUM_THREADS"] for count in (1, 2, 5, 32)}
    assert threads == {1: "16", 2: "8", 5: "3", 32: "1"}
    assert "OMP_NUM_THREADS" not in supervisor.environment_of("plain", 1)  # torch takes all cores by itself
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert supervisor.environment_of("zero2", 4)["OMP_NUM_THREADS"] == "2"


def test_places_are_found_from_another_folder(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(samples.parent)
    run = Path(os.path.relpath(tmp_path / "run"))
    last = finished(config_of(tmp_path, samples=Path("samples"), run=run, max_train_steps=1))
    assert last == run / "checkpoint-1"
    told = TrainingConfig.model_validate_json((tmp_path / "run" / TOLD).read_text())
    assert told.samples == samples and told.run.is_absolute() and told.run.resolve() == tmp_path / "run"


def test_what_fails_before_it_begins_is_said(tmp_path: Path) -> None:
    config = config_of(tmp_path, samples=tmp_path / "nothing")
    assert state(config.run).state == "not started"
    start(config, module=MODULE)
    wait_for(config.run, "failed")
    assert "There are no encoded samples" in state(config.run).why
    why, first = state(config.run).why, json.loads((config.run / FAILURES).read_text())
    assert first["why"] == why
    start(config, module=MODULE)  # what it said before stays
    wait_for(config.run, "failed")
    assert [json.loads(line)["why"] for line in (config.run / FAILURES).read_text().splitlines()] == [why, why]
    assert why in (config.run / PREVIOUS_LOG).read_text()
    with pytest.raises(LabError, match="2 processes need a launcher: ddp, fsdp2, zero2"):
        start(config, processes=2)
    with pytest.raises(LabError, match="0 processes are too few"):
        start(config, "ddp", 0)


def test_why_a_run_failed_is_read_from_its_launcher() -> None:
    table = "Root Cause (first observed failure):\n[0]:\n  rank      : 3 (local_rank: 1)\n  exitcode  : 1 (pid: 77)\n"
    assert why_failed(table, 1) == f"Rank 3 (process 77) ended the run: exit code 1. See {LOG}."
    said = {0: "RuntimeError: connection closed", 3: "The GPU has too little memory."}
    assert (
        why_failed(table, 1, said) == "Rank 3 (process 77) ended the run: exit code 1. The GPU has too little memory."
    )
    assert why_failed(table, 1, {0: said[0]}).endswith(f"See {LOG}.")
    assert "signal 9, SIGKILL" in (killed := why_failed("one\ntwo\n\n", -9)) and killed.endswith(": two")
    assert why_failed("", 2) == "The training ended with exit code 2. Its last line: (none)"


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_takes_the_configs_that_ship(name: str) -> None:
    path = CONFIGS[name]
    config = load_config_from_file(str(path))
    written = yaml.safe_load(path.read_text())
    assert config.to_dict()["num_processes"] == written["num_processes"]
    parser = launch_command_parser()
    arguments = parser.parse_args(["--config_file", str(path), "--num_processes", "2", "-m", "training.train"])
    found, _, _ = _validate_launch_command(arguments)
    assert found.num_processes == 2
    assert (bool(found.use_deepspeed), bool(found.use_fsdp), bool(found.multi_gpu)) == (
        name == "zero2",
        name == "fsdp2",
        name == "ddp",
    )
    words = ["--config_file", str(path), "--num_machines", "2", "--machine_rank", "1", "--num_processes", "16"]
    words += ["--main_process_ip", "gpu1", "--main_process_port", "29500", "-m", "training.train"]
    two, _, _ = _validate_launch_command(parser.parse_args(words))
    if name == "zero2":
        two.deepspeed_fields_from_accelerate_config = ""  # as `accelerate launch` does
        prepare_deepspeed_cmd_env(two)
    else:
        prepare_multi_gpu_env(two)
    assert (two.nnodes, two.nproc_per_node, two.node_rank) == ("2", "8", 1)
    assert (two.rdzv_backend, two.rdzv_endpoint) == ("static", "gpu1:29500")
    if name == "zero2":
        assert (int(found.zero_stage), found.offload_optimizer_device) == (2, "cpu")
    if name == "fsdp2":
        assert int(found.fsdp_version) == 2


HOSTILE = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config: {zero_stage: 3, deepspeed_multinode_launcher: standard}
dynamo_config: {dynamo_backend: INDUCTOR}
mixed_precision: fp16
num_machines: 2
num_processes: 16
machine_rank: 1
main_process_ip: 10.0.0.1
main_process_port: 29500
"""
# what a process that accelerate starts gets to see, with a config named and without
LAUNCHED_WITH = """
import json, sys
from accelerate.commands.launch import _validate_launch_command, launch_command_parser, prepare_simple_launcher_cmd_env

def facts(*words):
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*words, "-m", "training.train"]))
    command, environ = prepare_simple_launcher_cmd_env(arguments)
    names = ("num_machines", "num_processes", "use_deepspeed", "multi_gpu")
    chosen = {name: getattr(arguments, name) for name in names}
    return chosen | {name: value for name, value in environ.items() if name.startswith("ACCELERATE_")}

print(json.dumps([facts("--config_file", sys.argv[1]), facts()]))
"""


def test_the_users_own_config_changes_nothing_where_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text(HOSTILE)
    words = [sys.executable, "-c", LAUNCHED_WITH, str(ONE)]
    environ = os.environ | {"HF_HOME": str(tmp_path)}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    named, not_named = json.loads(done.stdout.splitlines()[-1])
    assert (not_named["num_machines"], not_named["use_deepspeed"]) == (2, True), "accelerate reads such a config"
    assert not_named["ACCELERATE_DYNAMO_BACKEND"] == "INDUCTOR"
    assert (named["num_machines"], named["num_processes"]) == (1, 1)
    assert not named["use_deepspeed"] and not named["multi_gpu"]
    assert (named["ACCELERATE_MIXED_PRECISION"], named["ACCELERATE_DYNAMO_BACKEND"]) == ("no", "NO")


def test_a_number_that_another_process_has_now_is_no_run(tmp_path: Path) -> None:
    (tmp_path / LAUNCHED).write_text(f'{{"pid": {os.getpid()}, "started": 1.0}}')
    assert state(tmp_path).state == "failed"


def test_a_run_is_found_by_another_name_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with standing_in(tmp_path / "notebooks" / ".." / "run") as supervisor:
        assert [each.pid for each in processes_of(tmp_path / "run")] == [supervisor.pid]
        assert [each.pid for each in processes_of(tmp_path / "link")] == [supervisor.pid]
        assert processes_of(tmp_path / "notebooks") == []


def test_a_supervisor_is_told_to_stop_also_where_the_clock_was_set_since(tmp_path: Path) -> None:
    with standing_in(tmp_path) as supervisor, standing_in(tmp_path, RANK="0") as rank:
        began = psutil.Process(supervisor.pid).create_time() - 3600
        (tmp_path / LAUNCHED).write_text(json.dumps({"pid": supervisor.pid, "started": began, "processes": 1}))
        assert stop(tmp_path, patience=3).why == ""
        assert (supervisor.wait(), rank.wait()) == (-signal.SIGTERM, -signal.SIGTERM)


def test_two_who_start_a_run_at_once_start_it_once(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first asks the machines."""
    config = config_of(tmp_path, samples=samples)

    def asked(*_: object) -> int:
        with pytest.raises(LabError, match="Another process starts the run"):
            start(config, module=MODULE)
        raise LabError("A machine does not answer.")

    monkeypatch.setattr(launch, "check_machines", asked)
    with pytest.raises(LabError, match="does not answer"):
        start(config, "ddp", machines=[Machine("localhost")])
    assert state(config.run).state == "not started"

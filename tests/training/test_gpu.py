"""Training on GPUs, and on two of them by NCCL: what is learnt, and what happens where one of them dies."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.s2v.toy import relative_error
from tests.training.runs import MODULE, alone, finished, ranks, wait_for, wait_for_step
from tests.training.toy import config_of
from training.launch.launch import start, state
from training.launch.machines import read_machines
from training.launch.processes import Launcher, processes_of
from training.loop.checkpoint import STATE, same_bits
from training.loop.run_folder import WEIGHTS

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def left_alone(tmp_path: Path) -> Iterator[None]:
    with alone(tmp_path, gpus=True):
        yield


@pytest.fixture(scope="module")
def whole(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of one GPU that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with alone(folder, gpus=True):
        return finished(config_of(folder, samples=samples))


def test_a_run_that_goes_on_has_the_same_bits(whole: Path, samples: Path, tmp_path: Path) -> None:
    for steps in (2, 5, 6):
        last = finished(config_of(tmp_path, samples=samples, max_train_steps=steps))
    for file in (WEIGHTS, STATE):
        assert same_bits(load_file(last / file), load_file(whole / file))


@pytest.mark.multi_gpu
@pytest.mark.parametrize("hosts", ["", "localhost slots=1, localhost slots=1"])
@pytest.mark.parametrize("launcher", ["ddp", "fsdp2", "zero2"])
def test_two_gpus_of_which_one_dies_learn_what_one_does(
    launcher: Launcher, hosts: str, whole: Path, samples: Path, tmp_path: Path
) -> None:
    """As two processes of one machine, and as two groups, as on two machines."""
    how = launcher, (1 if hosts else 2)
    machines = read_machines(hosts)
    config = config_of(tmp_path, samples=samples, gradient_accumulation_steps=1, max_train_steps=100_000)
    start(config, *how, MODULE, machines)
    wait_for_step(config.run, 2)
    victim = ranks(config.run)[1]
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    wait_for(config.run, "failed", 60)
    print(f"{launcher}: ended {time.monotonic() - began:.1f} s after its rank")
    assert f"Rank 1 (process {victim.pid}) ended the run: signal 9, SIGKILL" in state(config.run).why
    assert not processes_of(config.run)

    again = tmp_path / "again"
    finished(config_of(again, samples=samples, gradient_accumulation_steps=1, max_train_steps=2), *how, machines)
    last = finished(config_of(again, samples=samples, gradient_accumulation_steps=1), *how, machines)
    for file in (WEIGHTS, STATE):
        found, wanted = load_file(last / file), load_file(whole / file)
        assert found.keys() == wanted.keys()
        flat, expected = (torch.cat([tensors[name].flatten() for name in wanted]) for tensors in (found, wanted))
        error = relative_error(flat, expected)
        print(f"{launcher}: {file} differs by {error:.1e}")
        assert error < 1e-5

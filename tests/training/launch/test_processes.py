"""Several processes learn what one learns that accumulates as much, whatever it is that they share.

All at once: blocks computed again, a base in float8, audio parts, an average, validation, and sample clips.
"""

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.s2v.toy import relative_error
from tests.training.loop.test_not_finite import break_samples
from tests.training.runs import MODULE, alone, finished, ranks, said, stand_in_for_ssh, wait_for, wait_for_step
from tests.training.toy import config_of, write_samples
from training.config import TrainingConfig
from training.launch.launch import start, state
from training.launch.machines import read_machines
from training.launch.processes import FAILURES, MACHINE, Launcher, processes_of
from training.loop.checkpoint import STATE
from training.loop.run_folder import AUDIO_MODULES, WEIGHTS, read_metrics
from wanavatar_lab.media import Audio, write_audio

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EVERYTHING: dict[str, Any] = {
    "profile": "pocket",
    "mixed_precision": "bf16",
    "base_dtype": "fp8",
    "gradient_checkpointing": True,
    "keep_attention": 1,
    "audio_encoder_rate": 1e-3,
    "audio_injectors_rate": 1e-3,
    "ema_decay": 0.9,
    "checkpointing_steps": 1,
    "validation_steps": 3,
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "samples"
    write_samples(folder)
    write_audio(folder / "sample-5.wav", Audio(np.zeros((8_000, 1), np.float32), 16_000))
    return folder


@pytest.fixture(autouse=True)
def left_alone(tmp_path: Path) -> Iterator[None]:
    with alone(tmp_path):
        yield


@pytest.fixture(scope="module")
def whole(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with alone(folder):
        return finished(told(folder, samples, gradient_accumulation_steps=2))


def told(folder: Path, samples: Path, **changes: Any) -> TrainingConfig:
    return config_of(folder, samples=samples, **(EVERYTHING | changes))


def compare(mine: Path, theirs: Path) -> None:
    """LoRA, audio parts, moments and averages, each as a whole; what is predicted; norms of the whole gradient."""
    for file in (WEIGHTS, AUDIO_MODULES, STATE):
        one, other = load_file(mine / file), load_file(theirs / file)
        assert one.keys() == other.keys()
        for kind in {name.rpartition(".")[2] for name in one}:
            names = [name for name in one if name.endswith(f".{kind}")]
            flat, wanted = (torch.cat([tensors[name].flatten() for name in names]) for tensors in (one, other))
            assert relative_error(flat, wanted) <= 1e-5, (file, kind)
    found, errors = (read_metrics(folder.parent, "validation")[-1] for folder in (mine, theirs))
    assert found["step"] == 6 and found.keys() == errors.keys()
    numbers = found.keys() - {"kind", "time"}
    assert [found[name] for name in numbers] == pytest.approx([errors[name] for name in numbers], rel=1e-5)
    norms, expected = (
        [line["gradient_norm"] for line in read_metrics(folder.parent, "train")] for folder in (mine, theirs)
    )
    assert len(norms) == 6 and norms == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("launcher", ["fsdp2", "zero2"])
def test_two_processes_of_which_one_dies_learn_what_one_does(
    launcher: Launcher, whole: Path, samples: Path, tmp_path: Path
) -> None:
    if launcher == "zero2":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    half = told(tmp_path, samples, gradient_accumulation_steps=1, sample_every_n_steps=6, num_inference_steps=1)
    start(half, launcher, 2, MODULE)
    wait_for_step(half.run, 2)
    assert sorted(ranks(half.run)) == [0, 1]
    environment = ranks(half.run)[1].environ()
    assert ("ACCELERATE_USE_DEEPSPEED" in environment) == (launcher == "zero2")
    ranks(half.run)[1].send_signal(signal.SIGKILL)
    wait_for(half.run, "failed")
    compare(finished(half, launcher, 2), whole)
    assert (half.run / "clips" / "000006-sample-5.mp4").is_file()
    shares = re.findall(r"each process has ([\d.]+) of ([\d.]+) MB of frozen weights", said(half.run))
    assert [float(share) / float(of) < 0.6 for share, of in shares] == [True] * (launcher == "fsdp2")


def test_a_run_goes_on_with_its_frozen_weights_spread_and_whole_again(
    whole: Path, samples: Path, tmp_path: Path
) -> None:
    finished(told(tmp_path, samples, gradient_accumulation_steps=2, max_train_steps=2))
    finished(told(tmp_path, samples, gradient_accumulation_steps=1, max_train_steps=4), "fsdp2", 2)
    compare(finished(told(tmp_path, samples, gradient_accumulation_steps=2)), whole)


@pytest.mark.parametrize(("launcher", "goes_on"), [("ddp", "here"), ("zero2", "there"), ("fsdp2", "alone")])
def test_two_machines_of_which_one_loses_a_process_learn_what_one_does(
    launcher: Launcher, goes_on: str, whole: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on there, or with the two processes on one machine, or with one process."""
    if launcher == "zero2":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    half = told(tmp_path, samples, gradient_accumulation_steps=1)
    stand_in_for_ssh(tmp_path, monkeypatch)
    machines = read_machines(f"{socket.gethostname()} slots=1, other slots=1")
    start(half, launcher, 1, MODULE, machines)
    wait_for_step(half.run, 2)
    victim, other = ranks(half.run)[1], ranks(half.run)[0]
    assert (victim.environ()[MACHINE], other.environ()[MACHINE]) == ("1", "0")
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    wait_for(half.run, "failed")
    assert time.monotonic() - began < 60
    why = f"Machine 1 (other): Rank 1 (process {victim.pid}) ended the run: signal 9, SIGKILL"
    assert state(half.run).why.startswith(why), said(half.run)
    assert why in (half.run / FAILURES).read_text() and not processes_of(half.run)
    steps = [line for line in said(half.run).splitlines() if "step 2 of" in line]
    assert len(steps) == 1 and steps[0].startswith(f"[0 {socket.gethostname()}] ")  # global rank 0 alone says it
    if goes_on == "alone":
        compare(finished(told(tmp_path, samples, gradient_accumulation_steps=2)), whole)
    else:
        compare(finished(half, launcher, *((1, machines) if goes_on == "there" else (2,))), whole)
    assert len(list((half.run / "tensorboard").iterdir())) == 2  # one writer a start


@pytest.mark.parametrize("launcher", ["fsdp2", "zero2"])
def test_two_processes_skip_a_step_whose_gradient_is_not_finite(launcher: Launcher, tmp_path: Path) -> None:
    """Of one sample the gradient is NaN on one of them."""
    if launcher == "zero2":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    write_samples(tmp_path / "samples", held_out=0)
    break_samples(tmp_path / "samples", "sample-1")
    plain = {"audio_encoder_rate": 0.0, "audio_injectors_rate": 0.0, "base_dtype": "own", "validation_steps": 0}
    alone_ = finished(told(tmp_path, tmp_path / "samples", run=tmp_path / "one", **plain))
    half = told(tmp_path, tmp_path / "samples", run=tmp_path / "two", gradient_accumulation_steps=1, **plain)
    shared = finished(half, launcher, 2)
    counts = [[line["skipped_steps"] for line in read_metrics(folder.parent, "train")] for folder in (alone_, shared)]
    assert counts[0] == counts[1] and counts[0][-1] > 0
    for file in (WEIGHTS, STATE):
        one, other = load_file(alone_ / file), load_file(shared / file)
        flat, wanted = (torch.cat([tensors[name].flatten() for name in one]) for tensors in (other, one))
        assert relative_error(flat, wanted) <= 1e-5, file

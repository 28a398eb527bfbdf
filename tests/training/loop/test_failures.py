"""A run that ends for want of disk or memory: what it says, what is left, and where the reason stays."""

import json
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.s2v.toy import toy_model
from tests.training.forked import Run
from tests.training.toy import config_of, write_samples
from training.launch import folder_locks
from training.launch.folder_locks import training_in
from training.launch.processes import FAILURES, failures_since
from training.loop.out_of_memory import out_of_memory
from training.loop.run_folder import CLIPS, METRICS, WEIGHTS, checkpoints, read_metrics
from training.loop.run_log import Log
from training.train import train
from training.ui.clips import sampled
from wanavatar_lab.errors import DiskFull, LabError


def test_a_disk_that_is_full_at_a_checkpoint_is_said_and_the_run_resumes(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples")
    config, file = config_of(tmp_path), tmp_path / "told.json"
    file.write_text(config.model_dump_json())
    train(config.model_copy(update={"max_train_steps": 2}), toy_model())
    (first,) = checkpoints(config.run)
    size = (first / WEIGHTS).stat().st_size
    before = load_file(first / WEIGHTS)
    said = Run(file, file_bytes=size // 2).finish(exit_code=1)
    assert "Traceback" not in said
    assert (
        f"no room for checkpoint-4 in {config.run}. Free some space there, or set --run to a folder on a larger" in said
    )
    names = {path.name for path in config.run.iterdir()}
    assert not any(name.startswith(".checkpoint") for name in names) and checkpoints(config.run) == [first]
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(first / WEIGHTS).items())
    assert json.loads((config.run / FAILURES).read_text())["why"] in said
    train(config, toy_model())
    assert [line["step"] for line in read_metrics(config.run, "train")] == [1, 2, 3, 4, 5, 6]
    assert "checkpoint-4" in (config.run / FAILURES).read_text()  # after another start too


def test_a_file_in_the_place_of_the_runs_folder_is_named(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples")
    (tmp_path / "run").touch()
    with pytest.raises(LabError, match=r"run is no folder\. Move it away, or set --run to a folder"):
        train(config_of(tmp_path), toy_model())


def test_clips_of_steps_that_are_computed_again_are_not_taken_for_the_latest(tmp_path: Path) -> None:
    """As after a look at checkpoints has led back to an earlier one, and those after it were removed."""
    (tmp_path / CLIPS).mkdir()
    for name in ("true-a", "000000-a", "000002-a", "000004-a", "000010-b-0016"):
        (tmp_path / CLIPS / f"{name}.mp4").touch()
    Log(tmp_path, 2).close()
    (clip,) = sampled(tmp_path)
    assert [*clip.made] == [0, 2]
    assert len(list((tmp_path / CLIPS).iterdir())) == 3


def test_a_log_is_shortened_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"kind": "train", "step": step, "loss": 1.0}) for step in range(1, 5)]
    text = "\n".join([*lines[:3], lines[3][:9], ""])
    (tmp_path / METRICS).write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: 1 / 0)  # the process is killed before the last moment
        with pytest.raises(ZeroDivisionError):
            Log(tmp_path, 2)
    assert (tmp_path / METRICS).read_text() == text
    log = Log(tmp_path, 2)
    log.write("train", 3, {"loss": 2.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_disk_that_is_full_at_tensorboards_file_is_said(tmp_path: Path) -> None:
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = Log(tmp_path, 0)
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: None)  # that of the writer's thread, which raises too
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            with pytest.raises(DiskFull, match=f"There is no room for tensorboard in {tmp_path}"):
                log.show_masks("masks", 0, noise, *(torch.zeros(4, 8, 8) for _ in range(2)))
                log.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)


def test_memory_that_ran_out_is_said_with_the_settings_that_have_room(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples")
    network: Any = toy_model()
    network.blocks[0].register_forward_pre_hook(lambda *_: torch.empty(1 << 60))
    with pytest.raises(LabError, match="The machine has too little main memory") as said:
        train(config_of(tmp_path, offload=None, ema_decay=0.9), network)
    assert "--offload 0" in str(said.value) and "--ema_decay 0" in str(said.value) and "--frames 48" in str(said.value)
    assert failures_since(tmp_path / "run", 0) == {0: str(said.value)}
    assert failures_since(tmp_path / "run", 1e12) == {}


def test_a_second_training_is_no_failure_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_locks, "_PATIENCE", 0.2)
    write_samples(tmp_path / "samples")
    config = config_of(tmp_path)
    config.run.mkdir()
    with training_in(config.run, config.samples), pytest.raises(LabError, match="Another training is running"):
        train(config, toy_model())
    assert not (config.run / FAILURES).exists()


def test_what_is_lowered_already_is_not_named(tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    rich = config_of(tmp_path, rank=128, train_batch_size=2, keep_attention=None)
    said = str(out_of_memory(error, rich, 2))
    for setting in ("--gradient_checkpointing true", "--offload all", "--mixed_precision bf16", "--train_batch_size 1"):
        assert setting in said
    assert "--keep_attention 0" in said and "--base_dtype fp8" in said and "fsdp2" in said and "--rank 64" in said
    assert "--swap_blocks" not in said and "--swap_blocks 24" in str(out_of_memory(error, rich, 1))
    lean = {"gradient_checkpointing": True, "offload": None, "mixed_precision": "bf16", "base_dtype": "fp8", "rank": 16}
    lean |= {"optimizer": "adamw8bit", "swap_blocks": 30}
    said = str(out_of_memory(error, config_of(tmp_path, **lean), 1))
    assert said.startswith("The GPU has too little memory for this training. Try, one after another: encode shorter")
    assert out_of_memory(ValueError("other"), rich, 1) is None


def test_another_profile_does_not_resume_a_run(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples")
    train(config_of(tmp_path, profile="pocket", max_train_steps=2), toy_model())
    with pytest.raises(LabError, match=r"profile 'pocket' and now 'full'\. Use its settings to resume"):
        train(config_of(tmp_path, profile="full"), toy_model())

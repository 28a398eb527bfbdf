"""The benchmark of a whole run: what it makes of a log, what it refuses, and that it runs where there is no GPU."""

import json
from pathlib import Path

import pytest

from tests.training.runs import alone
from training import bench_run
from training.config import TrainingConfig
from training.launch.processes import processes_of
from training.loop.run_folder import METRICS, checkpoints


def test_samples_a_second_include_saving_and_going_on(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": 1, "seconds": 100.0},
        {"kind": "train", "step": 2, "seconds": 10.0},
        {"kind": "train", "step": 3, "seconds": 10.0},
        {"kind": "checkpoint", "step": 3, "seconds": 80.0},
        {"kind": "resume", "step": 3, "seconds": 20.0},
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = bench_run.figures(TrainingConfig(samples=tmp_path, run=tmp_path, gradient_accumulation_steps=4), 2)
    # fifty steps of eight samples take 500 s, and 100 s more
    assert (found["samples_per_second_of_steps"], found["samples_per_second"]) == (0.8, round(400 / 600, 4))
    assert (found["step_s"], found["first_step_s"]) == (10, 100)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--steps 1", "1 steps are too few"),
        ("--processes 3 --with ddp", "8 samples a step cannot be shared by 3 processes evenly"),
        ("--processes 2", "2 processes need a launcher: --with ddp or fsdp2 or zero2"),
        ("--processes 0 --with ddp", "8 samples a step on 0 processes are none"),
        ("--samples-a-step 0", "0 samples a step on 1 processes are none"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_run.main(["--toy", "--run", str(tmp_path / "run"), *words.split()]) == 1
    assert why in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert bench_run.main(["--toy", "--run", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("words", ["", "--with ddp --processes 2"])
def test_a_run_is_made_and_gone_on_with(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    with alone(tmp_path):
        assert bench_run.main(["--toy", "--steps", "2", "--run", str(run), *words.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples_a_step"] == 8 and found["processes"] == (2 if words else 1)
    assert 0 < found["samples_per_second"] <= found["samples_per_second_of_steps"]
    assert found["resume_s"] > 0 and [folder.name for folder in checkpoints(run)] == ["checkpoint-2"]


@pytest.mark.slow
def test_an_interrupted_benchmark_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"

    def interrupted(started: Path) -> None:
        assert processes_of(started)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_run, "_wait", interrupted)
    with alone(tmp_path), pytest.raises(KeyboardInterrupt):
        bench_run.main(["--toy", "--run", str(run)])
    assert not processes_of(run)

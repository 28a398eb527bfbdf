"""A run of training: it learns, it goes on bit by bit after a kill, and processes may share it."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.lora.files import output
from tests.s2v.toy import relative_error, toy_model
from tests.training.forked import Run
from tests.training.loop.test_not_finite import break_samples
from tests.training.toy import config_of, write_samples
from training.config.training_config import OLD_NAMES
from training.launch.processes import STOP_CODE
from training.loop.checkpoint import FACTS, same_bits
from training.loop.run_folder import CONFIG, METRICS, WEIGHTS, checkpoints, read_metrics, step_of
from training.model.adapter import add_adapter, load_adapter_tensors
from training.train import Stopped, StopRequest, main, train
from wanavatar_lab.errors import LabError
from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.lora.match import match
from wanavatar_lab.weights.safetensors_header import read_header

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples and a run that was never broken off."""
    folder = tmp_path_factory.mktemp("training")
    write_samples(folder / "samples")
    # in a process of its own, as those that it is compared with: how torch adds up depends on what a process did before
    Run(write_config(folder, folder, validation_steps=3)).finish()
    return folder


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run)[-1] / WEIGHTS)


def write_config(folder: Path, samples: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "told.json"
    file.write_text(config_of(folder, samples=samples / "samples", **changes).model_dump_json())
    return file


def test_what_is_logged_of_a_run(trained: Path) -> None:
    steps = read_metrics(trained / "run", "train")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "lip", "face", "background", "motion", "lip_area", "gradient_norm"} <= steps[0].keys()
    groups = [value for name, value in steps[0].items() if name.startswith("gradient_norm_of_")]
    assert len(groups) == 4 and sum(value**2 for value in groups) ** 0.5 == pytest.approx(steps[0]["gradient_norm"])
    assert any(name.startswith("error_of_branch_") for name in steps[0])
    assert [line["step"] for line in read_metrics(trained / "run", "validation")] == [3, 6]
    (base,) = read_metrics(trained / "run", "base")
    assert sum(name.startswith("lip/") for name in base) == 8
    assert json.loads((trained / "run" / "config.json").read_text())["rank"] == 4


def test_tensorboard_has_losses_and_errors_apart_and_the_base_on_the_curve_of_validation(
    trained: Path,
) -> None:
    board = EventAccumulator(str(trained / "run" / "tensorboard"))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert {tag.partition("/")[0] for tag in tags} == {"error", "gradient", "loss", "masks", "step", "validation"}
    assert {"loss/loss", "loss/main", "loss/motion", "loss/full", "loss/full_main", "step/learning_rate"} <= set(tags)
    assert "config/text_summary" in board.Tags()["tensors"]
    assert [event.step for event in board.Scalars("validation/lip")] == [0, 3, 6]


def test_what_was_logged_before_the_first_checkpoint_goes_when_the_run_begins_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, samples=trained / "samples", max_train_steps=4, checkpointing_steps=4)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("training.train.save_checkpoint", lambda *_: 1 / 0)
        train(config, toy_model())
    train(config, toy_model())
    told = [f"{line['kind']} {line['step']}" for line in read_metrics(config.run)]
    assert told == ["base 0", *(f"train {step}" for step in (1, 2, 3, 4)), "checkpoint 4", "validation 4"]
    board = EventAccumulator(str(config.run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss/loss")] == [1, 2, 3, 4]
    assert [event.step for event in board.Scalars("validation/lip")] == [0, 4]


def test_how_long_checkpoints_and_going_on_took_is_noted(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    Run(write_config(tmp_path, trained, validation_steps=3, max_train_steps=8)).finish()
    saved, resumed = (read_metrics(tmp_path / "run", kind) for kind in ("checkpoint", "resume"))
    assert [line["step"] for line in saved] == [2, 4, 6, 8] and [line["step"] for line in resumed] == [6]
    assert all(line["seconds"] > 0 for line in [*saved, *resumed])


def test_only_the_newest_checkpoints_stay(trained: Path) -> None:
    assert [folder.name for folder in checkpoints(trained / "run")] == ["checkpoint-4", "checkpoint-6"]


def test_the_file_is_a_lora_that_inference_applies(trained: Path) -> None:
    file = checkpoints(trained / "run")[-1] / WEIGHTS
    header = read_header(file)
    assert header.metadata["ss_network_dim"] == "4" and header.metadata["ss_network_alpha"] == "2"
    network, whole = toy_model(), toy_model()
    tensors = load_file(file)
    adapters = adapters_of(network)
    adapters.load("me", match(network, tensors, header.metadata, file.name))
    adapters.set_weights({"me": 1.0})
    layers = add_adapter(whole, 4, 2.0, seed=0)
    load_adapter_tensors(whole, tensors)
    assert len(layers) == 2 * len([key for key in tensors if key.endswith(".alpha")])
    plain = output(toy_model())
    assert relative_error(output(network), output(whole)) < 1e-5
    assert relative_error(output(network), plain) > 1e-4


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(trained: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, trained, checkpointing_steps=1)
    for step in (1, 3, 4):
        run, deadline = Run(file), time.monotonic() + 120
        while not any(int(folder.name.split("-")[1]) >= step for folder in checkpoints(tmp_path / "run")):
            assert run.process.is_alive() and time.monotonic() < deadline, run.output
            time.sleep(0.01)
        run.process.kill()
        run.process.join()
    Run(file).finish()
    assert same_bits(weights_of(tmp_path / "run"), weights_of(trained / "run"))
    assert [line["step"] for line in read_metrics(tmp_path / "run", "train")] == [1, 2, 3, 4, 5, 6]


def test_two_processes_are_one_that_accumulates_twice_as_often(trained: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, trained, gradient_accumulation_steps=1)
    for run in [Run(file, rank, 2) for rank in range(2)]:
        run.finish()
    mine, theirs = weights_of(trained / "run"), weights_of(tmp_path / "run")
    assert mine.keys() == theirs.keys()
    moved = torch.cat([mine[key].flatten() - theirs[key].flatten() for key in mine])
    assert float(moved.norm() / torch.cat([tensor.flatten() for tensor in mine.values()]).norm()) <= 1e-5
    logged = [read_metrics(folder / "run", "train") for folder in (trained, tmp_path)]
    for one, other in zip(*logged, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"kind", "time", "seconds", "peak_cpu_memory_gb"}:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name


def test_processes_skip_a_step_alike_whose_gradient_is_not_finite(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", held_out=0)
    break_samples(tmp_path / "samples", "sample-1")
    files = [
        write_config(tmp_path / f"{processes}", tmp_path, gradient_accumulation_steps=2 // processes)
        for processes in (1, 2)
    ]
    for run in [Run(files[0]), Run(files[1], 0, 2), Run(files[1], 1, 2)]:
        run.finish()
    one, two = (read_metrics(file.parent / "run", "train") for file in files)
    assert [line["skipped_steps"] for line in one] == [line["skipped_steps"] for line in two]
    assert one[-1]["skipped_steps"] > 0
    mine, theirs = (weights_of(file.parent / "run") for file in files)
    assert all(torch.allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-6) for name in mine)


@pytest.mark.slow  # it waits for longer than processes wait for each other
def test_a_network_may_take_longer_to_load_than_processes_wait_for_each_other(trained: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, trained, max_train_steps=1)
    for run in [Run(file, rank, 2, loading=6.0 * rank, timeout=4.0) for rank in range(2)]:
        run.finish()
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["checkpoint-1"]


@pytest.mark.slow  # it compiles; model/test_activations.py compiles blocks for training
@pytest.mark.parametrize(
    ("backend", "samples", "said", "graphs"),
    [
        ("eager", 3, "3 samples in 2 shapes (2, 1), 2 a step, 6 steps", 4),
        ("aot_eager", 6, "6 samples in 3 shapes (3, 2, 1), 2 a step, 6 steps", 6),
    ],
)
def test_each_shape_is_compiled_once_and_counted(
    backend: str,
    samples: int,
    said: str,
    graphs: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_samples(tmp_path / "samples", samples, held_out=0)
    plainly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **told: plainly(function, backend=backend, **told))
    config = config_of(tmp_path, compile=True, gradient_checkpointing=True, deterministic=False)
    train(config, toy_model())
    assert said in capsys.readouterr().out
    counts = [int(line["compiled_graphs"]) for line in read_metrics(config.run, "train")]
    # two kinds of blocks, with audio and without, in each shape; the second epoch compiles nothing more
    assert counts[2:] == [graphs] * 4 and counts == sorted(counts) and counts[0] >= 2


def test_a_run_that_was_told_otherwise_does_not_go_on(trained: Path) -> None:
    with pytest.raises(LabError, match=r"conditioning_dropout_prob 0\.1 and now 0\.5"):
        train(config_of(trained, conditioning_dropout_prob=0.5), toy_model())


def test_a_run_of_an_earlier_release_resumes(trained: Path, tmp_path: Path) -> None:
    """Its settings, and the facts of its checkpoints, have the old names."""
    old = {new: name for name, new in OLD_NAMES.items()}
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    shutil.rmtree(run / "checkpoint-6")
    for file in (run / CONFIG, run / "checkpoint-4" / FACTS):
        fields = {old.get(name, name): value for name, value in json.loads(file.read_text()).items()}
        assert "batch" in fields
        file.write_text(json.dumps(fields))
    settings = json.loads((run / CONFIG).read_text()) | {"run": str(run), "precision": "float32"}
    (run / CONFIG).write_text(json.dumps(settings))
    said = Run(run / CONFIG).finish()
    assert said.count("Old names of training settings") == 1 and "resumed from step 4 of 6" in said
    assert same_bits(weights_of(run), weights_of(trained / "run"))


def test_samples_that_are_others_are_not_gone_on_with(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    listed = tmp_path / "copy" / "samples" / "samples.json"
    for file in listed.parent.glob("sample-*"):
        file.rename(file.with_name(file.name.replace("sample", "other")))
    listed.write_text(listed.read_text().replace('"sample-', '"other-'))
    with pytest.raises(LabError, match=r"samples_hash '\w+' and now '\w+'\."):
        train(config_of(tmp_path / "copy"), toy_model())


def test_processes_that_see_different_checkpoints_do_not_begin(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.gather_object", lambda found: [*found, "none"])
    with pytest.raises(LabError, match=r"see different checkpoints in .*: checkpoint-6, none"):
        train(config_of(trained), toy_model())


@pytest.mark.parametrize("lost", [True, False])
def test_a_validation_that_a_kill_prevented_is_made_up_for(trained: Path, tmp_path: Path, lost: bool) -> None:
    log = tmp_path / "run" / METRICS
    train(config_of(tmp_path, samples=trained / "samples", max_train_steps=4, validation_steps=2), toy_model())
    if lost:
        kept = [line for line in log.read_text().splitlines() if '"validation", "step": 4' not in line]
        log.write_text("\n".join([*kept, ""]))
    train(config_of(tmp_path, samples=trained / "samples", validation_steps=2), toy_model())
    assert [line["step"] for line in read_metrics(tmp_path / "run", "validation")] == [2, 4, 6]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_saves_its_last_step(number: signal.Signals, trained: Path, tmp_path: Path) -> None:
    file, deadline = write_config(tmp_path, trained, max_train_steps=10_000, checkpointing_steps=10_000), 120
    run, began = Run(file), time.monotonic()
    while not read_metrics(tmp_path / "run", "train"):
        assert run.process.is_alive() and time.monotonic() < began + deadline, run.output
        time.sleep(0.01)
    assert run.process.pid is not None
    os.kill(run.process.pid, number)
    said = run.finish(exit_code=STOP_CODE)
    (saved,) = checkpoints(tmp_path / "run")
    assert step_of(saved) == read_metrics(tmp_path / "run", "train")[-1]["step"]
    assert f"The run was stopped after step {step_of(saved)} of 10000, which is saved" in said
    assert ("Ctrl-C once more ends" in said) == (number == signal.SIGINT) and "Traceback" not in said


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    one = Accelerator(cpu=True)
    with StopRequest(one) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_stopped_before_the_next_step_the_checkpoint_is_left_alone(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config_of(tmp_path, samples=trained / "samples", max_train_steps=2), toy_model())
    (saved,) = checkpoints(tmp_path / "run")
    before = saved.stat().st_ino
    monkeypatch.setattr("training.train.StopRequest.received", lambda _: True)
    with pytest.raises(Stopped, match="after step 2 of 6, which is saved"):
        train(config_of(tmp_path, samples=trained / "samples"), toy_model())
    assert saved.stat().st_ino == before and checkpoints(tmp_path / "run") == [saved]


def test_a_run_that_has_done_more_steps_than_it_is_given_ends_at_once(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    train(config_of(tmp_path, samples=trained / "samples", max_train_steps=4), toy_model())
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["checkpoint-4", "checkpoint-6"]


def test_what_cannot_be_trained_on_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no encoded samples"):
        main(["--recipe", "pocket", "--samples", str(tmp_path), "--run", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match="rank"):
        main(["--samples", str(tmp_path), "--run", str(tmp_path / "run"), "--set", "rank", "0"])

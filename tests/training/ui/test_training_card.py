"""The card of a training: a run outlives who started it, is found again, and is stopped with all of its processes."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from html import escape
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.queue_for_tests import REPOSITORY, eventually
from tests.training.toy import config_of, write_samples
from tests.training.ui.made_run import write_run
from tests.ui.looking import alerts, everything, named, text
from training.launch.launch import Ending, state
from training.launch.processes import LAUNCHED, MARK, TOLD, processes_of
from training.loop.run_folder import METRICS, checkpoints
from training.ui.machine_use import Use, read_gpus
from training.ui.training_card import RunCard, TrainingCard
from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.download import Download
from wanavatar_lab.ui.language import language

MODULE, STAND_IN = "tests.training.launched", "tests.training.ui.stand_in"
TWO_EPOCHS = {"max_train_steps": None, "num_train_epochs": 2, "gradient_accumulation_steps": 1}
STARTS = """
import os, signal, sys
from pathlib import Path
from training.config import TrainingConfig
from training.ui.training_card import TrainingCard
config = TrainingConfig.model_validate_json(Path(sys.argv[1]).read_text())
TrainingCard(config, module=sys.argv[2]).start()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """On the CPU, in English, with nothing left behind."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    language.code = "en"
    yield
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.environ().get(MARK, "/")).is_relative_to(tmp_path):
                process.kill()


def standing(card: TrainingCard) -> str:
    return card.ending.state


def said(card: TrainingCard) -> RunCard:
    """What stands in the view of the run."""
    found: list[RunCard] = [each for each in everything(card) if isinstance(each, RunCard)]
    return found[0]


def noted(card: TrainingCard) -> int:
    """The last step, after another look."""
    card.look()
    return card.step


@pytest.mark.parametrize("module", [STAND_IN, pytest.param(MODULE, marks=pytest.mark.slow)])
def test_a_run_outlives_its_kernel_is_found_again_and_stopped(module: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, max_train_steps=100_000, gradient_accumulation_steps=1, checkpointing_steps=100_000)
    write_samples(config.samples)
    told = tmp_path / "told.json"
    told.write_text(config.model_dump_json())
    kernel = [sys.executable, "-c", STARTS, str(told), module]
    assert subprocess.run(kernel, cwd=REPOSITORY, check=False).returncode == -9
    card = TrainingCard(config, module=module)
    assert standing(card) == "running" and said(card).state == "running"
    assert named(card, "Start").disabled
    eventually((config.run / METRICS).is_file, 150)  # a look takes longer than to see that
    eventually(lambda: noted(card), 150)
    assert said(card).steps == 100_000 and said(card).step == card.step > 0
    assert (said(card).eta_seconds or 0) > 0
    assert "s per step" in text(card) and "CPU cores" in text(card)
    assert 'aria-label="Loss: per step, all branches; step"' in text(card)
    said(card).cancel()
    assert standing(card) == "stopped" and not processes_of(config.run)
    assert said(card).state == "cancelled" and said(card).words["cancelled"] == "Stopped"
    assert len(checkpoints(config.run)) == 1
    assert named(card, f"Resume from step {card.step}").disabled is False
    card.close()


def test_a_run_that_ended_shows_the_same_in_another_kernel(tmp_path: Path) -> None:
    config = config_of(tmp_path, max_train_steps=2)
    write_samples(config.samples)
    write_run(config.run, config.samples)
    (config.run / "launch.json").write_text(f'{{"pid": {os.getpid()}, "started": 1.0}}')
    (config.run / "ended.json").write_text('{"state": "failed", "why": "Rank 1 was <killed>."}')
    (config.run / "launch.log").write_text("begins\nends with <this>\n")
    card = TrainingCard(config)
    assert (card.step, card.steps) == (2, 2)
    assert "step 2 of 2 · loss 0.5000 · 2.0 s per step" in text(card)
    assert (said(card).state, said(card).error) == ("failed", "Rank 1 was <killed>.")
    assert said(card).log == "begins\nends with <this>"
    assert said(card).run_id == str(config.run) and said(card).eta_seconds is None
    (button,) = [each for each in everything(card) if isinstance(each, Download)]
    assert button.place == str(config.run / "checkpoint-2" / "lora_weights.safetensors")
    assert button.name == f"{tmp_path.name}-run-2.safetensors"
    assert card.outcome() == f"failed: step 2 of 2, in {config.run}"
    kept = card.record()  # of the notebook: state, numbers and plots
    assert "Failed · 2 / 2" in kept.text
    for shown in ("Rank 1 was &lt;killed&gt;.", "loss 0.5000", 'aria-label="Loss: per step, all branches; step"'):
        assert shown in kept.html
    language.code = "ko"
    assert "스텝 2/2 · 손실 0.5000 · 스텝당 2.0초" in text(card) and "검증 오차" in text(card)
    assert said(card).words["failed"] == "실패"
    card.close()


def test_before_its_first_step_a_run_has_no_step_and_before_its_start_no_time(tmp_path: Path) -> None:
    card = RunCard(str(tmp_path), lambda: None)
    card.show(Ending("not started"), 0, 8, 0.0, None, None)
    assert (card.state, card.step) == ("", None) and card.record().text == "Training · Not started"
    card.show(Ending("running"), 0, 8, 3.0, None, None)
    assert (card.state, card.step, card.fraction) == ("running", None, 0.0)  # the bar moves without an end
    card.close()


def test_epochs_become_steps_by_the_samples_that_there_are(tmp_path: Path) -> None:
    config = config_of(tmp_path, max_train_steps=None, num_train_epochs=3)
    write_samples(config.samples, count=6, held_out=1)
    card = TrainingCard(config)
    assert card.steps == 8  # three epochs of five samples, two a step
    assert "Not started" in text(card) and not named(card, "Start training").disabled
    assert card.outcome().startswith("Not started: press Start training above")
    assert all(each.place == "" for each in everything(card) if isinstance(each, Download))
    card.close()


@pytest.mark.parametrize(
    ("told", "processes", "steps"),
    # five samples; two epochs
    [({"max_train_steps": 4}, 1, 4), (TWO_EPOCHS, 1, 10), (TWO_EPOCHS, 3, 4)],
)
def test_how_many_steps_a_run_has_is_what_it_was_told_and_not_what_the_next_one_will_be(
    told: dict[str, int | None], processes: int, steps: int, tmp_path: Path
) -> None:
    mine = config_of(tmp_path, max_train_steps=9)
    write_samples(mine.samples)
    write_run(mine.run, mine.samples)
    card = TrainingCard(mine)
    assert "step 2 of 9" in text(card)
    launched = {"pid": os.getpid(), "started": 1.0, "processes": processes}
    (mine.run / LAUNCHED).write_text(json.dumps(launched))
    (mine.run / TOLD).write_text(config_of(tmp_path, **told).model_dump_json())
    card.look()
    assert card.steps == steps and f"step 2 of {steps}" in text(card)
    assert not named(card, "Resume from step 2").disabled
    card.close()


@pytest.mark.parametrize(
    "told", ["{", '{"of_another_version": 1}', '{"samples": "nowhere", "run": "r", "max_train_steps": null}']
)
def test_a_run_that_was_told_what_nobody_understands_is_shown_all_the_same(told: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, max_train_steps=9)
    write_samples(config.samples)
    write_run(config.run, config.samples)
    (config.run / LAUNCHED).write_text(json.dumps({"pid": os.getpid(), "started": 1.0, "processes": 1}))
    (config.run / TOLD).write_text(told)
    card = TrainingCard(config)
    assert card.steps == 9 and "step 2 of 9" in text(card)
    card.close()


def test_without_samples_there_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no encoded samples"):
        TrainingCard(config_of(tmp_path))


def test_what_a_gpu_says_becomes_a_line() -> None:
    said = "0, NVIDIA H100 80GB HBM3, 97, 54321, 81559\n1, Old, [N/A], 0, 1000\nnonsense\n"
    assert read_gpus(said) == [
        "GPU 0 (NVIDIA H100 80GB HBM3): 97 % utilization, 57.0 of 85.5 GB",
        "GPU 1 (Old): [N/A] % utilization, 0.0 of 1.0 GB",
    ]


def test_the_processes_of_a_run_are_counted(tmp_path: Path) -> None:
    use = Use(tmp_path)
    assert use.look() == []
    busy = [sys.executable, "-c", "while True: pass"]
    process = subprocess.Popen(busy, env=os.environ | {MARK: str(tmp_path)})
    try:
        eventually(lambda: processes_of(tmp_path))
        (line,) = use.look()[-1:]
        assert line.endswith("GB RAM · processes: 1") and "cores" not in line
        time.sleep(0.2)
        assert " CPU cores · " in use.look()[-1]
    finally:
        process.kill()
        process.wait()


def test_a_start_that_is_refused_is_said(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    write_samples(config.samples)
    card = TrainingCard(config, processes=2)
    named(card, "Start").click()
    assert "2 processes need a launcher" in alerts(card)
    assert state(config.run).state == "not started"
    with pytest.raises(LabError, match="need a launcher"):
        asyncio.run(card.run())
    card.close()


def test_the_machines_of_a_start_are_a_field(tmp_path: Path) -> None:
    config = config_of(tmp_path, **TWO_EPOCHS)
    write_samples(config.samples)
    card = TrainingCard(config, machines="localhost slots=2, localhost slots=2")
    assert card.steps == 3  # ten micro-batches, four a step
    named(card, "Machines").value = ""
    assert card.steps == 10 and "gpu1 slots=8" in named(card, "Machines").placeholder
    named(card, "Machines").value = "gpu1 slots=many, gpu2"
    assert card.steps == 10
    named(card, "Start").click()
    assert "'gpu1 slots=many' is no machine" in alerts(card)
    named(card, "Machines").value = "localhost slots=1, localhost slots=1"
    named(card, "Start").click()
    assert "2 machines need a launcher: ddp, fsdp2, zero2" in alerts(card)
    assert state(config.run).state == "not started"
    language.code = "ko"
    named(card, "학습 시작").click()
    assert "머신 2대에서 학습하려면 실행 방식을 선택하세요: ddp, fsdp2, zero2" in alerts(card)
    named(card, "머신").value = "gpu1, gpu2 slots=x"
    named(card, "학습 시작").click()
    assert escape("'gpu2 slots=x' 줄을 읽을 수 없습니다.", quote=False) in alerts(card)
    assert named(card, "머신").value and named(card, "실행 방식").label == "단일 프로세스"
    card.close()


@pytest.mark.slow
def test_a_run_on_two_machines_is_started_seen_and_stopped(tmp_path: Path) -> None:
    config = config_of(tmp_path, max_train_steps=100_000, gradient_accumulation_steps=1, checkpointing_steps=100_000)
    write_samples(config.samples)
    card = TrainingCard(config, module=MODULE)
    named(card, "Machines").value = "localhost slots=1, localhost slots=1"
    named(card, "Launcher").value = "ddp"
    card.start()
    eventually(lambda: noted(card) and "[0 localhost] step " in said(card).log, 150)
    assert "machines: localhost, localhost" in text(card)
    assert named(card, "Machines").disabled and named(card, "Launcher").disabled
    other = TrainingCard(config)  # as in another kernel
    assert standing(other) == "running" and said(other).state == "running"
    said(other).cancel()
    card.look()
    assert standing(other) == standing(card) == "stopped" and not processes_of(config.run)
    assert not named(card, "Machines").disabled and named(card, f"Resume from step {card.step}")
    for each in (card, other):
        each.close()


def test_who_stops_waiting_stops_the_run(tmp_path: Path) -> None:
    config = config_of(tmp_path, max_train_steps=100_000)
    write_samples(config.samples)
    card = TrainingCard(config, module=MODULE)

    async def interrupted() -> None:
        waiting = asyncio.ensure_future(card.run())
        while standing(card) != "running":
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(interrupted())
    assert state(config.run).state == "stopped" and not processes_of(config.run)
    card.close()

"""The best checkpoint stays beside the newest, by any number of the log; and a run that gets no better ends."""

import json
from pathlib import Path

import pytest

from tests.s2v.toy import toy_model
from tests.training.toy import config_of, write_samples
from training.loop.checkpoint import remove_old
from training.loop.run_folder import METRICS, best_checkpoint, best_metric, checkpoints, read_metrics, read_scores
from training.train import train
from wanavatar_lab.errors import LabError


def names(run: Path) -> list[str]:
    return [folder.name for folder in checkpoints(run)]


def write_run(run: Path, scores: dict[int, float | None], kind: str = "validation") -> None:
    lines = []
    for step, score in scores.items():
        (run / f"checkpoint-{step}").mkdir(parents=True)
        values = {} if score is None else {"lip": score}
        lines.append(json.dumps({"kind": kind, "step": step, **values}))
    (run / METRICS).write_text("\n".join([*lines, ""]))


@pytest.mark.parametrize(
    ("greater", "limit", "kept"),
    [(False, 1, [2, 10]), (False, 2, [2, 8, 10]), (True, 1, [4, 10]), (True, 4, [4, 6, 8, 10])],
)
def test_the_best_stays_beside_the_newest(greater: bool, limit: int, kept: list[int], tmp_path: Path) -> None:
    write_run(tmp_path, {2: 0.1, 4: 0.9, 6: 0.1, 8: 0.3, 10: None}, kind="lip_sync")
    best = best_checkpoint(tmp_path, "lip_sync/lip", greater)
    assert best_checkpoint(tmp_path, "validation/lip") is None and best_checkpoint(tmp_path, "lip_sync/face") is None
    remove_old(tmp_path, limit, best)
    assert names(tmp_path) == [f"checkpoint-{step}" for step in kept]


def test_the_newest_of_two_scores_of_a_step_counts(tmp_path: Path) -> None:
    write_run(tmp_path, {2: 0.1, 4: 0.9})
    with open(tmp_path / METRICS, "a") as log:
        log.write(json.dumps({"kind": "validation", "step": 4, "lip": 0.05}) + "\n")
    assert read_scores(tmp_path, "validation/lip") == {2: 0.1, 4: 0.05}
    assert best_checkpoint(tmp_path, "validation/lip") == tmp_path / "checkpoint-4"


@pytest.mark.parametrize("greater", [False, True])
def test_a_run_keeps_its_best_checkpoint(greater: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_samples(tmp_path / "samples")
    config = config_of(
        tmp_path, checkpointing_steps=1, validation_steps=1, checkpoints_total_limit=1, greater_is_better=greater
    )
    train(config, toy_model())
    scores = read_scores(config.run, "validation/lip")
    best = (max if greater else min)(scores, key=lambda step: scores[step])
    assert sorted(scores) == [1, 2, 3, 4, 5, 6]
    assert names(config.run) == [f"checkpoint-{step}" for step in sorted({best, 6})]
    said = capsys.readouterr().out
    assert "validates the base on 1 held-out sample" in said
    assert f"the best checkpoint by validation/lip is checkpoint-{best}" in said


def test_a_run_that_gets_no_better_stops_with_a_checkpoint(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples")
    config = config_of(
        tmp_path, learning_rate=3.0, validation_steps=1, checkpointing_steps=99, early_stopping_patience=2
    )
    for _ in range(2):  # the same command again changes nothing
        train(config.model_copy(update={"max_train_steps": 50}), toy_model())
        steps = [line["step"] for line in read_metrics(config.run, "train")]
        scores = [*read_scores(config.run, "validation/lip").values()]
        assert len(steps) == len(scores) < 50 and names(config.run) == [f"checkpoint-{len(steps)}"]
        assert scores.index(min(scores)) == len(scores) - 3
        assert len(read_metrics(config.run, "validation")) == len(steps)


@pytest.mark.parametrize(
    ("held_out", "settings", "why"),
    [
        (
            1,
            {"metric_for_best_model": "validation/lips"},
            "no validation/lips .* validation/lip, validation/background",
        ),
        (0, {"metric_for_best_model": "validation/lip"}, "no validation/lip .* No clip is held out"),
        (0, {"early_stopping_patience": 2, "validation_steps": 1}, "no validation/lip .* No clip is held out"),
    ],
)
def test_a_number_that_is_never_computed_is_refused(
    held_out: int, settings: dict[str, object], why: str, tmp_path: Path
) -> None:
    write_samples(tmp_path / "samples", held_out=held_out)
    config = config_of(tmp_path, **settings)
    with pytest.raises(LabError, match=why):
        train(config, toy_model())
    assert not read_metrics(config.run, "train")


def test_lips_of_sample_clips_decide_where_they_are_measured(tmp_path: Path) -> None:
    write_run(tmp_path, {2: 0.5})
    assert best_metric(tmp_path, "auto") == ("validation/lip", False)
    with open(tmp_path / METRICS, "a") as log:
        log.write(json.dumps({"kind": "samples", "step": 4, "lip_r": 0.8}) + "\n")
    assert best_metric(tmp_path, "auto") == ("samples/lip_r", True)
    assert best_metric(tmp_path, "samples/lip_r") == ("samples/lip_r", True)
    assert best_metric(tmp_path, "validation/face") == ("validation/face", False)
    assert best_metric(tmp_path, "a/b", greater_is_better=True) == ("a/b", True)
    assert best_metric(tmp_path, None) is None

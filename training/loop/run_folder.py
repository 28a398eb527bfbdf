"""The folder of a run: what its files are called, and how to read those that need no torch.

    <run>/config.json       settings of the last start
          metrics.jsonl     one line of JSON per event, see `training.loop.run_log`
          tensorboard/      the same numbers for TensorBoard
          clips/            sample clips, see `training.loop.sample_clips`
          checkpoint-50/    the LoRA and the training state after step 50, see `training.loop.checkpoint`

A launcher adds files of its own, see `training.launch.processes`. Notebooks read runs through this module: a kernel
that imported torch would start ten seconds later.
"""

import json
import os
import re
from pathlib import Path

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import entries

CONFIG, METRICS, TENSORBOARD, CLIPS = "config.json", "metrics.jsonl", "tensorboard", "clips"
# files of a checkpoint: the LoRA, and the modules that are trained in full beside it
WEIGHTS, AUDIO_MODULES = "lora_weights.safetensors", "audio_modules.safetensors"
# numbers of the log by which checkpoints are compared: r of the lips of the sample clips, and the held-out lips' error
LIPS_OF_SAMPLES, LIPS_HELD_OUT = "samples/lip_r", "validation/lip"
# their weights in a request that names none: half for the LoRA, as in the predecessor of this project; the parts are
# differences of whole weights, of which half would be a network that was never trained
USUAL_WEIGHTS = {WEIGHTS: 0.5, AUDIO_MODULES: 1.0}
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def noted_weight(name: str) -> dict[str, str]:
    """The usual weight of a checkpoint's file as metadata, which `wanavatar_lab.lora.sidecar` reads."""
    return {"usual_weight": f"{USUAL_WEIGHTS[name]:g}"}


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, the newest last."""
    found = [
        (int(match[1]), path)
        for path in entries(run, "checkpoint-*")
        if (match := _CHECKPOINT.fullmatch(path.name)) and os.path.isdir(path)
    ]
    return [path for _, path in sorted(found)]


def step_of(checkpoint: Path) -> int:
    """The number of completed steps of a checkpoint, by its name."""
    return int(checkpoint.name.rpartition("-")[2])


def best_metric(run: Path, metric: str | None, greater_is_better: bool | None = None) -> tuple[str, bool] | None:
    """The number by which a run's checkpoints are compared, and whether more of it is better; None for none.

    Args:
        metric, greater_is_better: of the run's config, see `TrainingConfig`.
    """
    if metric == "auto":
        metric = LIPS_OF_SAMPLES if read_scores(run, LIPS_OF_SAMPLES) else LIPS_HELD_OUT
    if metric is None:
        return None
    return metric, metric == LIPS_OF_SAMPLES if greater_is_better is None else greater_is_better


def best_checkpoint(run: Path, metric: str, greater_is_better: bool = False) -> Path | None:
    """The checkpoint with the best number in the log; None if none has that number.

    Args:
        metric: kind and name of the number, "validation/lip" for example: the value `name` of the line of that kind at
            the checkpoint's step, the newest if there are several.
        greater_is_better: whether the largest is the best, and not the smallest; of equal ones the oldest is.
    """
    scores = read_scores(run, metric)
    scored = [folder for folder in checkpoints(run) if step_of(folder) in scores]
    return min(scored, key=lambda folder: (-1 if greater_is_better else 1) * scores[step_of(folder)], default=None)


def best_of(run: Path) -> tuple[Path, str] | None:
    """The best checkpoint of a run by its own settings, and the number by which it is; None if there is none.

    Raises:
        LabError: its settings are damaged.
    """
    file = run / CONFIG
    try:
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        known = best_metric(run, settings.get("metric_for_best_model"), settings.get("greater_is_better"))
    except (ValueError, AttributeError) as error:
        raise LabError(f"{file} cannot be read: {error}. Another version wrote it, or it was edited.") from error
    best = best_checkpoint(run, *known) if known else None
    return (best, known[0]) if best and known else None


def read_scores(run: Path, metric: str) -> dict[int, float]:
    """The values of a number of the log by step, in order of the steps; `metric` is its kind and name."""
    kind, _, name = metric.partition("/")
    scores = {int(line["step"]): line[name] for line in read_metrics(run, kind) if name in line}
    return dict(sorted(scores.items()))


def read_metrics(run: Path, kind: str | None = None) -> list[dict[str, float]]:
    """The lines of a run's log, of one kind or of all; a line that a crash cut short is left out."""
    file = run / METRICS
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    found = [json.loads(line) for line in lines if logged_step(line) >= 0]
    return [line for line in found if kind is None or line["kind"] == kind]


def logged_step(line: str) -> int:
    """The step of a line of the log; -1 if the line is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return -1

"""Folders as a preparation and a training leave them, with numbers that are known."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.config import TrainingConfig
from training.loop.run_folder import WEIGHTS
from training.model.adapter import PREFIX
from training.ui.person import Person
from wanavatar_lab.files import write_json, write_text

RANK, ALPHA = 4, 2.0


def train_line(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": 1.0 / step, "gradient_norm": 0.5, "seconds": 2.0, **values}


def validation_line(kind: str, step: int, lip: float, background: float) -> dict[str, Any]:
    return {"kind": kind, "step": step, "lip": lip, "background": background, "lip/0.40": lip, "lip/0.90": 2 * lip}


LINES = [
    validation_line("base", 0, 0.8, 0.1),
    train_line(1, error_of_branch_lip=0.4),
    train_line(2, error_of_branch_full=0.3, error_of_branch_lip=0.2, **{"error_from_sigma_0.75": 0.6}),
    validation_line("validation", 2, 0.6, 0.105),
]


def write_run(run: Path, samples: Path, step: int = 2) -> None:
    """A run that was trained: its log, what it was told, and a checkpoint of a LoRA on two layers."""
    run.mkdir(parents=True, exist_ok=True)
    config = TrainingConfig(samples=samples, run=run, rank=RANK, alpha=ALPHA, profile="pocket")
    write_text(run / "config.json", config.model_dump_json())
    write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in LINES))
    write_checkpoint(run, step)


def write_checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    tensors = {}
    for layer in ("self_attn.q", "self_attn.k"):
        module = f"{PREFIX}blocks.0.{layer}"
        tensors[f"{module}.lora_A.weight"] = torch.full((RANK, 8), float(step))
        tensors[f"{module}.lora_B.weight"] = torch.ones(8, RANK)
        tensors[f"{module}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, folder / WEIGHTS, {"ss_network_dim": str(RANK), "ss_network_alpha": f"{ALPHA:g}"})
    return folder


def clip(name: str, **changes: Any) -> dict[str, Any]:
    """What the report says of a clip with nothing wrong."""
    return {
        "name": name,
        "video": "me.mp4",
        "start": 0.5,
        "seconds": 3.0,
        "face_found": 1.0,
        "face_area": 0.25,
        "lip_area": 0.021,
        "lag": 0,
        "lag_r": 0.8,
        "sharpness": 210.0,
        "speech": -18.0,
        "held_out": False,
        "problems": [],
        **changes,
    }


def write_report(person: Person, *clips: dict[str, Any]) -> None:
    person.data.mkdir(parents=True, exist_ok=True)
    flagged = [each["name"] for each in clips if each["problems"]]
    refused = [{"video": "b<b>.mp4", "why": "it has no sound"}]
    write_json(
        person.data / "report.json",
        {"clips": list(clips), "refused": refused, "seconds": 6.0, "flagged": flagged},
    )

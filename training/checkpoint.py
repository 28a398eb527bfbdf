"""Checkpoints of a run: the LoRA as others read it, and the state from which the run goes on.

    <run>/checkpoint-50/lora_weights.safetensors    see `training.adapter`
                        state.safetensors           moments of the optimizer, by the LoRA's own keys
                        state.json                  the step, and what else has to be the same

A checkpoint is a folder that appears whole, by one rename. Older ones go after the new one is there, so that whatever
moment a process dies at, the last whole one is there to go on from.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.adapter import adapter_tensors, load_adapter_tensors
from wanavatar_lab.errors import LabError
from wanavatar_lab.s2v import WanS2VTransformer3DModel

WEIGHTS, STATE, FACTS = "lora_weights.safetensors", "state.safetensors", "state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    run: Path,
    step: int,
    network: WanS2VTransformer3DModel,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of a step that is done, then remove all but the newest `keep`.

    Args:
        facts: what has to be the same where the run goes on.
    """
    whole, draft = run / f"checkpoint-{step}", run / f".checkpoint-{step}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tensors, metadata = adapter_tensors(network)
    save_file(tensors, draft / WEIGHTS, metadata | {"ss_steps": str(step)})
    moments = {
        f"{name}.{moment}": optimizer.state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in trained_parameters(network).items()
        for moment in _MOMENTS
    }
    save_file(moments, draft / STATE)
    (draft / FACTS).write_text(json.dumps({"step": step, **facts}, indent=1) + "\n")
    for file in draft.iterdir():
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
    if whole.exists():  # of the same step, from before the run went on
        shutil.rmtree(whole)
    draft.rename(whole)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return whole


def load_checkpoint(
    folder: Path, network: WanS2VTransformer3DModel, optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]
) -> int:
    """Put weights and moments back; returns the step to go on with.

    Raises:
        LabError: the checkpoint is of a run with other `facts`, or a file of it is missing.
    """
    gone = [name for name in (WEIGHTS, STATE, FACTS) if not (folder / name).is_file()]
    if gone:
        raise LabError(f"{folder} lacks {', '.join(gone)}. Remove it, and the run goes on from the one before.")
    noted = json.loads((folder / FACTS).read_text())
    changed = [
        f"{name} {noted.get(name)!r} and now {value!r}" for name, value in facts.items() if noted.get(name) != value
    ]
    if changed:
        raise LabError(
            f"{folder} is of a run that was told otherwise: {'; '.join(changed)}. Go on with what it was told, or give "
            "the run another folder."
        )
    load_adapter_tensors(network, load_file(folder / WEIGHTS))
    moments = load_file(folder / STATE)
    step = int(noted["step"])
    fused = optimizer.param_groups[0].get("fused")
    for name, parameter in trained_parameters(network).items():
        optimizer.state[parameter] = {
            # a fused step counts on the device
            "step": torch.tensor(float(step), device=parameter.device if fused else "cpu"),
            **{moment: moments[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS},
        }
    return step


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, the newest last."""
    found = [(int(match[1]), path) for path in run.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by its name in the network."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())

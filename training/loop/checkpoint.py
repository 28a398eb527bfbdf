"""Checkpoints of a run: what was learnt, as others read it, and the state from which the run goes on.

    <run>/checkpoint-50/lora_weights.safetensors    see `training.model.adapter`
                        audio_modules.safetensors   see `training.model.full_finetune`; where parts are trained in full
                        state.safetensors           moments of the optimizer, by the network's own names, and weights
                                                    that the other files do not have to the last bit
                        state.json                  the step, and what else has to be the same

The first two hold averaged weights where a run has an average. A checkpoint is a folder that appears whole, by one
rename. Older ones go after the new one is there, so that whatever moment a process dies at, the last whole one is there
to go on from.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.data.whole_folder import remove_folder, remove_leftovers, whole_folder
from training.loop.run_folder import AUDIO_MODULES, WEIGHTS, checkpoints
from training.model.adapter import adapter_tensors, load_adapter_tensors
from training.model.ema import Average
from training.model.full_finetune import part_tensors
from wanavatar_lab.errors import LabError
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.wan.checkpoint_files import read_safetensors

STATE, FACTS = "state.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_VALUE, _AVERAGE = "value", "average"


def save_checkpoint(
    run: Path,
    step: int,
    network: WanS2VTransformer3DModel,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
    keep: int,
    origins: Mapping[str, Tensor] | None = None,
    average: Average | None = None,
) -> Path:
    """Write the checkpoint of a step that is done, then remove all but the newest `keep`.

    Args:
        facts: what has to be the same where the run goes on.
        origins: weights that are trained in full, as they were.
        average: of the weights, if the run has one.

    Raises:
        DiskFull: there is no room; the checkpoints before stay.
    """
    run.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run)
    whole, origins = run / f"checkpoint-{step}", origins or {}
    with whole_folder(whole) as draft:
        with average.applied() if average else nullcontext():
            tensors, metadata = adapter_tensors(network)
            metadata["ss_steps"] = str(step)
            save_file(tensors, draft / WEIGHTS, metadata)
            if origins:
                save_file(part_tensors(network, origins), draft / AUDIO_MODULES, metadata)
        save_file(_state(network, optimizer, origins, average), draft / STATE)
        (draft / FACTS).write_text(json.dumps({"step": step, **facts}, indent=1) + "\n")
    for old in checkpoints(run)[:-keep]:
        remove_folder(old)
    return whole


def load_checkpoint(
    folder: Path,
    network: WanS2VTransformer3DModel,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
    average: Average | None = None,
) -> int:
    """Put weights, moments and the average back; returns the step to go on with.

    Raises:
        LabError: the checkpoint is of a run with other `facts`, or a file of it is missing.
    """
    gone = [name for name in (WEIGHTS, STATE, FACTS) if not (folder / name).is_file()]
    if gone:
        raise LabError(f"{folder} lacks {', '.join(gone)}. Remove it, and the run goes on from the one before.")
    noted = json.loads((folder / FACTS).read_text())
    # what an older version did not note cannot be compared
    changed = [
        f"{name} {noted[name]!r} and now {value!r}"
        for name, value in facts.items()
        if name in noted and noted[name] != value
    ]
    if changed:
        raise LabError(
            f"{folder} is of a run that was told otherwise: {'; '.join(changed)}. Go on with what it was told, or give "
            "the run another folder."
        )
    load_adapter_tensors(network, read_safetensors(folder / WEIGHTS))
    state = read_safetensors(folder / STATE)
    step = int(noted["step"])
    fused = optimizer.param_groups[0].get("fused")
    parameters = trained_parameters(network)
    for name, parameter in parameters.items():
        if (value := state.get(f"{name}.{_VALUE}")) is not None:
            parameter.data.copy_(value)
        optimizer.state[parameter] = {
            # a fused step counts on the device
            "step": torch.tensor(float(step), device=parameter.device if fused else "cpu"),
            **{moment: state[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS},
        }
    if average:
        average.load({name: state[f"{name}.{_AVERAGE}"] for name in parameters})
    return step


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by its name in the network."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def _state(
    network: nn.Module, optimizer: torch.optim.Optimizer, origins: Mapping[str, Tensor], average: Average | None
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(network).items():
        for moment in _MOMENTS:
            found[f"{name}.{moment}"] = optimizer.state[parameter][moment]
        if average or name in origins:
            found[f"{name}.{_VALUE}"] = parameter
        if average:
            found[f"{name}.{_AVERAGE}"] = average.values[name]
    # copies: a tensor of its own each, whatever shares memory on the device
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()}

"""Beginning with weights that were learnt before: a checkpoint of this project, or one of its predecessor.

lora_weights.safetensors     a LoRA in any format that `wanavatar_lab.lora` reads; of another rank, or another alpha
audio_modules.safetensors    parts that were trained in full, see `training.model.full_finetune`
projector_weights.pt         the predecessor's. It trained another architecture (a vocal projector, and k_vocal and
                             v_vocal in every block), whose tensors have no place in S2V: what has none is left.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.loop.run_folder import AUDIO_MODULES, WEIGHTS
from training.model.adapter import NAME
from wanavatar_lab.errors import LabError
from wanavatar_lab.lora.match import Pair, match_partly
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.key_names import our_name
from wanavatar_lab.wan.checkpoint_files import read_safetensors, read_state_dict
from wanavatar_lab.weights.safetensors_header import read_header

PROJECTOR = "projector_weights.pt"
SHOWN = 5  # names


@torch.no_grad()
def begin_with(folder: Path, network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Put what a folder holds into a network that is about to be trained.

    Args:
        folder: has at least one of the files above.
        network: made trainable.
        origins: its weights that are trained in full, as they were.

    Returns:
        What found no place, by file.

    Raises:
        LabError: the folder has none of the files.
        WeightsError: a file is damaged.
    """
    files = [folder / name for name in (WEIGHTS, AUDIO_MODULES, PROJECTOR) if (folder / name).is_file()]
    if not files:
        raise LabError(f"{folder} has neither {WEIGHTS} nor {AUDIO_MODULES} nor {PROJECTOR}, so nothing to begin with.")
    return {file.name: _read(file, network, origins) for file in files}


def left_out(names: list[str]) -> str:
    """What to say of names that found no place."""
    if not names:
        return "all of it has its place"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} left out, since they have no place here: {', '.join(names[:SHOWN])}{more}"


def _read(file: Path, network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> list[str]:
    if file.name == PROJECTOR:
        return _values(read_state_dict(file), network, origins)
    update, left = match_partly(network, read_safetensors(file), read_header(file).metadata, file.name)
    for module, pair in update.pairs.items():
        if not _begin_pair(network.get_submodule(module), pair):
            left.append(module)
    for name, difference in update.diffs.items():
        if name in origins:
            network.get_parameter(name).add_(difference.to(network.get_parameter(name)))
        else:
            left.append(name)
    return left


def _values(
    tensors: Mapping[str, Tensor], network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]
) -> list[str]:
    left = []
    for theirs, tensor in tensors.items():
        ours = our_name(theirs, network.config.audio_inject_layers)
        if ours in origins and network.get_parameter(ours).shape == tensor.shape:
            network.get_parameter(ours).copy_(tensor)
        else:
            left.append(theirs)
    return left


def _begin_pair(layer: Any, pair: Pair) -> bool:
    """Whether the layer has a LoRA of this rank or a larger one; then it has this update."""
    if not hasattr(layer, "lora_A") or layer.lora_A[NAME].weight.shape[0] < pair.rank:
        return False
    down, up, scaling = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.scaling[NAME]
    down[: pair.rank].copy_(pair.down)
    up.zero_()
    up[:, : pair.rank].copy_(pair.up * (pair.scale / scaling))
    return True

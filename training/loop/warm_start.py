"""Initial weights of a run (`init_from`): from a checkpoint of this project, or of its predecessor.

lora_weights.safetensors     a LoRA in any format that `wanavatar_lab.lora` reads, also of another rank or alpha
audio_modules.safetensors    parts that were trained in full, see `training.model.full_finetune`
projector_weights.pt         the predecessor's. It trained another architecture (a vocal projector, and k_vocal and
                             v_vocal in every block), so most of its tensors have no counterpart in S2V and are unused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.loop.checkpoint import in_words, not_finite
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
def init_from(folder: Path, network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Load the files of a folder into a network that is about to be trained.

    Args:
        folder: has at least one of the files above.
        network: made trainable.
        origins: its weights that are trained in full, as they were.

    Returns:
        Names without a counterpart in what is trained, by file.

    Raises:
        LabError: the folder has none of the files, nothing in them fits what is trained, or a value is not finite.
        WeightsError: a file is damaged.
    """
    files = [folder / name for name in (WEIGHTS, AUDIO_MODULES, PROJECTOR) if (folder / name).is_file()]
    if not files:
        raise LabError(f"{folder} has neither {WEIGHTS} nor {AUDIO_MODULES} nor {PROJECTOR}: nothing to start from.")
    found = {file.name: (_projector if file.name == PROJECTOR else _updates)(file, network, origins) for file in files}
    left = {name: unused for name, (_, unused) in found.items()}
    if not any(used for used, _ in found.values()):
        said = "; ".join(f"{name}: {describe_unused(unused)}" for name, unused in left.items())
        raise LabError(
            f"Nothing in {folder} fits what is trained, so the run would start with none of it. {said}. Give weights "
            "of this network and a rank as large as theirs, or leave init_from out."
        )
    return left


def describe_unused(names: list[str]) -> str:
    """The result of `init_from` for one file, as a line of the log."""
    if not names:
        return "all tensors are used"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} unused, without a counterpart in what is trained: {', '.join(names[:SHOWN])}{more}"


def _sound(file: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # torch computes with no 8-bit numbers
    of_8_bits = {name: tensor.float() for name, tensor in tensors.items() if tensor.itemsize == 1}
    tensors = tensors | of_8_bits
    if broken := not_finite(tensors):
        raise LabError(f"{in_words(broken, file)} Give an earlier checkpoint as init_from.")
    return tensors


def _updates(file: Path, network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> tuple[int, list[str]]:
    """Load a file of updates; returns how many were used, and the names of the others. So does `_projector`."""
    tensors = _sound(file, read_safetensors(file))
    update, unused = match_partly(network, tensors, read_header(file).metadata, file.name)
    left = [name for name, pair in update.pairs.items() if not _set_lora(network.get_submodule(name), pair)]
    for name, difference in update.diffs.items():
        if name in origins:
            network.get_parameter(name).add_(difference.to(network.get_parameter(name)))
        else:
            left.append(name)
    return len(update.pairs) + len(update.diffs) - len(left), unused + left


def _set_lora(layer: Any, pair: Pair) -> bool:
    """Make the layer's LoRA this update; False if it has none, or one of a smaller rank."""
    if not hasattr(layer, "lora_A") or layer.lora_A[NAME].weight.shape[0] < pair.rank:
        return False
    down, up, scaling = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.scaling[NAME]
    # the ranks beyond the update's keep their random first matrix and a zero second one, as in a new LoRA
    down[: pair.rank].copy_(pair.down)
    up.zero_()
    up[:, : pair.rank].copy_(pair.up * (pair.scale / scaling))
    return True


def _projector(file: Path, network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> tuple[int, list[str]]:
    unused, tensors = [], _sound(file, read_state_dict(file))
    for theirs, tensor in tensors.items():
        ours = our_name(theirs, network.config.audio_inject_layers)
        if ours in origins and network.get_parameter(ours).shape == tensor.shape:
            network.get_parameter(ours).copy_(tensor)
        else:
            unused.append(theirs)
    return len(tensors) - len(unused), unused

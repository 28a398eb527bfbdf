"""The tensors of a LoRA file as updates of a network's weights. Each one is matched, or named in an error.

diffusers has converters of its own for the Wan and FLUX.2 families. They are not used: they leave out what they do not
know (the `diff` of norms, kohya's keys outside of blocks), want every layer of every block, and bake alpha into the
matrices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.base_model import OTHER, UNKNOWN, base_of
from wanavatar_lab.lora.key_names import Target, names_of, plain_parameters
from wanavatar_lab.lora.keys import (
    ALPHA,
    DIFF,
    DIFF_BIAS,
    DOWN,
    UP,
    UP_BIAS,
    NotedAlphas,
    noted_alphas,
    other_method,
    parse_key,
)
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.inpaint import inpaint_channels

SHOWN = 4  # keys that an error names
_LORA_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Pair:
    """A low-rank update: `scale` · up · down is added to a weight.

    Args:
        down: [rank, inputs, ...].
        up: [outputs, rank, ...], the further dimensions 1.
        scale: alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass
class Update:
    """All that one file changes in a network.

    Args:
        pairs: by module.
        diffs: whole differences, by parameter.
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    diffs: dict[str, torch.Tensor] = field(default_factory=dict)


def match(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    name: str,
    low_noise: bool | None = None,
) -> Update:
    """Match a file with a network.

    Args:
        network: a transformer of FLUX.2, Wan or Wan-S2V, with or without adapters in it.
        tensors: of the file, by its keys.
        metadata: of the file.
        name: what to call the LoRA in an error.
        low_noise: of a file that holds both experts' updates, take the low-noise expert's (True) or the other's.

    Raises:
        WeightsError: it is for another model, or keys are of another method, unknown, incomplete or of another shape.
    """
    matching = _matched(network, tensors, metadata, name, low_noise)
    matching.check(name)
    return matching.update


def match_partly(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], name: str
) -> tuple[Update, list[str]]:
    """Match as much of a file as has a place in the network, to learn on from it; arguments as in `match`.

    Returns:
        The update, and the keys that have no place, are incomplete or misshaped.
    """
    matching = _matched(network, tensors, metadata, name, None)
    return matching.update, [*matching.unknown, *matching.incomplete, *matching.reshaped]


def _matched(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    name: str,
    low_noise: bool | None,
) -> "_Matching":
    matching = _Matching(network, tensors, noted_alphas(metadata, name, bool(low_noise)))
    by_module: dict[str, dict[str, str]] = {}
    for key in map(parse_key, tensors):
        if low_noise is not None and key.low_noise != low_noise:
            continue
        keys = by_module.setdefault(key.module, {})
        if key.part is None:
            matching.unknown.append(key.text)
        elif key.part in keys:
            matching.incomplete.append(f"{key.text} beside {keys[key.part]}")
        else:
            keys[key.part] = key.text
    for module, keys in by_module.items():
        matching.add(module, keys)
    return matching


class _Matching:
    """An update while it is put together, and what does not fit."""

    def __init__(self, network: nn.Module, tensors: Mapping[str, torch.Tensor], noted: NotedAlphas) -> None:
        self.update = Update()
        self.unknown: list[str] = []
        self.incomplete: list[str] = []
        self.reshaped: list[str] = []
        self._network, self._tensors, self._noted = network, tensors, noted
        self._names = names_of(network)
        self._shapes = {name: tuple(weight.shape) for name, weight in plain_parameters(network).items()}

    def add(self, module: str, keys: Mapping[str, str]) -> None:
        """Add a module's keys, by their parts."""
        weight, bias = self._names.get((module, "weight")), self._names.get((module, "bias"))
        if keys.keys() - {DIFF, DIFF_BIAS}:
            self._add_pair(module, keys, weight)
        if UP_BIAS in keys and DOWN in keys:
            scale = self._scale(module, keys)
            self._add_diff(keys[UP_BIAS], scale * self._tensors[keys[UP_BIAS]].float(), bias)
        if DIFF in keys:
            self._add_diff(keys[DIFF], self._tensors[keys[DIFF]], weight or self._names.get((module, "")))
        if DIFF_BIAS in keys:
            self._add_diff(keys[DIFF_BIAS], self._tensors[keys[DIFF_BIAS]], bias)

    def _add_pair(self, module: str, keys: Mapping[str, str], targets: tuple[Target, ...] | None) -> None:
        mine = [text for part, text in keys.items() if part not in (DIFF, DIFF_BIAS)]
        if targets is None or not all(self._takes_pairs(target.module) for target in targets):
            self.unknown += mine
            return
        if DOWN not in keys or UP not in keys:
            missing = " and ".join(part for part in (DOWN, UP) if part not in keys)
            self.incomplete.append(f"{mine[0]} without the matrix {missing}")
            return
        down, up, scale = self._tensors[keys[DOWN]], self._tensors[keys[UP]], self._scale(module, keys)
        for target in targets:
            outputs, *inputs = self._shapes[target.parameter]
            outputs *= target.parts
            # trainers that make every layer a convolution leave dimensions of 1 behind
            wide = _reshaped(self._fitted(target, down), (down.shape[0], *inputs))
            high = _reshaped(up, (outputs, down.shape[0], *[1] * (len(inputs) - 1)))
            if wide is None or high is None:
                needed = f"need [r, {', '.join(map(str, inputs))}] and [{outputs}, r]"
                self.reshaped.append(f"{keys[DOWN]} {list(down.shape)} with an up matrix {list(up.shape)}, {needed}")
                return
            if target.module in self.update.pairs:
                self.incomplete.append(f"{keys[DOWN]} is for {target.module}, as another key is")
                return
            self.update.pairs[target.module] = Pair(wide, target.rows(high), scale)

    def _add_diff(self, text: str, tensor: torch.Tensor, targets: tuple[Target, ...] | None) -> None:
        if targets is None:
            self.unknown.append(text)
            return
        for target in targets:
            outputs, *inputs = self._shapes[target.parameter]
            whole = _reshaped(self._fitted(target, tensor), (outputs * target.parts, *inputs))
            if whole is None:
                self.reshaped.append(f"{text} {list(tensor.shape)}, need {[outputs * target.parts, *inputs]}")
                return
            # a bias may come both as diff_b and with an up matrix
            before = self.update.diffs.get(target.parameter)
            mine = target.rows(whole)
            self.update.diffs[target.parameter] = mine if before is None else before.float() + mine.float()

    def _fitted(self, target: Target, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of S2V's patch embedding with as many input channels as the network has.

        One for inpainting has more (see `wanavatar_lab.s2v.inpaint`). Where the network lacks them there is nothing for
        them to see, and where the file does, it leaves them as they are.
        """
        if target.module != "patch_embedding" or not isinstance(self._network, WanS2VTransformer3DModel):
            return tensor
        channels = self._shapes[target.parameter][1:2]
        latents = self._network.config.out_channels
        if tensor.ndim < 2 or not channels or tensor.shape[1] not in (latents, latents + inpaint_channels(latents)):
            return tensor
        missing = channels[0] - tensor.shape[1]
        filled = torch.cat([tensor, tensor.new_zeros(len(tensor), max(0, missing), *tensor.shape[2:])], dim=1)
        return filled[:, : channels[0]]

    def _scale(self, module: str, keys: Mapping[str, str]) -> float:
        alpha = float(self._tensors[keys[ALPHA]].flatten()[0]) if ALPHA in keys else None
        return self._noted.scale(module, self._tensors[keys[DOWN]].shape[0], alpha)

    def _takes_pairs(self, module: str) -> bool:
        layer = self._network.get_submodule(module)
        return isinstance(getattr(layer, "base_layer", layer), _LORA_LAYERS)

    def check(self, name: str) -> None:
        """Say all that does not fit, in one error.

        Raises:
            WeightsError: there is something, or nothing was added at all.
        """
        kinds = {"unknown": self.unknown, "incomplete or there twice": self.incomplete, "misshaped": self.reshaped}
        said = "; ".join(f"{len(found)} {what}: {_first(found)}" for what, found in kinds.items() if found)
        if not said and not (self.update.pairs or self.update.diffs):
            raise WeightsError(f"{name} has no weights in it, so it changes nothing. Download it again.")
        if not said:
            return
        said = f"Of its {len(self._tensors)} keys {said}. Nothing of it was applied"
        if method := other_method(self.unknown):
            raise WeightsError(
                f"{name} is a {method}, and LoRAs are read only (down, up, alpha, diff, diff_b). {said}."
            )
        network = type(self._network).__name__
        config: Any = self._network.config
        width = config.num_attention_heads * config.attention_head_dim
        base = base_of({text: tuple(tensor.shape) for text, tensor in self._tensors.items()})
        if base.family in (OTHER, UNKNOWN) or base.width not in (None, width):
            made_for = base.name if base.width is None else f"{base.name}, {base.width} wide"
            raise WeightsError(
                f"{name} is for another model ({made_for}) and not for {network}, {width} wide. {said}; get the LoRA "
                "for this model, or leave it out."
            )
        raise WeightsError(f"{name} does not fit {network}. {said}; get it for this model, or leave it out.")


def _reshaped(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The tensor in this shape; None if it differs in more than dimensions of 1."""
    if [size for size in tensor.shape if size != 1] != [size for size in shape if size != 1]:
        return None
    return tensor.reshape(shape)


def _first(found: list[str]) -> str:
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")

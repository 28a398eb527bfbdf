"""Match the tensors of a LoRA file with the weights of a network. Every tensor fits, or is named in an error.

Those for Wan2.1-I2V's image branch are left out where the network has none, as Wan2.2's: the rest of such a LoRA fits.

diffusers has converters of its own for the Wan and FLUX.2 families. They are not used: they drop what they do not know
(the `diff` of norms, kohya's keys outside of blocks), require every layer of every block, and bake alpha into the
matrices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

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
    SHOWN,
    UP,
    UP_BIAS,
    NotedAlphas,
    image_branch_part,
    not_finite,
    noted_alphas,
    other_method,
    parse_key,
)
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.inpaint import inpaint_channels

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
    """All changes that one file makes to a network.

    Args:
        pairs: by module.
        diffs: differences of full rank, by parameter.
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
        low_noise: of a file with updates of both experts, take the low-noise expert's (True) or the other's.

    Raises:
        WeightsError: it is for another model; keys are of another method, unknown, incomplete or of another shape; or
            values are not finite.
    """
    matching = _Matching(network, tensors, noted_alphas(metadata, name, bool(low_noise)), low_noise)
    matching.check(name)
    matching.check_finite(name)
    return matching.update


def match_partly(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], name: str
) -> tuple[Update, list[str]]:
    """Match those tensors of a file that fit the network, to train on from them; arguments as in `match`.

    Returns:
        The update, and the keys that are unknown, incomplete, of another shape, or for the image branch.

    Raises:
        WeightsError: values are not finite.
    """
    matching = _Matching(network, tensors, noted_alphas(metadata, name), None)
    matching.check_finite(name)
    return matching.update, [*matching.unknown, *matching.incomplete, *matching.misshaped, *matching.left_out]


class _Matching:
    """The update of a file, and the keys that do not fit.

    Attributes:
        update: of those that fit.
        unknown, incomplete, misshaped: the others, with what is wrong where the key does not show it.
        left_out: for the image branch, which the network does not have.
    """

    def __init__(
        self, network: nn.Module, tensors: Mapping[str, torch.Tensor], noted: NotedAlphas, low_noise: bool | None
    ) -> None:
        self.update = Update()
        self.unknown: list[str] = []
        self.incomplete: list[str] = []
        self.misshaped: list[str] = []
        self.left_out: list[str] = []
        self._used: list[str] = []
        self._network, self._tensors, self._noted = network, tensors, noted
        self._names = names_of(network)
        self._shapes = {name: tuple(weight.shape) for name, weight in plain_parameters(network).items()}
        has_image_branch = any(image_branch_part(module) for module, _ in self._names)
        by_module: dict[str, dict[str, str]] = {}
        for key in map(parse_key, tensors):
            if low_noise is not None and key.low_noise != low_noise:
                continue
            if not has_image_branch and image_branch_part(key.module):
                self.left_out.append(key.text)
                continue
            self._used.append(key.text)
            keys = by_module.setdefault(key.module, {})
            if key.part is None:
                self.unknown.append(key.text)
            elif key.part in keys:
                self.incomplete.append(f"{key.text} beside {keys[key.part]}")
            else:
                keys[key.part] = key.text
        for module, keys in by_module.items():
            self._add(module, keys)

    def _add(self, module: str, keys: Mapping[str, str]) -> None:
        """Add a module's tensors; `keys` by their parts."""
        weight, bias = self._names.get((module, "weight")), self._names.get((module, "bias"))
        scale, down = 1.0, self._tensors[keys[DOWN]] if DOWN in keys else None
        alpha = self._tensors[keys[ALPHA]] if ALPHA in keys else None
        if (down is not None and (down.ndim < 2 or not len(down))) or (alpha is not None and alpha.numel() != 1):
            self.misshaped += [f"{text} {list(self._tensors[text].shape)}" for text in keys.values()]
            return
        if down is not None:
            scale = self._noted.scale(module, len(down), None if alpha is None else float(alpha))
        if keys.keys() - {DIFF, DIFF_BIAS}:
            self._add_pair(keys, scale, weight)
        if UP_BIAS in keys and DOWN in keys:
            self._add_diff(keys[UP_BIAS], scale * self._tensors[keys[UP_BIAS]].float(), bias)
        if DIFF in keys:
            self._add_diff(keys[DIFF], self._tensors[keys[DIFF]], weight or self._names.get((module, "")))
        if DIFF_BIAS in keys:
            self._add_diff(keys[DIFF_BIAS], self._tensors[keys[DIFF_BIAS]], bias)

    def _add_pair(self, keys: Mapping[str, str], scale: float, targets: tuple[Target, ...] | None) -> None:
        own = [text for part, text in keys.items() if part not in (DIFF, DIFF_BIAS)]
        layers = [self._network.get_submodule(target.module) for target in targets or ()]
        if targets is None or not all(
            isinstance(getattr(layer, "base_layer", layer), _LORA_LAYERS) for layer in layers
        ):
            self.unknown += own
            return
        if DOWN not in keys or UP not in keys:
            missing = " and ".join(part for part in (DOWN, UP) if part not in keys)
            self.incomplete.append(f"{own[0]} without the matrix {missing}")
            return
        down, up = self._tensors[keys[DOWN]], self._tensors[keys[UP]]
        for target in targets:
            outputs, *inputs = self._shapes[target.parameter]
            outputs *= target.parts
            # trainers that make every layer a convolution leave dimensions of 1 behind
            fitted_down = _reshaped(self._fit_channels(target, down), (down.shape[0], *inputs))
            fitted_up = _reshaped(up, (outputs, down.shape[0], *[1] * (len(inputs) - 1)))
            if fitted_down is None or fitted_up is None:
                needed = f"need [r, {', '.join(map(str, inputs))}] and [{outputs}, r]"
                self.misshaped.append(f"{keys[DOWN]} {list(down.shape)} with an up matrix {list(up.shape)}, {needed}")
                return
            if target.module in self.update.pairs:
                self.incomplete.append(f"{keys[DOWN]} is for {target.module}, as another key is")
                return
            self.update.pairs[target.module] = Pair(fitted_down, target.rows(fitted_up), scale)

    def _add_diff(self, text: str, tensor: torch.Tensor, targets: tuple[Target, ...] | None) -> None:
        if targets is None:
            self.unknown.append(text)
            return
        for target in targets:
            outputs, *inputs = self._shapes[target.parameter]
            shape = (outputs * target.parts, *inputs)
            fitted = _reshaped(self._fit_channels(target, tensor), shape)
            if fitted is None:
                self.misshaped.append(f"{text} {list(tensor.shape)}, need {list(shape)}")
                return
            # a bias may come both as diff_b and with an up matrix
            before, rows = self.update.diffs.get(target.parameter), target.rows(fitted)
            self.update.diffs[target.parameter] = rows if before is None else before.float() + rows.float()

    def _fit_channels(self, target: Target, tensor: torch.Tensor) -> torch.Tensor:
        """Give a tensor of S2V's patch embedding as many input channels as the network has.

        The network for inpainting has more (see `wanavatar_lab.s2v.inpaint`). Channels that only the file has are left
        out, since the network gets no input for them; those that only the network has are not changed by the file.
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

    def check(self, name: str) -> None:
        """Report everything that does not fit, in one error.

        Raises:
            WeightsError: something does not fit, or the file has no update at all.
        """
        kinds = {"unknown": self.unknown, "incomplete or there twice": self.incomplete, "misshaped": self.misshaped}
        misfits = "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in kinds.items() if keys)
        if not misfits:
            if self.update.pairs or self.update.diffs:
                return
            if self.left_out:
                raise WeightsError(
                    f"{name} is for the image branch of Wan2.1-I2V only, which {type(self._network).__name__} does not "
                    f"have: {_first(self.left_out)}. Leave it out."
                )
            raise WeightsError(f"{name} has no weights in it, so it changes nothing. Download it again.")
        misfits = f"Of its {len(self._tensors)} keys {misfits}. Nothing of it was applied"
        if method := other_method(self.unknown):
            raise WeightsError(
                f"{name} is a {method}, and LoRAs are read only (down, up, alpha, diff, diff_b). {misfits}."
            )
        network, config = type(self._network).__name__, cast(Any, self._network).config
        width = config.num_attention_heads * config.attention_head_dim
        base = base_of({text: tuple(tensor.shape) for text, tensor in self._tensors.items()})
        if base.family in (OTHER, UNKNOWN) or base.width not in (None, width):
            made_for = base.name if base.width is None else f"{base.name}, {base.width} wide"
            raise WeightsError(
                f"{name} is for another model ({made_for}) and not for {network}, {width} wide. {misfits}; "
                "get the LoRA for this model, or leave it out."
            )
        raise WeightsError(f"{name} does not fit {network}. {misfits}; get it for this model, or leave it out.")

    def check_finite(self, name: str) -> None:
        """Refuse values with which every picture would be black.

        Raises:
            WeightsError: a tensor has NaN or an infinite value; all such keys are counted.
        """
        wrong = [key for key in self._used if not _is_finite(self._tensors[key])]
        if wrong:
            raise WeightsError(not_finite(name, wrong, len(self._tensors)))


def _is_finite(tensor: torch.Tensor) -> bool:
    # torch compares no 8-bit numbers
    return bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())


def _reshaped(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The tensor in this shape; None if it differs in more than dimensions of 1."""
    if [size for size in tensor.shape if size != 1] != [size for size in shape if size != 1]:
        return None
    return tensor.reshape(shape)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")

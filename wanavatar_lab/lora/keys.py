"""The scale that a file means: alpha / rank, wherever its maker noted alpha.

A tensor `<module>.alpha` counts first, then what PEFT or diffusers noted for that very module, then the one alpha of
the whole file. Where nothing is noted the scale is 1.

What a key of a LoRA file says: the module that it is for, and the part of an update that it holds.

Trainers differ in three ways, which are told apart here: what they put in front of a module's name, whether the dots in
it became underscores, and what they call the two matrices.

    transformer.blocks.0.attn1.to_q.lora_A.weight                diffusers and PEFT
    diffusion_model.blocks.0.self_attn.q.lora_down.weight        ComfyUI, ai-toolkit
    lora_unet_blocks_0_self_attn_q.lora_down.weight              kohya, musubi-tuner
    lora_transformer__blocks_0_self_attn_q.lora_down.weight      VideoX-Fun and what was built on it
    blocks.0.self_attn.q.lora_A.default.weight                   a bare state dict
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wanavatar_lab.errors import WeightsError

# parts of an update; any other ending belongs to a method that is not read here
DOWN, UP, UP_BIAS, ALPHA, DIFF, DIFF_BIAS = "down", "up", "up bias", "alpha", "diff", "diff_b"

_ENDINGS = (
    (DOWN, re.compile(r"\.(?:lora_A|lora_down|lora\.down)(?:\.(?!weight$|bias$)\w+)?\.weight$")),
    (UP, re.compile(r"\.(?:lora_B|lora_up|lora\.up)(?:\.(?!weight$|bias$)\w+)?\.weight$")),
    (UP_BIAS, re.compile(r"\.(?:lora_B|lora_up|lora\.up)(?:\.(?!weight$|bias$)\w+)?\.bias$")),
    (ALPHA, re.compile(r"\.alpha$")),
    (DIFF, re.compile(r"\.diff$")),
    (DIFF_BIAS, re.compile(r"\.diff_b$")),
)
# the difference of a block's modulation, which is a bare parameter beside the block's modules
_MODULATION = re.compile(r"\.diff_m$")
_DOTTED_PREFIX = re.compile(r"^(?:(?:base_model\.model|diffusion_model|transformer_2|transformer|unet|model)\.)+")
_UNDERSCORED_PREFIX = re.compile(r"^(?:lora_unet|lora_transformer|lycoris)_{1,2}")
# of a file with both of Wan2.2's experts, as diffusers saves them
_LOW_NOISE_PREFIX = re.compile(r"^(?:base_model\.model\.)?(?:transformer_2\.|lora_transformer_2_)")

# methods whose files look like LoRAs, by what only their keys have
_OTHER_METHODS = {
    "LoKr": re.compile(r"\.lokr_"),
    "LoHa": re.compile(r"\.hada_"),
    "DoRA": re.compile(r"\.(?:dora_scale|lora_magnitude_vector)"),
    "Tucker-decomposed LoRA": re.compile(r"\.lora_mid\."),
    "OFT": re.compile(r"\.oft_"),
}


@dataclass(frozen=True)
class Key:
    """A key of a LoRA file, taken apart.

    Attributes:
        text: the key as it stands in the file.
        module: its module, without prefix and with underscores for dots: `blocks_0_self_attn_q`. A bare parameter, such
            as `blocks_0_modulation`, looks the same.
        part: which part of the module's update it holds; None if the ending is of another method.
        low_noise: whether it says itself that it is for Wan2.2's low-noise expert.
    """

    text: str
    module: str
    part: str | None
    low_noise: bool


def parse_key(text: str) -> Key:
    """Take a key apart."""
    low_noise = _LOW_NOISE_PREFIX.match(text) is not None
    if low_noise:
        text_of_module = _LOW_NOISE_PREFIX.sub("", text)
    else:
        text_of_module = _UNDERSCORED_PREFIX.sub("", _DOTTED_PREFIX.sub("", text))
    text_of_module = _MODULATION.sub(".modulation.diff", text_of_module)
    for part, ending in _ENDINGS:
        if match := ending.search(text_of_module):
            return Key(text, squash(text_of_module[: match.start()]), part, low_noise)
    return Key(text, squash(text_of_module), None, low_noise)


def squash(name: str) -> str:
    """A dotted name as trainers write it that want no dots."""
    return name.replace(".", "_").strip("_")


def other_method(keys: Iterable[str]) -> str | None:
    """The method that keys belong to if it is not LoRA: LoKr, LoHa, DoRA, …"""
    for key in keys:
        for method, sign in _OTHER_METHODS.items():
            if sign.search(key):
                return method
    return None


_ADAPTER_METADATA = "lora_adapter_metadata"  # JSON of the adapter's config, as diffusers saves it
_KOHYA_ALPHA = "ss_network_alpha"


@dataclass(frozen=True)
class NotedAlphas:
    """What a file's metadata says of alpha.

    Attributes:
        alpha: of the whole file, or None.
        by_module: of single modules, as patterns of their names.
        rank_stabilised: the scale is alpha / √rank (rsLoRA, https://huggingface.co/papers/2312.03732).
    """

    alpha: float | None = None
    by_module: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def scale(self, module: str, rank: int, alpha: float | None) -> float:
        """The scale of a module's update.

        Args:
            module: its name in the file, as `parse_key` gives it.
            rank: of its matrices.
            alpha: of its own alpha tensor, or None.
        """
        if alpha is None:
            named = (value for name, value in self.by_module.items() if _is_named(module, name))
            alpha = next(named, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def noted_alphas(metadata: Mapping[str, str], where: str, low_noise: bool = False) -> NotedAlphas:
    """Read them.

    Args:
        metadata: of the safetensors file.
        where: what to call the file in an error.
        low_noise: read those of the low-noise expert, of a file that holds both experts' updates.

    Raises:
        WeightsError: the metadata is damaged, so that the scale is not known.
    """
    try:
        if _ADAPTER_METADATA in metadata:
            return _of_adapter(json.loads(metadata[_ADAPTER_METADATA]), low_noise)
        noted = metadata.get(_KOHYA_ALPHA, "None")
        return NotedAlphas(None if noted in ("None", "") else float(noted))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{where} notes its alpha in a way that cannot be read ({error}). Download it again."
        ) from error


def _of_adapter(config: Mapping[str, Any], low_noise: bool) -> NotedAlphas:
    # diffusers puts the network's name in front, PEFT does not
    plain = {
        name.removeprefix("transformer_2.").removeprefix("transformer."): value
        for name, value in config.items()
        if name.startswith("transformer_2.") == low_noise
    }
    alpha = plain.get("lora_alpha")
    patterns = {str(name): float(value) for name, value in (plain.get("alpha_pattern") or {}).items()}
    return NotedAlphas(None if alpha is None else float(alpha), patterns, bool(plain.get("use_rslora")))


def _is_named(module: str, pattern: str) -> bool:
    plain = squash(re.sub(r"[\\^$]", "", pattern))
    return module == plain or module.endswith(f"_{plain}")

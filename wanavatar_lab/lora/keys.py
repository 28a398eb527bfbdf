"""Keys and alphas of a LoRA file: which module a tensor is for, which part of an update it is, and how it is scaled.

Trainers differ in three ways: the prefix of a module's name, whether its dots became underscores, and what the two
matrices are called.

    transformer.blocks.0.attn1.to_q.lora_A.weight                diffusers and PEFT
    diffusion_model.blocks.0.self_attn.q.lora_down.weight        ComfyUI, ai-toolkit
    lora_unet_blocks_0_self_attn_q.lora_down.weight              kohya, musubi-tuner
    lora_transformer__blocks_0_self_attn_q.lora_down.weight      VideoX-Fun and what was built on it
    blocks.0.self_attn.q.lora_A.default.weight                   a bare state dict

The scale of an update is alpha / rank. A tensor `<module>.alpha` has precedence, then what PEFT or diffusers noted for
that module, then the one alpha of the whole file. Without any the scale is 1.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wanavatar_lab.errors import WeightsError

# parts of an update; any other ending belongs to a method that is not supported
DOWN, UP, UP_BIAS, ALPHA, DIFF, DIFF_BIAS = "down", "up", "up bias", "alpha", "diff", "diff_b"

# after the matrix PEFT may put the name of the adapter
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

SHOWN = 4  # keys that an error names

# methods whose files look like LoRAs, by what only their keys contain
_OTHER_METHODS = {
    "LoKr": re.compile(r"\.lokr_"),
    "LoHa": re.compile(r"\.hada_"),
    "DoRA": re.compile(r"\.(?:dora_scale|lora_magnitude_vector)"),
    "Tucker-decomposed LoRA": re.compile(r"\.lora_mid\."),
    "OFT": re.compile(r"\.oft_"),
}

# the branch for CLIP's image embedding, which Wan2.1-I2V has and Wan2.2's networks lack: by the reference's names, and
# by diffusers'
_IMAGE_BRANCH = (
    ("k_img", re.compile(r"^blocks_\d+_(?:cross_attn_(?:norm_)?k_img|attn2_(?:add_k_proj|norm_added_k))$")),
    ("v_img", re.compile(r"^blocks_\d+_(?:cross_attn_v_img|attn2_add_v_proj)$")),
    ("img_emb", re.compile(r"^(?:img_emb|condition_embedder_image_embedder)_")),
)

_ADAPTER_METADATA = "lora_adapter_metadata"  # JSON of the adapter's config, as diffusers saves it
_KOHYA_ALPHA = "ss_network_alpha"


@dataclass(frozen=True)
class Key:
    """A parsed key.

    Attributes:
        text: the key in the file.
        module: its module, without prefix and with underscores for dots: `blocks_0_self_attn_q`. A bare parameter, such
            as `blocks_0_modulation`, looks the same.
        part: the part of the module's update that the tensor is; None if the ending is of another method.
        low_noise: whether the key itself says that it is for Wan2.2's low-noise expert.
    """

    text: str
    module: str
    part: str | None
    low_noise: bool


def parse_key(text: str) -> Key:
    """Split a key into module and part."""
    low_noise = _LOW_NOISE_PREFIX.match(text) is not None
    prefixes = (_LOW_NOISE_PREFIX,) if low_noise else (_DOTTED_PREFIX, _UNDERSCORED_PREFIX)
    name = text
    for prefix in prefixes:
        name = prefix.sub("", name)
    name = _MODULATION.sub(".modulation.diff", name)
    for part, ending in _ENDINGS:
        if match := ending.search(name):
            return Key(text, squash(name[: match.start()]), part, low_noise)
    return Key(text, squash(name), None, low_noise)


def squash(name: str) -> str:
    """A dotted name with underscores for dots, as kohya writes it."""
    return name.replace(".", "_").strip("_")


def image_branch_part(module: str) -> str | None:
    """The part of Wan2.1-I2V's image branch that a module belongs to, by the reference's name; None if to none."""
    return next((part for part, names in _IMAGE_BRANCH if names.search(module)), None)


def count_image_branch(keys: Iterable[str]) -> dict[str, int]:
    """How many keys are for each part of Wan2.1-I2V's image branch, such as `{"k_img": 80, "img_emb": 4}`."""
    return dict(Counter(part for text in keys if (part := image_branch_part(parse_key(text).module))))


def counts_in_words(counts: Mapping[str, int]) -> str:
    """What `count_image_branch` gives, as text: "80 k_img, 4 img_emb"."""
    return ", ".join(f"{count} {part}" for part, count in counts.items())


def not_finite(name: str, keys: Iterable[str], of: int) -> str:
    """What to say of a LoRA, or its file, with values that are not finite numbers in some of its `of` keys."""
    wrong = list(keys)
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return (
        f"{name} has NaN or infinite values in {len(wrong)} of its {of} keys: {', '.join(wrong[:SHOWN])}{more}. "
        "Nothing of it was applied; its training has diverged or the file is damaged. Use an earlier checkpoint of "
        "it, or download it again."
    )


def other_method(keys: Iterable[str]) -> str | None:
    """The method that keys belong to if it is not LoRA: LoKr, LoHa, DoRA, ..."""
    return next((method for key in keys for method, sign in _OTHER_METHODS.items() if sign.search(key)), None)


@dataclass(frozen=True)
class NotedAlphas:
    """The alphas in a file's metadata.

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
            module: its name, as `parse_key` gives it.
            rank: of its matrices.
            alpha: of its own alpha tensor, or None.
        """
        if alpha is None:
            # patterns are regular expressions of the end of a dotted name
            plain = {squash(re.sub(r"[\\^$]", "", pattern)): noted for pattern, noted in self.by_module.items()}
            named = (noted for name, noted in plain.items() if module == name or module.endswith(f"_{name}"))
            alpha = next(named, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def noted_alphas(metadata: Mapping[str, str], where: str, low_noise: bool = False) -> NotedAlphas:
    """Read the alphas in a file's metadata.

    Args:
        metadata: of the safetensors file.
        where: what to call the file in an error.
        low_noise: read those of the low-noise expert, in a file with updates of both experts.

    Raises:
        WeightsError: the metadata is damaged, or an alpha is not finite, so that the scale is unknown.
    """
    try:
        if _ADAPTER_METADATA not in metadata:
            noted = metadata.get(_KOHYA_ALPHA, "None")
            return NotedAlphas(None if noted in ("None", "") else _finite(noted))
        # diffusers prefixes the fields with the network's name, PEFT does not
        config = {
            name.removeprefix("transformer_2.").removeprefix("transformer."): value
            for name, value in json.loads(metadata[_ADAPTER_METADATA]).items()
            if name.startswith("transformer_2.") == low_noise
        }
        alpha = config.get("lora_alpha")
        patterns = {str(name): _finite(value) for name, value in (config.get("alpha_pattern") or {}).items()}
        return NotedAlphas(None if alpha is None else _finite(alpha), patterns, bool(config.get("use_rslora")))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{where} notes its alpha in a way that cannot be read ({error}). Download it again."
        ) from error


def _finite(noted: Any) -> float:
    alpha = float(noted)
    if not math.isfinite(alpha):
        raise ValueError(f"alpha is {alpha}")
    return alpha

"""The model that a LoRA was trained for, by the names and shapes in its file, and the stages whose network it fits."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.keys import DIFF, DOWN, UP, image_branch_part, parse_key
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage

FLUX2, WAN, WAN_S2V, OTHER, UNKNOWN = "flux2", "wan", "wan-s2v", "other", "unknown"

# the name of each stage's network, and the families of LoRAs that it takes
STAGE_MODELS: dict[str, tuple[str, frozenset[str]]] = {
    TextToImage.stage: ("FLUX.2-klein", frozenset({FLUX2})),
    ImageToVideo.stage: ("Wan2.2-I2V", frozenset({WAN})),
    SpeechToVideo.stage: ("Wan2.2-S2V", frozenset({WAN, WAN_S2V})),
}

_MODELS = tomllib.loads((Path(__file__).parent / "base_models.toml").read_text(encoding="utf-8"))
_SIGNS: list[tuple[str, str, str]] = _MODELS["signs"]  # family, name, pattern
_NAMES: dict[str, dict[str, str]] = _MODELS["names"]  # by model, then by width
_FLUX1_WIDTH = 3072
_WAN_SQUARE = re.compile(r"^blocks_\d+_(?:(?:self|cross)_attn_[qkvo]|attn[12]_to_(?:q|k|v|out_0))$")
_FLUX_FUSED = re.compile(r"(?:_attn_qkv|_linear1|_to_qkv_mlp_proj|_mlp_0|_linear_in|_attn_to_[qkv]|_add_[qkv]_proj)$")
_BLOCK_NUMBER = re.compile(r"^(?:double_blocks|transformer_blocks)_(\d+)_", re.MULTILINE)


@dataclass(frozen=True)
class Base:
    """The model that a LoRA was trained for.

    Attributes:
        family: one of the constants above; OTHER for a model that has no stage in this package.
        name: of the model.
        width: of its tokens, if the file shows it.
    """

    family: str
    name: str
    width: int | None = None

    def fits(self, stage: str) -> bool:
        """Whether a network of the stage could take it, whatever its width; for a custom stage always."""
        return stage not in STAGE_MODELS or self.family in (UNKNOWN, *STAGE_MODELS[stage][1])


def base_of(shapes: Mapping[str, tuple[int, ...]]) -> Base:
    """Find the model by the names and shapes in a LoRA file."""
    names = sorted({parse_key(text).module for text in shapes})
    modules = "\n".join(names)
    signs = (sign for sign in _SIGNS if re.search(sign[2], modules, re.MULTILINE))
    family, name, _ = next(signs, (UNKNOWN, "unknown", ""))
    if family not in (FLUX2, WAN, WAN_S2V):
        return Base(family, name)
    if all(map(image_branch_part, names)):  # nothing would be left of it
        return Base(OTHER, f"the image branch of {name}")
    width = _width(shapes, _FLUX_FUSED if family == FLUX2 else _WAN_SQUARE)
    blocks = [int(number) for number in _BLOCK_NUMBER.findall(modules)] if family == FLUX2 else []
    # FLUX.1 has the same names for most modules and the width of klein-4B. It has 19 double blocks, HunyuanVideo 20,
    # klein-4B five
    if width == _FLUX1_WIDTH and "stream_modulation" not in modules and max(blocks, default=0) >= 5:
        return Base(OTHER, "FLUX.1" if max(blocks) < 19 else "HunyuanVideo", width)
    return Base(family, _NAMES.get(name, {}).get(str(width), name), width)


def network_widths(weights_dir: Path) -> dict[tuple[str, str], int]:
    """Widths of the networks that take LoRAs, by profile and stage.

    They come from the configs on disk; for weights that are not downloaded, from the profile.

    Raises:
        WeightsError: a config is damaged.
    """
    found = {}
    for profile in PROFILES.values():
        for stage in STAGE_MODELS:
            width = _config_width(profile.weights(stage, weights_dir)) or profile.widths.get(stage)
            if width is not None:
                found[profile.name, stage] = width
    return found


def _width(shapes: Mapping[str, tuple[int, ...]], modules: re.Pattern[str]) -> int | None:
    """Columns of a module that reads tokens; or, of a square one in a file of up matrices only, rows."""
    for text, shape in shapes.items():
        key = parse_key(text)
        if len(shape) >= 2 and modules.search(key.module):
            if key.part in (DOWN, DIFF):
                return shape[1]
            if key.part == UP and modules is _WAN_SQUARE:
                return shape[0]
    return None


def _config_width(folder: Path) -> int | None:
    # diffusers' layout, then the reference's of S2V and of I2V
    for place in ("transformer", ".", "high_noise_model"):
        file = folder / place / "config.json"
        if not os.path.isfile(file):  # nor where the folder is another user's
            continue
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            return int(config.get("dim") or config["num_attention_heads"] * config["attention_head_dim"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(f"{file} is damaged ({error!r}). Download it again.") from error
    return None

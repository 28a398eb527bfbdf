"""The model that a LoRA was trained for, by the names and shapes in its file, and the stages whose network it fits."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.keys import DIFF, DOWN, UP, parse_key
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage

FLUX2, WAN, WAN_S2V, OTHER, UNKNOWN = "flux2", "wan", "wan-s2v", "other", "unknown"

# the name of each stage's network, and the families of LoRAs that it takes
STAGE_MODELS: dict[str, tuple[str, frozenset[str]]] = {
    TextToImage.stage: ("FLUX.2-klein", frozenset({FLUX2})),
    ImageToVideo.stage: ("Wan2.2-I2V", frozenset({WAN})),
    SpeechToVideo.stage: ("Wan2.2-S2V", frozenset({WAN, WAN_S2V})),
}

_FLUX2_NAMES = {3072: "FLUX.2-klein-4B", 4096: "FLUX.2-klein-9B", 6144: "FLUX.2-dev"}
_WAN_NAMES = {1536: "Wan2.1-1.3B", 3072: "Wan2.2-TI2V-5B", 5120: "Wan-14B"}
_FLUX1_WIDTH = 3072

# family, name, and a pattern that only the names of its modules match; the first match counts
_SIGNS: tuple[tuple[str, str, str], ...] = (
    (WAN_S2V, "Wan2.2-S2V", r"^(audio_injector|ca(su|us)al_audio_encoder|cond_encoder|frame_packer|pose_embedding)_"),
    (WAN_S2V, "Wan2.2-S2V", r"^(trainable_cond_mask|token_kind_embedding)|^blocks_\d+_audio_injection_"),
    (OTHER, "Wan2.2-Animate", r"^(face_adapter|motion_encoder|face_encoder|pose_patch_embedding)"),
    (OTHER, "Wan2.1-VACE", r"^vace_"),
    (OTHER, "Wan2.1 with a vocal projector (FantasyTalking, StableAvatar)", r"^vocal_|_[kv]_vocal$"),
    (
        OTHER,
        "Wan2.1-I2V",
        r"^img_emb_|^condition_embedder_image_|^blocks_\d+_(cross_attn_[kv]_img|attn2_add_[kv]_proj)",
    ),
    (WAN, "Wan", r"^blocks_\d+_((self|cross)_attn_[qkvo]$|attn[12]_to_(q|k|v|out_0)$|ffn_(0|2|net_0_proj|net_2)$)"),
    (FLUX2, "FLUX.2", r"_to_qkv_mlp_proj$|_ff(_context)?_linear_(in|out)$|^(single|double)_stream_modulation"),
    (OTHER, "Qwen-Image", r"^transformer_blocks_\d+_(img|txt)_(mlp_net|mod)"),
    (OTHER, "HunyuanVideo", r"^txt_in_individual_token_refiner|^double_blocks_\d+_(img|txt)_mlp_fc\d"),
    (OTHER, "FLUX.1", r"^double_blocks_\d+_(img|txt)_mod_lin|^single_blocks_\d+_modulation_lin|^vector_in_"),
    (OTHER, "FLUX.1", r"^single_transformer_blocks_\d+_(attn_to_[qkv]|proj_mlp|proj_out|norm_linear)$"),
    (FLUX2, "FLUX.2", r"^double_blocks_\d+_(img|txt)_(attn_(qkv|proj)|mlp_\d)$|^single_blocks_\d+_linear[12]$"),
    (OTHER, "Stable Diffusion", r"^(down_blocks|input_blocks|mid_block|middle_block|up_blocks|output_blocks)_"),
    (OTHER, "Stable Diffusion 3", r"^joint_blocks_|^transformer_blocks_\d+_ff_context_net"),
    (OTHER, "LTX-Video", r"^transformer_blocks_\d+_attn[12]_to_"),
    (OTHER, "Z-Image or Lumina", r"^layers_\d+_(attention|feed_forward|attn)_"),
)
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
    modules = "\n".join(sorted({parse_key(text).module for text in shapes}))
    signs = (sign for sign in _SIGNS if re.search(sign[2], modules, re.MULTILINE))
    family, name, _ = next(signs, (UNKNOWN, "unknown", ""))
    if family in (WAN, WAN_S2V):
        width = _width(shapes, _WAN_SQUARE)
        return Base(family, _WAN_NAMES.get(width or 0, name) if family == WAN else name, width)
    if family == FLUX2:
        width = _width(shapes, _FLUX_FUSED)
        blocks = [int(number) for number in _BLOCK_NUMBER.findall(modules)]
        # FLUX.1 has the same names for most modules and the width of klein-4B. It has 19 double blocks, HunyuanVideo
        # 20, klein-4B five
        if width == _FLUX1_WIDTH and "stream_modulation" not in modules and max(blocks, default=0) >= 5:
            return Base(OTHER, "FLUX.1" if max(blocks) < 19 else "HunyuanVideo", width)
        return Base(family, _FLUX2_NAMES.get(width or 0, name), width)
    return Base(family, name)


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
        if not file.is_file():
            continue
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            return int(config.get("dim") or config["num_attention_heads"] * config["attention_head_dim"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(f"{file} is damaged ({error!r}). Download it again.") from error
    return None

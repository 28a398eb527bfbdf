"""Names of S2V's tensors and config fields in the three vocabularies in which they are published.

The reference's (Wan-AI's files, and FastVideo's conversion, which keeps them), that of the draft in diffusers
(tolgacangoz's conversion), and ours, which `save_pretrained` writes. LoRA files that reach modules which only S2V has
use the reference's: diffusers' `load_lora_weights` knows only what all Wan networks have, and refuses the file, so here
it is renamed as a whole.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.wan.key_names import ATTENTION, BLOCK, OUTSIDE, to_diffusers

# what only S2V has, as (our name, another's)
S2V_OUTSIDE = (
    ("pose_embedding", "cond_encoder"),
    ("pose_embedding", "condition_embedder.pose_embedder"),
    ("token_kind_embedding", "trainable_cond_mask"),
    ("token_kind_embedding", "trainable_condition_mask"),
)
_AUDIO_ENCODER = re.compile(
    r"^(?:condition_embedder\.)?ca(?:su|us)al_audio_encoder\.(?:encoder\.|weighted_avg\.)?(.+)$"
)
_INJECTOR = re.compile(r"^audio_injector\.(injector|injector_adain_layers)\.(\d+)\.(.+)$")
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")
_ATTENTION = re.compile(r"^(attn1|attn2)\.(.+)$")

# fields that the other config.json call differently; "dim" and "num_heads" make two of ours together
_FIELDS = {
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "cond_dim": "pose_channels",
    "pose_dim": "pose_channels",
    "num_audio_token": "num_audio_tokens",
    "num_weighted_avg_layers": "num_audio_layers",
    "enable_adain": "audio_adain",
}


def our_name(name: str, inject_layers: Iterable[int]) -> str:
    """Our name for a tensor named in any of the three vocabularies; an unknown name is returned unchanged."""
    layers = tuple(inject_layers)
    if match := _AUDIO_ENCODER.match(name):
        return "causal_audio_encoder." + match[1].replace(".conv.conv.", ".conv.")
    if (match := _INJECTOR.match(name)) and int(match[2]) < len(layers):
        part = "attn" if match[1] == "injector" else "norm"
        return f"blocks.{layers[int(match[2])]}.audio_injection.{part}.{to_diffusers(match[3], ATTENTION)}"
    if match := _BLOCK.match(name):
        # both vocabularies have a norm2, but in the reference's it has no weights, so ours is never renamed
        rest = to_diffusers(match[2], BLOCK)
        if attention := _ATTENTION.match(rest):
            rest = f"{attention[1]}.{to_diffusers(attention[2], ATTENTION)}"
        return f"blocks.{match[1]}.{rest}"
    return to_diffusers(name, (*OUTSIDE, *S2V_OUTSIDE))


def is_foreign(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is in one of the other two vocabularies."""
    return any(field in config for field in (*_FIELDS, "dim", "num_heads"))


def our_config(config: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Constructor arguments of `WanS2VTransformer3DModel` for a `config.json` in any of the three vocabularies.

    Args:
        config: the fields of the file.
        fields: those that the constructor takes; others are left out.

    Raises:
        WeightsError: the checkpoint is of a variant that was never published and is not built here, or its config
            has a width that the heads do not divide.
    """
    if config.get("enable_motioner") or config.get("enable_framepack") is False or config.get("enable_tsm"):
        raise WeightsError(
            "config.json asks for the motioner variant (enable_motioner, enable_tsm or enable_framepack=false); only "
            "the published FramePack variant of Wan2.2-S2V can be read."
        )
    if config.get("adain_mode", "attn_norm") != "attn_norm":
        raise WeightsError(f"config.json has adain_mode={config['adain_mode']!r}; only 'attn_norm' can be read.")
    known: dict[str, Any] = {}
    if "dim" in config:
        dim, heads = config["dim"], config.get("num_heads")
        if not heads or dim % heads:
            raise WeightsError(f"config.json has dim={dim} and num_heads={heads}; the heads have to divide the width.")
        known |= {"num_attention_heads": heads, "attention_head_dim": dim // heads}
    for field, value in config.items():
        known[_FIELDS.get(field, field)] = tuple(value) if isinstance(value, list) else value
    return {field: value for field, value in known.items() if field in fields}


_OWN_MODULES = re.compile(r"^diffusion_model\.(audio_injector|casual_audio_encoder|cond_encoder|frame_packer)\.")
_LORA_MATRIX = re.compile(r"^(?:diffusion_model\.)?(.+)\.lora_(A|down|B|up)\.weight$")


def has_own_modules(tensors: Iterable[str]) -> bool:
    """Whether a LoRA file has layers that only S2V has, by the reference's names."""
    return any(map(_OWN_MODULES.match, tensors))


def in_our_names(tensors: Mapping[str, torch.Tensor], inject_layers: Iterable[int]) -> dict[str, torch.Tensor]:
    """The same LoRA by our names behind `transformer.`, each alpha multiplied into its matrix.

    Raises:
        ValueError: a key is not of a LoRA.
    """
    layers, renamed = tuple(inject_layers), dict[str, torch.Tensor]()
    for key, tensor in tensors.items():
        match = _LORA_MATRIX.match(key)
        if match is None:
            if key.endswith(".alpha"):
                continue
            raise ValueError(f"{key} is not a LoRA tensor, and load_lora_weights reads no others.")
        down = match[2] in ("A", "down")
        alpha = tensors.get(f"{key.rpartition('.lora_')[0]}.alpha")
        if down and alpha is not None:
            tensor = tensor * (float(alpha) / len(tensor))
        ours = our_name(f"{match[1]}.weight", layers).removesuffix(".weight")
        renamed[f"transformer.{ours}.lora_{'A' if down else 'B'}.weight"] = tensor
    return renamed

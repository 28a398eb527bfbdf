"""LoRA files that reach modules which only S2V has, for `load_lora_weights`.

diffusers knows what the reference calls the layers that all Wan networks have, and refuses a file with any other. Here
such a file comes to our names; the rest is diffusers' work.

What the tensors and the config of S2V are called by those who published it, and by us.

Three vocabularies exist for the same tensors: the reference's (Wan-AI's files, and FastVideo's conversion, which keeps
them), that of the draft in diffusers (tolgacangoz's conversion), and ours, which `save_pretrained` writes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from wanavatar_lab.errors import WeightsError

_PREFIXES = {
    "text_embedding.0.": "condition_embedder.text_embedder.linear_1.",
    "text_embedding.2.": "condition_embedder.text_embedder.linear_2.",
    "time_embedding.0.": "condition_embedder.time_embedder.linear_1.",
    "time_embedding.2.": "condition_embedder.time_embedder.linear_2.",
    "time_projection.1.": "condition_embedder.time_proj.",
    "head.head.": "proj_out.",
    "head.modulation": "scale_shift_table",
    "cond_encoder.": "pose_embedding.",
    "condition_embedder.pose_embedder.": "pose_embedding.",
    "trainable_cond_mask.": "token_kind_embedding.",
    "trainable_condition_mask.": "token_kind_embedding.",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
_ATTENTION_LEAF = re.compile(r"\.(q|k|v|o)\.(weight|bias)$")
_AUDIO_ENCODER = re.compile(
    r"^(?:condition_embedder\.)?ca(?:su|us)al_audio_encoder\.(?:encoder\.|weighted_avg\.)?(.+)$"
)
_INJECTOR = re.compile(r"^audio_injector\.(injector|injector_adain_layers)\.(\d+)\.(.+)$")
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")
# the reference calls the norms in the order norm1, norm3, norm2; only the middle one has weights
_IN_BLOCK = (
    ("self_attn.", "attn1."),
    ("cross_attn.", "attn2."),
    ("norm3.", "norm2."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
    ("modulation", "scale_shift_table"),
)

# fields of the others' config.json that we call differently; "dim" and "num_heads" make two of ours together
_FIELDS = {
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "cond_dim": "pose_channels",
    "pose_dim": "pose_channels",
    "num_audio_token": "num_audio_tokens",
    "num_weighted_avg_layers": "num_audio_layers",
    "enable_adain": "audio_adain",
}
_WIDTH_FIELDS = ("dim", "num_heads")
_OUR_FIELDS = (
    "patch_size num_attention_heads attention_head_dim in_channels out_channels text_dim freq_dim ffn_dim num_layers "
    "cross_attn_norm eps audio_dim num_audio_layers num_audio_tokens audio_inject_layers audio_adain "
    "pose_channels zero_timestep"
).split()


def our_name(name: str, inject_layers: Iterable[int]) -> str:
    """Our name for a tensor named in any of the three vocabularies; an unknown name comes back as it is."""
    layers = tuple(inject_layers)
    if match := _AUDIO_ENCODER.match(name):
        return "causal_audio_encoder." + match[1].replace(".conv.conv.", ".conv.")
    if (match := _INJECTOR.match(name)) and int(match[2]) < len(layers):
        part = "attn" if match[1] == "injector" else "norm"
        return f"blocks.{layers[int(match[2])]}.audio_injection.{part}.{_attention_leaf(match[3])}"
    if match := _BLOCK.match(name):
        rest = match[2]
        # the reference's block names and ours both know "norm2"; only the reference has "self_attn" and "norm3"
        # weights, so the replacements below never touch ours
        for theirs, ours in _IN_BLOCK:
            if rest.startswith(theirs):
                rest = ours + rest[len(theirs) :]
                break
        return f"blocks.{match[1]}.{_attention_leaf(rest)}"
    for theirs, ours in _PREFIXES.items():
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def _attention_leaf(name: str) -> str:
    return _ATTENTION_LEAF.sub(lambda m: f".{_ATTENTION[m[1]]}.{m[2]}", "." + name)[1:]


def is_foreign(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is in one of the others' vocabularies."""
    return any(field in config for field in (*_FIELDS, *_WIDTH_FIELDS))


def our_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of `WanS2VTransformer3DModel` for a `config.json` in any of the three vocabularies.

    Raises:
        WeightsError: the checkpoint is of a variant that was never published and is not built here, or its config
            does not say how wide the model is.
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
        target = _FIELDS.get(field, field if field in _OUR_FIELDS else None)
        if target is not None:
            known[target] = tuple(value) if isinstance(value, list) else value
    return known


_PREFIX = "diffusion_model."
_OWN = tuple(
    f"{_PREFIX}{module}." for module in ("audio_injector", "casual_audio_encoder", "cond_encoder", "frame_packer")
)
_DOWN, _UP = (".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight")


def has_own_modules(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a file reaches layers that only S2V has, by the reference's names."""
    return any(key.startswith(_OWN) for key in tensors)


def in_our_names(tensors: Mapping[str, torch.Tensor], inject_layers: Iterable[int]) -> dict[str, torch.Tensor]:
    """The same LoRA by our names behind `transformer.`, each alpha multiplied into its matrix.

    Raises:
        ValueError: a key is not of a LoRA.
    """
    layers, found = tuple(inject_layers), dict[str, torch.Tensor]()
    for key, tensor in tensors.items():
        ending = next((end for end in (*_DOWN, *_UP, ".alpha") if key.endswith(end)), None)
        if ending is None:
            raise ValueError(f"{key} is no part of a LoRA, and load_lora_weights takes nothing else.")
        if ending == ".alpha":
            continue
        module = key.removesuffix(ending)
        ours = our_name(f"{module.removeprefix(_PREFIX)}.weight", layers).removesuffix(".weight")
        if ending in _UP:
            found[f"transformer.{ours}.lora_B.weight"] = tensor
            continue
        alpha = tensors.get(f"{module}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / len(tensor)
        found[f"transformer.{ours}.lora_A.weight"] = tensor * scale
    return found

"""The layouts that others publish, made at toy size for the tests of the loaders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.key_names import our_name

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFESTS: dict[str, Any] = json.loads((GOLDEN / "official_manifests.json").read_text(encoding="utf-8"))
STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"


def published_shapes(which: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint: s2v_14b, wan2.1_vae or umt5_xxl_encoder."""
    return {name: tuple(shape) for name, shape in MANIFESTS[which]["tensors"].items()}


def reference_names(model: WanS2VTransformer3DModel) -> dict[str, str]:
    """Our name → the reference's, for a model that is no deeper than the published one."""
    layers = model.config.audio_inject_layers
    ours = {our_name(theirs, layers): theirs for theirs in published_shapes("s2v_14b")}
    return {name: ours[name] for name, _ in model.named_parameters()}


def draft_names(model: WanS2VTransformer3DModel) -> dict[str, str]:
    """Our name → that of the draft in diffusers, whose modules are nested otherwise."""
    encoder = "condition_embedder.causal_audio_encoder."
    moved = {
        "pose_embedding.": "condition_embedder.pose_embedder.",
        "token_kind_embedding.": "trainable_condition_mask.",
        "causal_audio_encoder.weights": encoder + "weighted_avg.weights",
        "causal_audio_encoder.conv2.conv.": encoder + "encoder.conv2.conv.conv.",
        "causal_audio_encoder.conv3.conv.": encoder + "encoder.conv3.conv.conv.",
        "causal_audio_encoder.": encoder + "encoder.",
    }
    for place, layer in enumerate(model.config.audio_inject_layers):
        moved[f"blocks.{layer}.audio_injection.attn."] = f"audio_injector.injector.{place}."
        moved[f"blocks.{layer}.audio_injection.norm."] = f"audio_injector.injector_adain_layers.{place}."
    names = {}
    for name, _ in model.named_parameters():
        start = next((start for start in moved if name.startswith(start)), None)
        names[name] = name if start is None else moved[start] + name.removeprefix(start)
    return names


def draft_config(model: WanS2VTransformer3DModel) -> dict[str, Any]:
    """The draft's `config.json` for a model."""
    config = model.config
    same = (
        "patch_size num_attention_heads attention_head_dim in_channels out_channels text_dim freq_dim audio_dim "
        "ffn_dim num_layers cross_attn_norm eps zero_timestep audio_inject_layers"
    ).split()
    return {name: getattr(config, name) for name in same} | {
        "_class_name": "WanS2VTransformer3DModel",
        "_diffusers_version": "0.36.0.dev0",
        "added_kv_proj_dim": None,
        "adain_mode": "attn_norm",
        "add_last_motion": True,
        "enable_adain": config.audio_adain,
        "enable_framepack": True,
        "framepack_drop_mode": "padd",
        "num_weighted_avg_layers": config.num_audio_layers,
        "pose_dim": config.pose_channels,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
    }


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], shard_bytes: int | None = None
) -> Path:
    """Write `config.json` and the tensors, in one file or in shards of up to `shard_bytes` with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if shard_bytes is None:
        save_file(dict(tensors), folder / f"{STEM}.safetensors")
        return folder
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled + tensor.nbytes > shard_bytes and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{STEM}-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return folder

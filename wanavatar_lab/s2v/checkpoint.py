"""Published S2V checkpoints: their tensor names, and reading them shard by shard.

Three vocabularies exist for the same tensors: the reference's (Wan-AI's files, and FastVideo's conversion, which keeps
them), that of the draft in diffusers (tolgacangoz's conversion), and ours, which `save_pretrained` writes.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from wanavatar_lab.errors import WeightsError

if TYPE_CHECKING:
    from .transformer import WanS2VTransformer3DModel

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
    "motion_in.patch_embedding.": "patch_embedding.",
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


def our_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of `WanS2VTransformer3DModel` for a `config.json` in any of the three vocabularies.

    Raises:
        WeightsError: the checkpoint is of a variant that was never published and is not built here.
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
        heads = int(config["num_heads"])
        known |= {"num_attention_heads": heads, "attention_head_dim": int(config["dim"]) // heads}
    renamed = {
        "in_dim": "in_channels",
        "out_dim": "out_channels",
        "cond_dim": "pose_channels",
        "pose_dim": "pose_channels",
        "num_audio_token": "num_audio_tokens",
        "num_weighted_avg_layers": "num_audio_layers",
        "enable_adain": "audio_adain",
    }
    same = (
        "patch_size num_attention_heads attention_head_dim in_channels out_channels text_dim freq_dim ffn_dim "
        "num_layers cross_attn_norm eps audio_dim num_audio_layers num_audio_tokens audio_inject_layers audio_adain "
        "pose_channels zero_timestep"
    ).split()
    for key, value in config.items():
        target = renamed.get(key, key if key in same else None)
        if target is not None:
            known[target] = tuple(value) if isinstance(value, list) else value
    return known


def compare_names(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that the tensors found are exactly those expected, with their shapes.

    Raises:
        WeightsError: names the first tensors that are missing, left over or of another shape.
    """
    missing = sorted(expected.keys() - found.keys())
    left_over = sorted(found.keys() - expected.keys())
    reshaped = [
        f"{name} is {list(found[name])}, need {list(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if tuple(found[name]) != tuple(expected[name])
    ]
    problems = []
    for label, names in (("missing", missing), ("left over", left_over), ("of another shape", reshaped)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            problems.append(f"{len(names)} tensors {label}: {', '.join(names[:5])}{more}")
    if problems:
        raise WeightsError(f"{where} is not the checkpoint this model needs. {'; '.join(problems)}.")


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, in order.

    Raises:
        WeightsError: the folder or a file that its index names is not there.
    """
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    gone = [file.name for file in files if not file.is_file()]
    if not files or gone:
        what = ", ".join(gone) if gone else "diffusion_pytorch_model*.safetensors"
        raise WeightsError(f"{folder} lacks {what}. Download the checkpoint again, or point to the folder that has it.")
    return files


def load_transformer(
    model_class: "type[WanS2VTransformer3DModel]",
    folder: str | os.PathLike[str],
    torch_dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> "WanS2VTransformer3DModel":
    """Build a model from a checkpoint folder whose tensors bear any of the three vocabularies' names.

    Tensors go one by one from the mapped file to their dtype and device; what the model keeps in float32 stays so.

    Args:
        model_class: the class to build.
        folder: has `config.json` and `diffusion_pytorch_model*.safetensors`, sharded or whole.
        torch_dtype: dtype of the weights.
        device: where they go.

    Raises:
        WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
    """
    folder = Path(folder)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise WeightsError(f"{folder} has no config.json. Point to the folder that holds the S2V transformer.")
    config = our_config(json.loads(config_file.read_text(encoding="utf-8")))
    with torch.device("meta"):
        model = model_class(**config)
    targets = dict(model.named_parameters())
    layers = model.config.audio_inject_layers

    sources: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in shard_files(folder):
        try:
            with safe_open(file, framework="pt") as shard:
                for theirs in shard.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    ours = our_name(theirs, layers)
                    if ours in sources:
                        raise WeightsError(f"{file} has {theirs}, which is the same tensor as {sources[ours][1]}.")
                    sources[ours] = (file, theirs)
                    shapes[ours] = tuple(shard.get_slice(theirs).get_shape())
        except SafetensorError as error:
            raise WeightsError(f"{file} is damaged ({error}). Download it again.") from error
    compare_names(shapes, {name: tuple(parameter.shape) for name, parameter in targets.items()}, str(folder))

    in_float32 = set(model_class._keep_in_fp32_modules)
    for file in sorted({file for file, _ in sources.values()}):
        with safe_open(file, framework="pt") as shard:
            for name, (source, theirs) in sources.items():
                if source == file:
                    dtype = torch.float32 if in_float32 & set(name.split(".")) else torch_dtype
                    tensor = shard.get_tensor(theirs).to(device=device, dtype=dtype, copy=True)
                    _assign(model, name, tensor)
    model.register_to_config(_name_or_path=str(folder))
    return model.eval()


def _assign(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(tensor, requires_grad=False))

"""What a stage of a profile consists of: read off the weights that lie there, or off the table of published ones."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.profiles import Profile
from wanavatar_lab.residency.component import Component
from wanavatar_lab.residency.published import PUBLISHED
from wanavatar_lab.residency.stored import StoredTensor, tensors_of, weights_files
from wanavatar_lab.weights import not_there
from wanavatar_lab.weights.table import weights_at

ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
DENOISERS = ("transformer", "transformer_2")
PARTS = {
    "text_to_image": ("text_encoder", "transformer", "vae"),
    "upscale": ("network",),
    "image_to_video": ("text_encoder", "transformer", "transformer_2", "vae"),
    "speech_to_video": ("text_encoder", "audio_encoder", "transformer", "vae"),
}
# parts that Wan's stages load in float32 whatever the others are in
_IN_FLOAT32 = {"image_to_video": ("vae",), "speech_to_video": ("vae", "audio_encoder")}
# where Wan-AI's folders keep parts, as `s2v.components` and `stages.wan_folder` read them
_WAN_PLACES = {"text_encoder": "models_t5_umt5-xxl-enc-bf16.pth", "vae": "Wan2.1_VAE.pth"}
_WAN_DENOISERS = {
    "image_to_video": {"transformer": "high_noise_model", "transformer_2": "low_noise_model"},
    "speech_to_video": {"transformer": ".", "audio_encoder": "wav2vec2-large-xlsr-53-english"},
}

# The two below follow `_keep_in_fp32_modules` and `_skip_layerwise_casting_patterns` of the Wan networks, in the names
# of diffusers and in Wan-AI's own; what they miss is a few biases.
_EXACT = {
    "image_to_video": re.compile(r"time_embed|scale_shift_table|modulation|norm[123]\b"),
    "speech_to_video": re.compile(
        r"time_(embed|proj)|ca(us|su)al_audio_encoder|scale_shift_table|modulation|norm[123]\b"
    ),
}
_NEVER_CAST_ANYWHERE = r"norm|patch_embed|pos_embed|^proj_(in|out)\."
_NEVER_CAST = {
    "text_to_image": re.compile(_NEVER_CAST_ANYWHERE),
    "image_to_video": re.compile(
        f"{_NEVER_CAST_ANYWHERE}|condition_embedder|text_embedding|time_(embed|proj)|modulation|^head\\."
    ),
    "speech_to_video": re.compile(
        f"{_NEVER_CAST_ANYWHERE}|condition_embedder|text_embedding|time_(embed|proj)|modulation|^head\\.|"
        "pose_embedding|cond_encoder|frame_packer|token_kind|trainable_cond|ca(us|su)al_audio_encoder"
    ),
}


def stage_components(profile: Profile, stage: str, weights_dir: Path, device: str) -> tuple[Component, ...]:
    """The networks of a stage, in the order in which they work.

    Args:
        profile, stage: which.
        weights_dir: where weights lie. Those that are downloaded need not be there.
        device: where they are to compute, which says their number format.

    Raises:
        WeightsError: they are not there and not in the table, or a file is damaged.
        LabError: the profile has no such stage.
    """
    places = _places(profile, stage, weights_dir)
    if all(weights_files(place) for place in places.values()):
        itemsize = ITEMSIZES[profile.dtype(device)]
        wide = _IN_FLOAT32.get(stage, ())
        return tuple(_of_files(name, stage, place, 4 if name in wide else itemsize) for name, place in places.items())
    location = profile.weights(stage, weights_dir)
    published = weights_at(location)
    if published is None or published.ships:
        raise not_there(stage, location)
    return tuple(each.component() for each in PUBLISHED[stage])


def weights_are_there(profile: Profile, stage: str, weights_dir: Path) -> bool:
    """Whether every network of a stage has files at its place; whether they are whole, loading says."""
    return all(weights_files(place) for place in _places(profile, stage, weights_dir).values())


def bytes_to_load(profile: Profile, stage: str, weights_dir: Path, device: str) -> int:
    """Main memory that loading a stage takes, in bytes; 0 for a stage of others, and where there is nothing to load.

    Raises:
        WeightsError: a file is damaged.
    """
    # upscale reads its small network when it knows which one is wanted
    if stage not in PARTS or stage == "upscale" or not weights_are_there(profile, stage, weights_dir):
        return 0
    return sum(component.gpu_bytes for component in stage_components(profile, stage, weights_dir, device))


def _places(profile: Profile, stage: str, weights_dir: Path) -> dict[str, Path]:
    folder = profile.weights(stage, weights_dir)
    if stage == "upscale":
        return {"network": folder}
    theirs = _WAN_DENOISERS.get(stage, {})
    wan = bool(theirs) and not (folder / "transformer").is_dir() and (folder / theirs["transformer"]).is_dir()
    names = {**_WAN_PLACES, **theirs} if wan else {}
    return {name: folder / names.get(name, name) for name in PARTS[stage]} | {
        name: place for name, place in profile.shared_parts(stage, weights_dir).items() if name in PARTS[stage]
    }


def _of_files(name: str, stage: str, place: Path, itemsize: int) -> Component:
    files = weights_files(place)
    tensors = _distinct(tensors_of(files))
    denoiser = name in DENOISERS
    exact = _EXACT.get(stage) if denoiser else None
    sizes = [
        tensor.parameters * (4 if exact is not None and exact.search(tensor.name) else itemsize) for tensor in tensors
    ]
    castable = sum(
        tensor.parameters * (itemsize - 1)
        for tensor in tensors
        if denoiser and tensor.name.endswith((".weight", ".bias")) and not _NEVER_CAST[stage].search(tensor.name)
    )
    config = _config(place)
    return Component(
        name=name,
        parameters=sum(tensor.parameters for tensor in tensors),
        gpu_bytes=sum(sizes),
        file_bytes=sum(file.stat().st_size for file in files),
        fp8_bytes=sum(sizes) - castable if denoiser else None,
        largest_layer=max(sizes, default=0),
        **dimensions(config) if config else _published_dimensions(name, stage),
    )


def _distinct(tensors: list[StoredTensor]) -> list[StoredTensor]:
    # files of UMT5 may hold its one embedding under two names
    twice = any(tensor.name == "shared.weight" for tensor in tensors)
    return [tensor for tensor in tensors if not (twice and tensor.name == "encoder.embed_tokens.weight")]


def _config(place: Path) -> Mapping[str, Any]:
    file = place / "config.json"
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{file} cannot be read ({error}). Download it again.") from error


def dimensions(config: Mapping[str, Any]) -> dict[str, int]:
    """Width, layers and feed-forward by the names that each family's config has for them."""
    heads, head = config.get("num_attention_heads"), config.get("attention_head_dim")
    width = heads * head if heads and head else _first(config, "dim", "hidden_size", "d_model", "base_dim")
    if not width and config.get("block_out_channels"):
        width = config["block_out_channels"][0]
    layers = _first(config, "num_layers", "num_hidden_layers") + int(config.get("num_single_layers") or 0)
    ratio = config.get("mlp_ratio")
    feed_forward = int(width * ratio) if ratio else _first(config, "ffn_dim")
    return {"width": width, "layers": layers, "feed_forward": feed_forward}


def _first(config: Mapping[str, Any], *names: str) -> int:
    return int(next((config[name] for name in names if config.get(name)), 0))


def _published_dimensions(name: str, stage: str) -> dict[str, int]:
    # single files have no config beside them
    known = {each.name: each for each in PUBLISHED[stage]}[name]
    return {"width": known.width, "layers": known.layers, "feed_forward": known.feed_forward}

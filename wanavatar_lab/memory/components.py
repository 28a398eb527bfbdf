"""What a stage of a profile consists of: read off the weights that lie there, or off the table of published ones.

What a stage is made of, in bytes. No torch is needed for these figures.

What lies in weights files, read off headers and tables of contents: no tensor is loaded, and torch is not needed.

The networks as they are published, for planning before anything is downloaded.

The numbers of parameters were counted on the meta device with the published configs, and agree with the sizes of the
published files (see `wanavatar_lab.weights.table`); a test counts them again.
"""

import json
import math
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.profiles import Profile
from wanavatar_lab.weights import missing_weights
from wanavatar_lab.weights.safetensors_header import read_header
from wanavatar_lab.weights.table import weights_at


@dataclass(frozen=True)
class Component:
    """One network of a stage.

    Attributes:
        name: what its pipeline calls it: transformer, transformer_2, text_encoder, vae, audio_encoder; for upscale,
            network.
        parameters: how many numbers it has.
        gpu_bytes: of its weights in the number formats in which the stage loads it.
        file_bytes: of the files it comes from; what is published, where they are not there yet. None if unknown.
        fp8_bytes: of its weights when those of linear layers and convolutions are stored in 8 bits; None for what
            is never stored so.
        largest_layer: bytes of the layer with most weights.
        width: channels: of the hidden states of a transformer, of the finest level of an autoencoder.
        layers: blocks of a transformer; 0 for others.
        feed_forward: inner width of a transformer's feed-forward; 0 where that is of no account.
    """

    name: str
    parameters: int
    gpu_bytes: int
    file_bytes: int | None
    fp8_bytes: int | None = None
    largest_layer: int = 0
    width: int = 0
    layers: int = 0
    feed_forward: int = 0


_VARIANT = re.compile(r"\.(fp16|bf16|fp8|ema|non_ema)[.-]")
_ITEMSIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: as the file calls it; empty where the file does not say it without being unpickled.
        parameters: how many numbers it has.
        dimensions: of its shape; 0 where the file does not say it.
    """

    name: str
    parameters: int
    dimensions: int


def tensors_of(files: list[Path]) -> list[StoredTensor]:
    """The tensors of some files, safetensors or such as `torch.save` writes.

    Raises:
        WeightsError: a file is not there, damaged, or of another kind.
    """
    return [tensor for file in files for tensor in (_safetensors(file) if _is_safe(file) else _saved(file))]


def weights_files(place: Path) -> list[Path]:
    """The files that a loader would read at a place: the file itself, or of a folder the shards or the whole ones."""
    if place.is_file():
        return [place]
    for index in sorted(place.glob("*.safetensors.index.json")):
        if not _VARIANT.search(index.name):
            return [place / name for name in sorted(set(_weight_map(index).values()))]
    for pattern in ("*.safetensors", "pytorch_model*.bin", "*.pth"):
        found = [file for file in sorted(place.glob(pattern)) if not _VARIANT.search(file.name)]
        if found:
            return found
    return []


def _is_safe(file: Path) -> bool:
    return file.suffix == ".safetensors"


def _safetensors(file: Path) -> Iterator[StoredTensor]:
    for name, shape in read_header(file).shapes.items():
        yield StoredTensor(name, math.prod(shape), len(shape))


def _saved(file: Path) -> Iterator[StoredTensor]:
    """A zip of storages with a pickle beside them, which is looked through for their number format and never run."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            pickles = [name for name in sizes if name.endswith("data.pkl")]
            storages = [size for name, size in sizes.items() if "/data/" in f"/{name}"]
            words = [argument for _, argument, _ in pickletools.genops(archive.read(pickles[0]))] if pickles else []
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{file} cannot be read ({error}). Download it again.") from error
    kinds = {
        match[1] for word in words if isinstance(word, str) if (match := re.fullmatch(r"torch (\w+)Storage", word))
    }
    if len(kinds) != 1 or not kinds <= _ITEMSIZES.keys():
        found = ", ".join(sorted(kinds)) or "none"
        raise WeightsError(f"{file} should hold numbers of one format, and holds {found}. Download it again.")
    itemsize = _ITEMSIZES[kinds.pop()]
    yield from (StoredTensor("", size // itemsize, 0) for size in storages)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index} cannot be read ({error!r}). Download it again.") from error


@dataclass(frozen=True)
class Published:
    """A published network, in parameters.

    Attributes:
        name: see `Component`.
        parameters: all of them.
        itemsize: bytes of one on the GPU.
        stored: bytes of one in the published files.
        exact: those of them that stay in float32 in any case.
        castable: those that 8-bit storage reaches; 0 for networks that are never stored so.
        largest_layer: those of the layer that takes most memory.
        largest_itemsize: bytes of one of these on the GPU, where they stay in float32; 0 where they are as the others.
        width, layers, feed_forward: see `Component`.
    """

    name: str
    parameters: int
    itemsize: int
    stored: int
    exact: int = 0
    castable: int = 0
    largest_layer: int = 0
    largest_itemsize: int = 0
    width: int = 0
    layers: int = 0
    feed_forward: int = 0

    def component(self) -> Component:
        """The same in bytes."""
        gpu_bytes = self.parameters * self.itemsize + self.exact * (4 - self.itemsize)
        return Component(
            name=self.name,
            parameters=self.parameters,
            gpu_bytes=gpu_bytes,
            file_bytes=self.parameters * self.stored,
            fp8_bytes=gpu_bytes - self.castable * (self.itemsize - 1) if self.castable else None,
            largest_layer=self.largest_layer * (self.largest_itemsize or self.itemsize),
            width=self.width,
            layers=self.layers,
            feed_forward=self.feed_forward,
        )


_UMT5 = Published("text_encoder", 5_680_910_336, 2, 2, largest_layer=1_050_148_864, width=4096, layers=24)
_WAN_VAE = Published("vae", 126_892_531, 4, 4, largest_layer=3_981_696, width=96)


def _expert(name: str) -> Published:
    return Published(
        name,
        14_288_901_184,
        2,
        4,
        exact=29_184_000,
        castable=14_053_314_560,
        largest_layer=157_317_120,
        width=5120,
        layers=40,
        feed_forward=13_824,
    )


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "text_to_image": (
        # Qwen3-8B
        Published("text_encoder", 8_190_735_360, 2, 2, largest_layer=622_329_856, width=4096, layers=36),
        Published(
            "transformer",
            9_078_581_248,
            2,
            2,
            castable=9_044_492_288,
            largest_layer=150_994_944,
            width=4096,
            layers=32,
            feed_forward=12_288,
        ),
        Published("vae", 84_046_115, 2, 2, largest_layer=2_359_808, width=128),
    ),
    "upscale": (Published("network", 16_703_171, 2, 4, width=64),),
    "image_to_video": (_UMT5, _expert("transformer"), _expert("transformer_2"), _WAN_VAE),
    "speech_to_video": (
        _UMT5,
        # wav2vec2-large-xlsr-53
        Published("audio_encoder", 315_438_720, 4, 4, largest_layer=8_388_736, width=1024, layers=24),
        Published(
            "transformer",
            16_295_755_609,
            2,
            2,
            exact=281_552_665,
            castable=15_311_851_520,
            largest_layer=157_317_120,
            largest_itemsize=4,
            width=5120,
            layers=40,
            feed_forward=13_824,
        ),
        _WAN_VAE,
    ),
}


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
        raise missing_weights(stage, location)
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

"""The networks of a stage, in bytes: read from the weights files on disk, or taken from the table of published ones.

Only headers and tables of contents of the files are read: no tensor is loaded, and torch is not imported.
"""

import json
import math
import pickletools
import re
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.files import entries
from wanavatar_lab.profiles import Profile
from wanavatar_lab.weights import missing_weights
from wanavatar_lab.weights.safetensors_header import read_header
from wanavatar_lab.weights.table import weights_at

DENOISERS = ("transformer", "transformer_2")
_TABLE: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# the networks of each stage, in the order in which they run
PARTS: dict[str, tuple[str, ...]] = {stage: tuple(parts) for stage, parts in _TABLE["stages"].items()}


@dataclass(frozen=True)
class Component:
    """One network of a stage.

    Attributes:
        name: in its pipeline: transformer, transformer_2, text_encoder, vae, audio_encoder; network for upscale;
            speech_model and audio_vae for text to speech.
        parameters: how many numbers it has.
        gpu_bytes: of its weights in the number formats in which the stage loads it.
        file_bytes: of its files, or of the published ones where none are installed; None if unknown.
        fp8_bytes: of its weights when those of linear layers and convolutions are stored in 8 bits; None for networks
            that are never stored so.
        largest_layer: bytes of the layer with most weights.
        width: channels: of the hidden states of a transformer, of the finest level of an autoencoder.
        layers: blocks of a transformer; 0 for others.
        feed_forward: inner width of a transformer's feed-forward; 0 where time estimates do not need it.
        audio_layers: blocks of a transformer with cross-attention to audio.
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
    audio_layers: int = 0

    @property
    def float8_bytes(self) -> int:
        """Of the weights of a denoising network of Wan, with those in 8 bits that `wan.float8` multiplies in float8."""
        numbers = 6 * self.width**2 + 2 * self.width * self.feed_forward
        scales = 7 * self.width + self.feed_forward
        itemsize = 4 if self.gpu_bytes > 3 * self.parameters else 2
        return self.gpu_bytes - self.layers * (numbers * (itemsize - 1) - 4 * scales)


PUBLISHED: dict[str, tuple[Component, ...]] = {
    stage: tuple(Component(name, **_TABLE["networks"][network]) for name, network in parts.items())
    for stage, parts in _TABLE["stages"].items()
}


def stage_components(profile: Profile, stage: str, weights_dir: Path, device: str) -> tuple[Component, ...]:
    """The networks of a stage, in the order in which they run.

    Args:
        profile, stage: which.
        weights_dir: the weights folder. Networks that can be downloaded need not be installed.
        device: the compute device, which decides the number format.

    Raises:
        WeightsError: weights are neither installed nor in the table of published ones, or a file is damaged.
        LabError: the profile has no such stage.
    """
    paths = _paths(profile, stage, weights_dir)
    if all(weights_files(path) for path in paths.values()):
        everywhere = profile.dtype(device) == "float32"
        in_float32 = paths if everywhere else _TABLE["in_float32"].get(stage, ())
        return tuple(_installed(stage, name, path, 4 if name in in_float32 else 2) for name, path in paths.items())
    location = profile.weights(stage, weights_dir)
    weights = weights_at(location)
    if weights is None or weights.ships:
        raise missing_weights(stage, location)
    return PUBLISHED[stage]


def weights_are_there(profile: Profile, stage: str, weights_dir: Path) -> bool:
    """Whether files of every network of a stage are installed. Whether they are complete is checked on loading."""
    return all(weights_files(path) for path in _paths(profile, stage, weights_dir).values())


def bytes_to_load(profile: Profile, stage: str, weights_dir: Path, device: str) -> int:
    """Host memory that loading a stage takes, in bytes; 0 for custom stages and for weights that are not installed.

    Raises:
        WeightsError: a file is damaged.
    """
    # upscale loads its small network only when a request names one
    if stage not in PARTS or stage == "upscale" or not weights_are_there(profile, stage, weights_dir):
        return 0
    return sum(component.gpu_bytes for component in stage_components(profile, stage, weights_dir, device))


def dimensions(config: Mapping[str, Any]) -> dict[str, int]:
    """The width, layers, feed_forward and audio_layers of a `Component`, from a network's config.

    Args:
        config: of any of the networks in `PARTS`; each family has its own names for them.
    """

    def first(*names: str) -> int:
        return int(next((config[name] for name in names if config.get(name)), 0))

    heads, head = config.get("num_attention_heads"), config.get("attention_head_dim")
    width = heads * head if heads and head else first("dim", "hidden_size", "d_model", "base_dim")
    if not width and config.get("block_out_channels"):
        width = config["block_out_channels"][0]
    ratio = config.get("mlp_ratio")
    return {
        "width": width,
        "layers": first("num_layers", "num_hidden_layers") + int(config.get("num_single_layers") or 0),
        "feed_forward": int(width * ratio) if ratio else first("ffn_dim"),
        "audio_layers": len(config.get("audio_inject_layers") or ()),
    }


def _paths(profile: Profile, stage: str, weights_dir: Path) -> dict[str, Path]:
    """The file or folder of each network of a stage, in diffusers layout or its publisher's; {} where it needs none.

    Raises:
        WeightsError: the folder may not be read.
    """
    folder = profile.weights(stage, weights_dir)
    try:
        entries(folder)
    except PermissionError as error:
        raise WeightsError(
            f"{folder} may not be read by this user. Change its permissions, or set WANAVATAR_WEIGHTS to another."
        ) from error
    if stage == "upscale":
        return {"network": folder}
    if stage == "text_to_speech":
        files = _TABLE["speech_files"]
        there = (folder / files["instead"]).is_file()
        return {} if there else {name: folder / file for name, file in files["networks"].items()}
    names = _TABLE["wan_files"].get(stage, {})
    if (folder / "transformer").is_dir() or not (names and (folder / names["transformer"]).is_dir()):
        names = {}
    shared = profile.shared_parts(stage, weights_dir)
    return {name: shared.get(name, folder / names.get(name, name)) for name in PARTS[stage]}


def _installed(stage: str, name: str, path: Path, itemsize: int) -> Component:
    """A component from its weights files and the config beside them.

    Args:
        stage, name: which.
        path: its file or folder.
        itemsize: bytes of a number on the compute device.
    """
    files = weights_files(path)
    tensors = [tensor for file in files for tensor in tensor_sizes(file)]
    if any(tensor == "shared.weight" for tensor, _ in tensors):
        # files of UMT5 may hold its one embedding under two names
        tensors = [each for each in tensors if each[0] != "encoder.embed_tokens.weight"]
    denoiser = name in DENOISERS

    def matches(table: str, tensor: str) -> bool:
        return any(re.search(pattern, tensor) for pattern in _TABLE[table].get(stage, ()))

    sizes = [count * (4 if denoiser and matches("exact", tensor) else itemsize) for tensor, count in tensors]
    saved_by_fp8 = sum(
        count * (itemsize - 1)
        for tensor, count in tensors
        if denoiser and tensor.endswith((".weight", ".bias")) and not matches("never_cast", tensor)
    )
    own: dict[str, Any] = dimensions(_read_json(path / "config.json")) if (path / "config.json").is_file() else {}
    # a file without a config beside it has the published dimensions
    (published,) = [each for each in PUBLISHED[stage] if each.name == name]
    return replace(
        published,
        parameters=sum(count for _, count in tensors),
        gpu_bytes=sum(sizes),
        file_bytes=sum(file.stat().st_size for file in files),
        fp8_bytes=sum(sizes) - saved_by_fp8 if denoiser else None,
        largest_layer=max(sizes, default=0),
        **own,
    )


# smaller or averaged copies of the same weights, which some folders hold as well
_VARIANT = re.compile(r"\.(fp16|bf16|fp8|ema|non_ema)[.-]")


def weights_files(path: Path) -> list[Path]:
    """The files that a loader reads at a path: the file itself, or a folder's shards or single file.

    Raises:
        WeightsError: an index of shards is damaged.
    """
    if path.is_file():
        return [path]
    for index in sorted(path.glob("*.safetensors.index.json")):
        if not _VARIANT.search(index.name):
            shards = _read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
                raise WeightsError(f"{index} has no weight_map of file names. Download it again.")
            return [path / name for name in sorted(set(shards.values()))]
    for pattern in ("*.safetensors", "pytorch_model*.bin", "*.pth"):
        found = [file for file in sorted(path.glob(pattern)) if not _VARIANT.search(file.name)]
        if found:
            return found
    return []


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{file} cannot be read ({error}). Download it again.") from error


# bytes of a number by the names of torch's storages
_ITEMSIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}


def tensor_sizes(file: Path) -> Iterator[tuple[str, int]]:
    """The name and the number of elements of each tensor in a file of safetensors or of `torch.save`.

    The file of `torch.save` is a zip of storages and a pickle. The pickle is scanned for the number format and never
    executed, so that names are empty.

    Raises:
        WeightsError: the file is missing, damaged, or of another kind.
    """
    if file.suffix == ".safetensors":
        yield from ((name, math.prod(shape)) for name, shape in read_header(file).shapes.items())
        return
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            pickles = [name for name in sizes if name.endswith("data.pkl")]
            words = [argument for _, argument, _ in pickletools.genops(archive.read(pickles[0]))] if pickles else []
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{file} cannot be read ({error}). Download it again.") from error
    kinds = {
        match[1] for word in words if isinstance(word, str) if (match := re.fullmatch(r"torch (\w+)Storage", word))
    }
    if not kinds <= _ITEMSIZES.keys() or len({_ITEMSIZES[kind] for kind in kinds}) != 1:
        found = ", ".join(sorted(kinds)) or "none"
        raise WeightsError(f"{file} must hold numbers of one size (found: {found}). Download it again.")
    itemsize = _ITEMSIZES[kinds.pop()]
    yield from (("", size // itemsize) for name, size in sizes.items() if "/data/" in f"/{name}")

"""A picture becomes twice as wide and high.

The network is an x2 RRDBNet, that of ESRGAN (Wang et al. 2018, arXiv:1809.00219) in Real-ESRGAN's form
(arXiv:2107.10833), which looks at the picture through a pixel-unshuffle, so that its sides have to be even. spandrel
builds it from the tensors of a weights file. It is applied to tiles that overlap as in Real-ESRGAN's RealESRGANer.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from spandrel import MAIN_REGISTRY, UnsupportedModelError
from torch import Tensor, nn

from wanavatar_lab import media
from wanavatar_lab.errors import LabError, MediaError, WeightsError, is_out_of_memory
from wanavatar_lab.files import entries
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import Upscale
from wanavatar_lab.requests.upscale import WEIGHTS_SUFFIXES
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.checkpoint_files import read_safetensors, read_state_dict
from wanavatar_lab.weights import missing_weights

FILE = "upscaled.png"
SCALE = 2
TILE_PAD = 10  # pixels of the picture around a tile that the network sees too, as RealESRGANer's default
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, as OpenCV's conversion, which RealESRGANer calls
GROWTH = 32  # channels by which spandrel's dense blocks grow: the published width
# where training programs put the state dict, in the order in which spandrel looks: an average before what was averaged
CONTAINERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")

_DENSE = re.compile(r"\.rdb\d\.conv(?P<layer>[1-5])(?:\.0)?\.(?P<part>weight|bias)$", re.IGNORECASE)
_ADVICE = "Give a file of an x2 RRDBNet such as RealESRGAN_x2plus.pth, or download it again."


@dataclass(frozen=True)
class Network:
    """An x2 RRDBNet that takes RGB [1, 3, H, W] in [0, 1], H and W even.

    Attributes:
        module: the network; it returns [1, 3, 2H, 2W].
        file: the name of its weights file.
        sha256: of that file.
        device, dtype: of its weights and its input.
    """

    module: nn.Module
    file: str
    sha256: str
    device: torch.device
    dtype: torch.dtype


@dataclass
class Models:
    """The models of this stage, kept in the worker's model cache: the network that was used last.

    Attributes:
        location: the profile's weights file, or the folder that holds it.
        device: where it computes.
    """

    location: Path
    device: str
    _read: tuple[tuple[Path, int, int], Network] | None = field(default=None, repr=False)

    def network(self, weights: str | None = None) -> Network:
        """The network of the file `weights`, or the profile's, on the device; read only if the file has changed.

        Raises:
            WeightsError: it is missing, damaged, or not an x2 RRDBNet.
        """
        path = Path(weights) if weights else self._own_file()
        facts = path.stat() if path.is_file() else None
        mark = (path, facts.st_size, facts.st_mtime_ns) if facts else (path, 0, 0)
        if self._read is None or self._read[0] != mark:
            self._read = None  # before the next one is read, so that no more than one is in memory
            self._read = mark, read_network(path, self.device)
        network = self._read[1]
        network.module.to(network.device, network.dtype)  # a picture of 16 bits may have changed it
        return network

    def offload_to_host(self) -> None:
        """Move the network to main memory, to free the GPU for another stage."""
        if self._read is not None:
            self._read[1].module.to("cpu")

    def host_bytes(self) -> int:
        """Main memory that the network takes while it is offloaded, in bytes."""
        return sum(parameter.nbytes for parameter in self._read[1].module.parameters()) if self._read else 0

    def _own_file(self) -> Path:
        if self.location.is_file():
            return self.location
        if not self.location.is_dir():
            raise missing_weights(Upscale.stage, self.location, ", or name a file of your own as weights")
        inside = [path for path in entries(self.location) if path.suffix.lower() in WEIGHTS_SUFFIXES]
        files = [path for path in inside if os.path.isfile(path)]
        if len(files) != 1:
            found = ", ".join(path.name for path in files) or "none"
            raise WeightsError(
                f"{self.location} has to hold one file ending in {' or '.join(WEIGHTS_SUFFIXES)}, and holds {found}. "
                "Leave only the one to use."
            )
        return files[0]


def load(profile: Profile, device: str) -> Models:
    """The models of a profile. Nothing is read yet, because a request may name a weights file of its own."""
    return Models(profile.weights(Upscale.stage, read_settings().weights_dir), device)


def run(
    request: Upscale, models: Models, context: StageContext, *, made_with: Mapping[str, str] | None = None
) -> list[Artifact]:
    """Enlarge the picture; its transparency, its 16 bits, and grey as grey are kept, as by RealESRGANer.

    Args:
        made_with: what the file says of how it was made, where the picture is enlarged in a run of another stage.

    Raises:
        MediaError: it cannot be read, or the result would be larger than the settings allow.
        WeightsError: the weights are missing, damaged, or not an x2 RRDBNet.
        LabError: the network fails on it.
        Cancelled: the run was cancelled.
    """
    levels, profile = media.read_samples(request.image)
    height, width, _ = levels.shape
    pixels, limit = SCALE * SCALE * width * height, read_settings().max_picture_pixels
    if pixels > limit:
        raise MediaError(
            f"{request.image} has {width}×{height} pixels, so the result would have {pixels:,}; the "
            f"limit is {limit:,}. Scale it down, or raise WANAVATAR_MAX_PICTURE_PIXELS."
        )
    network = models.network(request.weights)
    if levels.dtype == np.uint16:  # half precision has 11 bits
        network = replace(network, module=network.module.float(), dtype=torch.float32)
    context.check()
    enlarged = media.Samples(enlarge(levels, network, request.tile, context), profile)
    weights = {network.file: network.sha256}
    media.write_samples(context.folder / FILE, enlarged, metadata=made_with or context.metadata(request, weights))
    context.record(weights=weights, width=SCALE * width, height=SCALE * height)
    return [Artifact(kind=Upscale.artifact, path=FILE, role="upscaled")]


@torch.inference_mode()
def enlarge(levels: NDArray[Any], network: Network, tile: int, context: StageContext) -> NDArray[Any]:
    """A picture at twice its width and height.

    Args:
        levels: [H, W, C] in uint8 or uint16, with C 1 for grey, 3 for RGB, or 4 for RGBA, whose transparency goes
            through the network by itself, as a grey picture.
        network: from `Models.network`.
        tile: side of a tile in pixels of the picture, 0 for the whole; an odd one counts as the next even one.
        context: gets the progress, and is checked for a cancellation, after every tile.

    Returns:
        [2H, 2W, C] in the dtype of `levels`.

    Raises:
        LabError: there is not enough memory for a tile, or the network's output is not finite.
        Cancelled: the run was cancelled.
    """
    rows, columns, channels = levels.shape
    # mirrored at the last row and column where they are odd in number; numpy repeats a single one
    pixels = np.pad(levels, [(0, rows % 2), (0, columns % 2), (0, 0)], mode="reflect")
    height, width = pixels.shape[:2]
    enlarged = np.empty((height * SCALE, width * SCALE, channels), levels.dtype)
    groups = [slice(0, 3), slice(3, 4)][: 1 if channels < 4 else 2]
    parts = [(group, part) for group in groups for part in tiles(height, width, tile)]
    context.progress("upscale", 0, len(parts))
    for number, (group, part) in enumerate(parts, start=1):
        try:
            with context.cancellable(network.module):
                made = _enlarged(pixels[:, :, group], part, network)
        except Exception as error:
            if is_out_of_memory(error):
                whole = f"{width}×{height} pixels at once" if tile == 0 else f"tiles of {tile} pixels"
                raise LabError(
                    f"There is not enough memory for {whole}. Choose a smaller tile, such as 256."
                ) from error
            raise
        enlarged[_scaled(part.rows), _scaled(part.columns), group] = made
        context.progress("upscale", number, len(parts))
        context.check()
    return enlarged[: rows * SCALE, : columns * SCALE]


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a part of the picture, in its pixels, and those that the network sees for it."""

    rows: slice
    columns: slice
    seen_rows: slice
    seen_columns: slice


def tiles(height: int, width: int, tile: int) -> Iterator[Tile]:
    """The tiles of a picture, row by row; every pixel is in exactly one of them."""
    # the network sees pixels in pairs: a tile that began at an odd one would pair them differently
    side = tile + tile % 2 or max(height, width)
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = slice(top, min(top + side, height)), slice(left, min(left + side, width))
            yield Tile(rows, columns, _padded(rows, height), _padded(columns, width))


def read_network(path: Path, device: str) -> Network:
    """The network of a weights file, in half precision on a GPU and in float32 on the CPU.

    Args:
        path: .safetensors or .pth, in the layout of Real-ESRGAN (`params_ema`, `params` or the bare tensors) or in
            ESRGAN's older one, with at most 32 growth channels. spandrel does not open it: its loader would run the
            code of a TorchScript archive.
        device: cpu, cuda or cuda:<n>.

    Raises:
        WeightsError: it is missing, damaged, or not an x2 RRDBNet for RGB pictures.
    """
    if path.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise WeightsError(f"{path} does not end in {' or '.join(WEIGHTS_SUFFIXES)}. {_ADVICE}")
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        safe = path.suffix.lower() == ".safetensors"
        state = read_safetensors(path) if safe else read_state_dict(path, CONTAINERS)
        found = MAIN_REGISTRY.load(_at_full_growth(state))
    except (MemoryError, WeightsError):
        raise
    except FileNotFoundError as error:
        raise WeightsError(f"The weights file {path} does not exist. {_ADVICE}") from error
    except UnsupportedModelError as error:
        raise WeightsError(f"{path} holds no RRDBNet. {_ADVICE}") from error
    except Exception as error:
        # for missing or misshapen tensors an architecture raises whatever its code happens to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WeightsError(f"{path} cannot be read as an RRDBNet: {reason}. {_ADVICE}") from error
    kind, channels = found.architecture.name, (found.input_channels, found.output_channels)
    if kind != "ESRGAN" or found.scale != SCALE or channels != (3, 3):
        raise WeightsError(
            f"{path} holds {kind}, which enlarges ×{found.scale} from {channels[0]} to {channels[1]} channels. "
            + _ADVICE
        )
    target = torch.device(device)
    dtype = torch.float16 if target.type == "cuda" else torch.float32
    module: nn.Module = found.model.eval().requires_grad_(False)
    module = module.to(target, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Network(module, path.name, sha256, target, dtype)


def _at_full_growth(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function with dense blocks that grow by 32 channels; the added ones are zero and have no effect.

    Raises:
        ValueError: the blocks grow by more than 32 channels.
    """
    dense = {name: match for name in state if (match := _DENSE.search(name))}
    first = [name for name, match in dense.items() if (match["layer"], match["part"].lower()) == ("1", "weight")]
    shapes = {state[name].shape[:2] for name in first}
    if len(shapes) != 1:
        return dict(state)  # not an RRDBNet, as the registry then reports
    ((growth, features),) = shapes
    more = GROWTH - growth
    if more < 0:
        raise ValueError(f"its dense blocks grow by {growth} channels, and at most {GROWTH} can be built")
    widened = dict(state)
    for name, match in dense.items():
        tensor, layer = state[name], int(match["layer"])
        if match["part"].lower() == "weight" and layer > 1:
            # the input of layer n is the block's input and the growth of the n - 1 layers before it
            own, grown = tensor[:, :features], tensor[:, features:].unflatten(1, (layer - 1, growth))
            tensor = torch.cat([own, F.pad(grown, (0, 0, 0, 0, 0, more)).flatten(1, 2)], dim=1)
        widened[name] = F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, more)) if layer < 5 else tensor
    return widened


def _padded(part: slice, end: int) -> slice:
    return slice(max(part.start - TILE_PAD, 0), min(part.stop + TILE_PAD, end))


def _scaled(part: slice, origin: int = 0) -> slice:
    return slice((part.start - origin) * SCALE, (part.stop - origin) * SCALE)


def _enlarged(pixels: NDArray[Any], part: Tile, network: Network) -> NDArray[Any]:
    """A tile of a picture uint8 or uint16 [H, W, 1 or 3], at twice its size and without the overlap."""
    most, in_bytes = np.iinfo(pixels.dtype).max, pixels.dtype == np.uint8
    seen = pixels[part.seen_rows, part.seen_columns]
    # bytes are copied to the device and back, and computed with there
    levels = torch.from_numpy(np.ascontiguousarray(seen if in_bytes else seen.astype(np.float32))).to(network.device)
    given = (levels.permute(2, 0, 1)[None].float() / most).expand(-1, 3, -1, -1)
    given = given.to(network.dtype, memory_format=torch.channels_last)
    enlarged = network.module(given)[0].float()
    if not bool(enlarged.isfinite().all()):
        raise LabError(
            f"The network of {network.file} gave values that are not finite. The file may be damaged: download it "
            "again, or set WANAVATAR_DEVICE=cpu to compute in float32."
        )
    enlarged = enlarged[:, _scaled(part.rows, part.seen_rows.start), _scaled(part.columns, part.seen_columns.start)]
    enlarged = enlarged.clamp(0, 1)
    if pixels.shape[2] == 1:
        enlarged = (enlarged * enlarged.new_tensor(LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
    made = (enlarged * most).round().permute(1, 2, 0)
    return (made.to(torch.uint8) if in_bytes else made).cpu().numpy().astype(pixels.dtype, copy=False)

"""A picture becomes twice as wide and high, in tiles that overlap as Real-ESRGAN's own RealESRGANer lays them.

The network behind `upscale`: an x2 RRDBNet, built by spandrel from the tensors of a weights file.

RRDBNet is the network of ESRGAN (Wang et al. 2018, arXiv:1809.00219); Real-ESRGAN's x2 form (arXiv:2107.10833) looks
at the picture through a pixel-unshuffle, so its sides have to be even.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
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

SCALE = 2
# spandrel builds every dense block for the published width
GROWTH = 32
# where training programs put the state dict, in the order in which spandrel looks: an average before what was averaged
CONTAINERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")

_DENSE = re.compile(r"\.rdb\d\.conv(?P<layer>[1-5])(?:\.0)?\.(?P<part>weight|bias)$", re.IGNORECASE)
_ADVICE = "Give a file of an x2 RRDBNet such as RealESRGAN_x2plus.pth, or download it again."


@dataclass(frozen=True)
class Network:
    """An x2 RRDBNet that is ready to be called with RGB [1, 3, H, W] in 0..1, H and W even.

    Attributes:
        module: the network; it returns [1, 3, 2H, 2W].
        file: the name of its weights file.
        sha256: of that file.
        device, dtype: of its weights, and of what it is given.
    """

    module: nn.Module
    file: str
    sha256: str
    device: torch.device
    dtype: torch.dtype


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
        # an architecture whose tensors are missing or misshapen fails as its code happens to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WeightsError(f"{path} cannot be read as an RRDBNet: {reason}. {_ADVICE}") from error
    kind = found.architecture.name
    channels = (found.input_channels, found.output_channels)
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
    """The same function with dense blocks that grow by 32 channels: those that are added are zero and feed nothing.

    Raises:
        ValueError: the blocks grow by more than 32 channels.
    """
    dense = [(match, tensor) for name, tensor in state.items() if (match := _DENSE.search(name))]
    shapes = {tensor.shape[:2] for match, tensor in dense if match["layer"] == "1" and match["part"] == "weight"}
    if len(shapes) != 1:
        return dict(state)  # no RRDBNet; what it is, the loader says
    ((growth, features),) = shapes
    if growth > GROWTH:
        raise ValueError(f"its dense blocks grow by {growth} channels, and at most {GROWTH} can be built")
    return {name: _widened(name, tensor, growth, features) for name, tensor in state.items()}


def _widened(name: str, tensor: Tensor, growth: int, features: int) -> Tensor:
    match = _DENSE.search(name)
    more = GROWTH - growth
    if match is None or more == 0:
        return tensor
    layer = int(match["layer"])
    if match["part"] == "weight" and layer > 1:
        # what enters layer n is the block's input and the growth of the n - 1 layers before it
        own, grown = tensor[:, :features], tensor[:, features:].unflatten(1, (layer - 1, growth))
        tensor = torch.cat([own, F.pad(grown, (0, 0, 0, 0, 0, more)).flatten(1, 2)], dim=1)
    if layer < 5:
        tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, more))
    return tensor


FILE = "upscaled.png"
TILE_PAD = 10  # pixels of the picture around a tile that the network sees too


@dataclass
class Models:
    """What the worker keeps warm: the network that ran last.

    Attributes:
        location: the profile's weights file, or the folder that holds it.
        device: where it computes.
    """

    location: Path
    device: str
    _read: tuple[tuple[Path, int, int], Network] | None = field(default=None, repr=False)

    def network(self, weights: str | None = None) -> Network:
        """The network of the file `weights`, or the profile's; read anew only if it is another file than last time.

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
        network.module.to(network.device)
        return network

    def offload_to_host(self) -> None:
        """Leave the GPU to another stage; the network goes to main memory."""
        if self._read is not None:
            self._read[1].module.to("cpu")

    def host_bytes(self) -> int:
        """Main memory that the network takes while it waits, in bytes."""
        return sum(parameter.nbytes for parameter in self._read[1].module.parameters()) if self._read else 0

    def _own_file(self) -> Path:
        if self.location.is_file():
            return self.location
        if not self.location.is_dir():
            raise missing_weights(Upscale.stage, self.location, ", or name a file of your own as weights")
        inside = [entry for entry in entries(self.location) if entry.path.suffix.lower() in WEIGHTS_SUFFIXES]
        files = [entry.path for entry in inside if entry.is_file()]
        if len(files) != 1:
            found = ", ".join(path.name for path in files) or "none"
            raise WeightsError(
                f"{self.location} has to hold one file ending in {' or '.join(WEIGHTS_SUFFIXES)}, and holds {found}. "
                "Leave the one that is meant."
            )
        return files[0]


@dataclass(frozen=True)
class Tile:
    """A part of the picture, in its pixels: rows and columns of the part itself, and with the overlap around it."""

    rows: slice
    columns: slice
    seen_rows: slice
    seen_columns: slice


def load(profile: Profile, device: str) -> Models:
    """Where the network of a profile lies. Nothing is read yet, because a request may bring weights of its own."""
    return Models(profile.weights(Upscale.stage, read_settings().weights_dir), device)


def run(request: Upscale, models: Models, context: StageContext) -> list[Artifact]:
    """Enlarge the picture; transparency is laid over white.

    Raises:
        MediaError: it cannot be read, or the result would be larger than the settings allow.
        WeightsError: the weights are missing, damaged, or not an x2 RRDBNet.
        LabError: the network fails on it.
        Cancelled: the user has asked for the run to end.
    """
    picture = media.read_picture(request.image)
    _hold_size(picture, request.image)
    network = models.network(request.weights)
    context.check()
    made = enlarge(picture, network, request.tile, context)
    known = {"Software": "WanAvatar Lab", "Stage": request.stage, "Weights": f"{network.file} sha256:{network.sha256}"}
    media.write_picture(context.folder / FILE, made, metadata=known)
    context.record(weights={network.file: network.sha256}, width=made.width, height=made.height)
    return [Artifact(kind=Upscale.artifact, path=FILE, role="upscaled")]


@torch.inference_mode()
def enlarge(picture: Image.Image, network: Network, tile: int, context: StageContext) -> Image.Image:
    """The RGB picture at twice its width and height.

    Args:
        picture: RGB.
        network: from `Models.network`.
        tile: side of a tile in pixels of the picture, 0 for the whole; an odd one counts as the next even one.
        context: hears of every tile, and may end it between two.

    Raises:
        LabError: there is not enough memory for a tile, or the network gives values that are no numbers.
        Cancelled: the user has asked for the run to end.
    """
    pixels = _even(np.asarray(picture))
    height, width = pixels.shape[:2]
    made = np.empty((height * SCALE, width * SCALE, 3), np.uint8)
    parts = list(tiles(height, width, tile))
    context.progress("upscale", 0, len(parts))
    for number, part in enumerate(parts, start=1):
        try:
            made[_scaled(part.rows), _scaled(part.columns)] = _enlarged(pixels, part, network)
        except Exception as error:
            if is_out_of_memory(error):
                whole = f"{width}×{height} pixels at once" if tile == 0 else f"tiles of {tile} pixels"
                raise LabError(
                    f"There is not enough memory for {whole}. Choose a smaller tile, such as 256."
                ) from error
            raise
        context.progress("upscale", number, len(parts))
        context.check()
    return Image.fromarray(made[: picture.height * SCALE, : picture.width * SCALE])


def tiles(height: int, width: int, tile: int) -> Iterator[Tile]:
    """The tiles of a picture, row by row; every pixel lies in one of them."""
    # the network sees pixels in pairs: a tile that began at an odd one would pair them otherwise
    side = tile + tile % 2 or max(height, width)
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = slice(top, min(top + side, height)), slice(left, min(left + side, width))
            yield Tile(rows, columns, _around(rows, height), _around(columns, width))


def _around(part: slice, end: int) -> slice:
    return slice(max(part.start - TILE_PAD, 0), min(part.stop + TILE_PAD, end))


def _scaled(part: slice, origin: int = 0) -> slice:
    return slice((part.start - origin) * SCALE, (part.stop - origin) * SCALE)


def _even(pixels: np.ndarray) -> np.ndarray:
    """The picture with even sides: mirrored at its last row and column where they are odd."""
    for axis in (0, 1):
        if pixels.shape[axis] % 2:
            widths = [(0, 0)] * 3
            widths[axis] = (0, 1)
            pixels = np.pad(pixels, widths, mode="reflect" if pixels.shape[axis] > 1 else "edge")
    return pixels


def _enlarged(pixels: np.ndarray, part: Tile, network: Network) -> np.ndarray:
    """A tile of levels uint8 [H, W, 3], at twice its size and without the overlap."""
    seen = pixels[part.seen_rows, part.seen_columns]
    given = torch.from_numpy(seen.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    given = given.to(network.device, network.dtype, memory_format=torch.channels_last)
    made = network.module(given)[0].float()
    if not bool(made.isfinite().all()):
        raise LabError(
            f"The network of {network.file} gave values that are no numbers. The file may be damaged: download it "
            "again, or set WANAVATAR_DEVICE=cpu to compute in float32."
        )
    made = made[:, _scaled(part.rows, part.seen_rows.start), _scaled(part.columns, part.seen_columns.start)]
    return (made.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _hold_size(picture: Image.Image, path: str) -> None:
    limit = read_settings().max_picture_pixels
    made = SCALE * SCALE * picture.width * picture.height
    if made > limit:
        raise MediaError(
            f"{path} has {picture.width}×{picture.height} pixels, so that the result would have {made:,}; the limit is "
            f"{limit:,}. Scale it down, or raise WANAVATAR_MAX_PICTURE_PIXELS."
        )

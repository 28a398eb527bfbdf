"""The network behind `upscale`: an x2 RRDBNet from the file that holds its weights, read and built by spandrel.

RRDBNet is the network of ESRGAN (Wang et al. 2018, arXiv:1809.00219); Real-ESRGAN's x2 form (arXiv:2107.10833) looks
at the picture through a pixel-unshuffle, so its sides have to be even.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from spandrel import ModelLoader, UnsupportedModelError
from torch import Tensor, nn

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.requests.upscale import WEIGHTS_SUFFIXES

SCALE = 2
# spandrel builds every dense block for the published width
GROWTH = 32

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
            ESRGAN's older one, with at most 32 growth channels.
        device: cpu, cuda or cuda:<n>.

    Raises:
        WeightsError: it is missing, damaged, or not an x2 RRDBNet for RGB pictures.
    """
    if path.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise WeightsError(f"{path} does not end in {' or '.join(WEIGHTS_SUFFIXES)}. {_ADVICE}")
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        loader = ModelLoader(device="cpu")
        found = loader.load_from_state_dict(_at_full_growth(loader.load_state_dict_from_file(path)))
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise WeightsError(f"The weights file {path} does not exist. {_ADVICE}") from error
    except UnsupportedModelError as error:
        raise WeightsError(f"{path} holds no RRDBNet. {_ADVICE}") from error
    except Exception as error:
        # pickle, zip, safetensors and torch each have their own words for a damaged file, and their own classes
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

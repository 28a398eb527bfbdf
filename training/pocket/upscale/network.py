"""The x2 RRDBNet, of the class that the stage uses, saved under the key names that Real-ESRGAN published."""

import re
from collections.abc import Mapping

import torch
from spandrel.architectures.ESRGAN import ESRGAN
from torch import Tensor, nn

FEATURES, BLOCKS = 24, 2
SEEN = 12  # input channels after pixel-unshuffle: RGB of 2x2 pixels

_BLOCK = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(weight|bias)")
_PLAIN = {"0": "conv_first", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}


def build(seed: int = 0, features: int = FEATURES, blocks: int = BLOCKS) -> nn.Module:
    """The network at initialisation: [B, 3, H, W] in 0..1, H and W even, to [B, 3, 2H, 2W].

    It starts near a blurred enlargement: the first features pass the pixels through, and the last layer averages four.
    With random weights, a short training spends much of its time on reproducing the input.
    """
    torch.manual_seed(seed)
    network: nn.Module = ESRGAN(
        in_nc=SEEN, out_nc=3, num_filters=features, num_blocks=blocks, scale=4, shuffle_factor=2
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            # as in ESRGAN (Wang et al. 2018): dense blocks start close to the identity
            nn.init.kaiming_normal_(parameter, a=0.2).mul_(0.1 if _BLOCK.fullmatch(name) else 0.3)
            kind = _published_name(name).partition(".")[0]
            if kind in ("conv_first", "conv_up1", "conv_up2", "conv_hr"):
                through = min(SEEN, features)
                parameter[:through] = 0
                parameter[range(through), range(through), 1, 1] = 1
            elif kind == "conv_last":
                parameter.zero_()
                for channel in range(min(SEEN, features)):
                    parameter[channel // 4, channel, 1, 1] = 0.25
    return network


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a network from `build` to the published key names.

    Raises:
        KeyError: a tensor has no published name.
    """
    return {_published_name(name): tensor for name, tensor in state.items()}


def _published_name(name: str) -> str:
    if block := _BLOCK.fullmatch(name):
        return "body.{}.rdb{}.conv{}.{}".format(*block.groups())
    layer, _, part = name.rpartition(".")
    if re.fullmatch(r"model\.1\.sub\.\d+", layer):
        return f"conv_body.{part}"
    return f"{_PLAIN[layer.removeprefix('model.')]}.{part}"

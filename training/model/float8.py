"""Frozen weights of the blocks as float8: half the memory of bfloat16.

Each output channel has a scale that brings its largest weight near the top of float8's range (e4m3: 448). Scales are
powers of two, so converting a weight back to bfloat16 rounds nothing. The only error is that of storing it, at most
1/16 of the weight (e4m3 has three bits of mantissa).
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FLOAT8).max


class Float8Linear(nn.Linear):
    """A frozen linear layer whose weight is stored as float8 and converted to its input's dtype where it is used.

    Attributes:
        weight: the bits of float8 numbers [outputs, inputs], as uint8, which code that converts floating-point weights
            or sends them between processes leaves alone.
        scale: powers of two [outputs, 1], float32.
    """

    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Copy `layer`, whose own weight stays as it is."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        largest = weight.abs().amax(dim=1, keepdim=True).float().clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("scale", torch.exp2(torch.ceil(torch.log2(largest / _LARGEST))))
        stored = (weight.float() / self.scale).to(FLOAT8).view(torch.uint8)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.linear(x, self.restored(x.dtype), self.bias)

    def restored(self, dtype: torch.dtype) -> Tensor:
        """The weight [outputs, inputs] in `dtype`."""
        return self.weight.view(FLOAT8).to(dtype) * self.scale.to(dtype)


def store_in_float8(blocks: Iterable[nn.Module]) -> int:
    """Store every frozen linear layer of the blocks as float8, on their device, but not the LoRA's.

    Call it after the LoRA was added, since PEFT gives its matrices the dtype of the layer's weight.

    Returns:
        The number of layers.
    """
    found = 0
    modules = [found for block in blocks for found in block.named_modules()]
    for name, owner in modules:
        if isinstance(owner, BaseTunerLayer) and owner.merged:
            continue
        for leaf, layer in list(owner.named_children()):
            if type(layer) is nn.Linear and not layer.weight.requires_grad and not f".{name}.".count(".lora_"):
                setattr(owner, leaf, Float8Linear(layer))
                found += 1
    return found

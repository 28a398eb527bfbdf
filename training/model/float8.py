"""The frozen weights of the blocks in eight bits: half the memory of bfloat16, for networks that only a LoRA changes.

Each output channel has a scale, so that its largest weight lies near the top of float8's range (e4m3: 448). Scales are
powers of two: taking a weight back into bfloat16 then rounds nothing, and the one rounding is that of storing it, half
of an eighth of the weight at most.
"""

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FLOAT8).max


class Float8Linear(nn.Linear):
    """A frozen linear layer whose weight is stored as float8 and taken into its input's type when it is used.

    Attributes:
        weight: the bits of float8 numbers [outputs, inputs], as uint8: what converts a network's floating-point
            weights, or sends them between processes, leaves these as they are.
        scale: powers of two [outputs, 1], float32.
    """

    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Store the weight of `layer`, which is not changed."""
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


def store_in_float8(network: nn.Module, room: str = "blocks.") -> int:
    """Store every frozen linear layer below `room` as float8; a LoRA beside one stays as it is.

    Call it after the LoRA is in: PEFT gives its matrices the type of the layer's weight.

    Returns:
        How many layers there were.
    """
    found = 0
    for name, owner in list(network.named_modules()):
        if not f"{name}.".startswith(room) or (isinstance(owner, BaseTunerLayer) and owner.merged):
            continue
        for leaf, layer in list(owner.named_children()):
            if type(layer) is nn.Linear and not layer.weight.requires_grad and not f".{name}.".count(".lora_"):
                setattr(owner, leaf, Float8Linear(layer))
                found += 1
    return found

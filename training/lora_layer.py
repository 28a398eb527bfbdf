"""A linear layer with the LoRA that is trained, without the copies that PEFT's own makes on the way.

PEFT's layer converts its input, 35,000 tokens wide, into the LoRA's float32, and adds the update in passes of its own.
Here the matrices, which are small, are converted into the input's type, and the second product adds to what is there.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor

NAME = "trained"  # of the adapter


class TrainedLinear(lora.Linear):
    """PEFT's `lora.Linear`, to which it falls back for everything but one active, unmerged adapter called `NAME`."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        if self.disable_adapters or self.merged or self.active_adapters != [NAME]:
            return super().forward(x, *args, **kwargs)
        plain: Tensor = self.base_layer(x, *args, **kwargs)
        down = self.lora_A[NAME].weight.to(plain.dtype)
        up = self.lora_B[NAME].weight.to(plain.dtype)
        inner = F.linear(x.to(plain.dtype), down).flatten(0, -2)
        return torch.addmm(plain.flatten(0, -2), inner, up.t(), alpha=self.scaling[NAME]).view_as(plain)

"""A linear layer with adapters that costs little more than the layer alone.

PEFT's layer writes each adapter's update, scales it, and adds it, in passes of their own over as much memory as all
tokens take. Here the update comes first, and the layer's own product is added to it by the product itself, which is
busy with arithmetic meanwhile. The sum is also rounded once less.
"""

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn


class AdaptedLinear(lora.Linear):
    """PEFT's `lora.Linear`, which it also is to PEFT; made of one by `adapt`."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        keys = [key for key in self.active_adapters if key in self.lora_A]
        if args or kwargs or not keys or not self._can_add(x, keys):
            return super().forward(x, *args, **kwargs)
        base, rows = self.base_layer, x.flatten(0, -2)
        total: Tensor | None = None
        for key in keys:
            # the rank is small, and so is what is scaled
            inner, up = self.lora_A[key](rows) * self.scaling[key], self.lora_B[key].weight.t()
            if total is not None:
                total.addmm_(inner, up)
            else:
                total = inner @ up if base.bias is None else torch.addmm(base.bias, inner, up)
        assert total is not None
        return total.addmm_(rows, base.weight.t()).unflatten(0, x.shape[:-1])

    def _can_add(self, x: Tensor, keys: list[str]) -> bool:
        """Whether the layer below is nothing but a matrix that lies here, and the adapters nothing but two."""
        base = self.base_layer
        if self.disable_adapters or self.merged or x.ndim < 2:
            return False
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return False
        if any(key in self.lora_variant or self.lora_bias[key] for key in keys):
            return False
        if type(base) is not nn.Linear or _is_hooked(base):
            return False
        weights = [base.weight, *(self.lora_A[key].weight for key in keys), *(self.lora_B[key].weight for key in keys)]
        return all(weight.dtype == x.dtype and weight.device == x.device for weight in weights)


def adapt(layer: nn.Module) -> None:
    """Let a layer of PEFT compute as `AdaptedLinear`; others stay as they are."""
    if type(layer) is lora.Linear:
        layer.__class__ = AdaptedLinear


def _is_hooked(layer: nn.Module) -> bool:
    # what moves weights to and fro, or widens them, acts when the layer is called
    return (
        hasattr(layer, "_diffusers_hook")
        or hasattr(layer, "_hf_hook")
        or bool(layer._forward_pre_hooks or layer._forward_hooks)
    )

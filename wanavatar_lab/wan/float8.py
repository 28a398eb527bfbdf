"""Matrix products of a Wan network in float8 (e4m3): half the memory of weights, up to twice the rate, and an error.

Each row is divided by a scale of its own, which takes its largest number to the largest of float8, and rounded: of the
weights, where a row is an output channel, once, and of the activations, where it is a token, at every call.
`torch._scaled_mm` multiplies both on NVIDIA GPUs from compute capability 8.9 on, with sums in float32. On other devices
the rounded factors are multiplied in the dtype of the input: the same error, and no gain in time.

In float8 are those layers of each block that all tokens pass: queries, keys, values and output of self-attention,
queries and output of the attention to the text, and the feed-forward; of a network that `torch._scaled_mm` computes, if
they have at least `LEAST_WIDTH` channels. All else is exact: keys and values of the text, which are 512 rows that take
no time and are in the sums of every token; the injection of the audio, from which the lips come, and which is a
twentieth of all products; and what is outside the blocks (patches, text, time, audio, and the projection to latents).
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
LEAST_WIDTH = 1024  # computed from the rates of an H200: below it, rounding the rows takes what the product saves
_FIRST = (8, 9)  # compute capability
_ALIGNMENT = 16  # `torch._scaled_mm` takes inputs and outputs in multiples of it
_LEAST_ROWS = 16  # cuBLAS has no product of one row of 13,824 numbers
_LEAST = 1e-12  # a row of zeros has a scale too
_PART = 8192  # rows that are rounded at a time


class Float8Linear(nn.Linear):
    """A linear layer with products in float8; `quantize` makes one of an `nn.Linear`, in place.

    Attributes:
        weight: in float8 [outputs, inputs].
        weight_scale: [1, outputs] in float32.
        exact: the weight as it was, wherever that was.
        fast: whether `torch._scaled_mm` multiplies.
    """

    weight_scale: Tensor
    exact: nn.Parameter
    fast: bool

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], in the dtype of `x`."""
        rows, scale = rounded(x.flatten(0, -2))
        if self.fast and len(rows) >= _LEAST_ROWS:
            made = torch._scaled_mm(
                rows,
                self.weight.t(),  # has to be stored by columns, and is
                scale_a=scale,
                scale_b=self.weight_scale,
                bias=self.bias,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        else:
            rows = rows.to(x.dtype).mul_(scale)
            made = F.linear(rows, self.weight.to(x.dtype).mul_(self.weight_scale.t()), self.bias)
        return made.unflatten(0, x.shape[:-1])

    @torch.no_grad()
    def round_weight(self) -> None:
        """Round `exact` again, after it was written to."""
        weight, scale = rounded(self.exact.to(self.weight.device))
        self.weight.copy_(weight)
        self.weight_scale.copy_(scale.t())


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [M, K] in float8, and the scales [M, 1] in float32 that they are to be multiplied by."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=_LEAST) / LARGEST
    if torch.compiler.is_compiling():  # one kernel, with what comes before it
        return (rows / scale).to(FLOAT8, memory_format=torch.contiguous_format), scale
    made = torch.empty(rows.shape, dtype=FLOAT8, device=rows.device)
    # the quotients of all rows, in float32, would be the largest tensor of a pass
    for part, some, its_scale in zip(made.split(_PART), rows.split(_PART), scale.split(_PART), strict=True):
        part.copy_(some / its_scale)
    return made, scale


def multiplies(device: torch.device | str) -> bool:
    """Whether a device has products in float8 of its own: an NVIDIA GPU from compute capability 8.9 on."""
    device = torch.device(device)
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= _FIRST


@torch.no_grad()
def quantize(network: nn.Module, device: torch.device | str) -> None:
    """Let the large layers of a network compute in float8, until `restore`.

    Args:
        network: of image to video or of speech to video, without weights of LoRAs that are merged or added to its own.
        device: where it will compute. The rounded weights are made there; the exact ones stay where they are.
    """
    fast = multiplies(device)
    for layer in _large(network):
        weight = layer.weight
        takes = weight.dtype == torch.bfloat16 and not any(size % _ALIGNMENT for size in weight.shape)
        if type(layer) is not nn.Linear or (fast and takes and min(weight.shape) < LEAST_WIDTH):
            continue
        stored, scale = rounded(weight.to(device))
        made = cast(Float8Linear, layer)
        made.__class__ = Float8Linear
        made.fast = fast and takes
        vars(made)["exact"] = weight  # not as a parameter, which would follow the network to its device
        made.weight = nn.Parameter(stored, requires_grad=False)
        made.register_buffer("weight_scale", scale.t().contiguous(), persistent=False)


def restore(network: nn.Module) -> None:
    """Let all layers compute with their exact weights again, which are where they were."""
    for layer in quantized(network).values():
        layer.weight = layer.exact
        del layer.exact, layer.fast, layer.weight_scale
        plain: nn.Linear = layer
        plain.__class__ = nn.Linear


def quantized(network: nn.Module) -> dict[str, Float8Linear]:
    """The layers in float8, by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Float8Linear)}


def _large(network: Any) -> Iterator[nn.Linear]:
    for block in network.blocks:
        own, text, feed_forward = block.attn1, block.attn2, block.ffn.net
        layers = (own.to_q, own.to_k, own.to_v, own.to_out[0], text.to_q, text.to_out[0])
        for layer in (*layers, feed_forward[0].proj, feed_forward[2]):
            yield getattr(layer, "base_layer", layer)  # below a LoRA

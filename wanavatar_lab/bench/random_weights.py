"""Networks whose weights are random numbers, made in main memory as fast as it can be written."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import ModelMixin
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

# Of so many numbers, drawn once and repeated: to draw 16 billion would take minutes. A prime, so that rows of a matrix
# do not repeat.
_DRAWN = 16_777_259


def random_network(build: Callable[[], Network], dtype: torch.dtype) -> Network:
    """A network in main memory, in evaluation mode, its weights frozen and none of them zero.

    Args:
        build: makes it; its parameters are not filled meanwhile, its buffers are.
        dtype: of its weights, but for those that its class keeps in float32.
    """
    with init_empty_weights():
        network = build()
    if hasattr(network, "tie_weights"):
        network.tie_weights()  # type: ignore[operator]
    # transformers goes by this attribute only where float16 is asked for
    kept = set(network._keep_in_fp32_modules or ()) if isinstance(network, ModelMixin) else set()
    drawn: dict[int, nn.Parameter] = {}
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        if id(parameter) not in drawn:
            exact = torch.float32 if kept & set(name.split(".")) else dtype
            drawn[id(parameter)] = nn.Parameter(random_tensor(tuple(parameter.shape), exact), requires_grad=False)
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, drawn[id(parameter)])
    for module in network.modules():
        # normalised by what it has seen, and not computed like the positions that must stay exact
        if isinstance(module, nn.BatchNorm2d):
            module.to(dtype)
    return network.eval()


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Numbers of mean 0 whose products with a vector stay as large as it: their spread is 1 / √(numbers in a row)."""
    values = torch.empty(shape, dtype=dtype)
    row = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    flat, scale = values.view(-1), max(1, row) ** -0.5
    block = _block(dtype)
    for start in range(0, flat.numel(), block.numel()):
        part = flat[start : start + block.numel()]
        torch.mul(block[: part.numel()], scale, out=part)
    return values


@cache
def _block(dtype: torch.dtype) -> torch.Tensor:
    values: Any = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(0))
    return values.to(dtype)

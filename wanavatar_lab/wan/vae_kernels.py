"""Kernels of Wan's VAE for a GPU, which take in the biases of convolutions: cuDNN adds those in a pass of its own."""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

_ROWS = 16  # places of a program
_EPSILON = 1e-12  # of `F.normalize`


def norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None = None) -> Tensor:
    """SiLU of `WanRMS_norm`, computed in float32.

    Args:
        x: [B, C, F, H, W].
        gamma: [C, 1, 1, 1], on the same device.
        bias: [C], added to `x` before; likewise.

    Returns:
        [B, C, F, H, W] with channels innermost in memory, in the dtype of `x`.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    made = torch.empty_like(x)
    grid, sizes = _programs(x)
    with torch.cuda.device_of(x):  # no matter which one is current
        _norm_silu[grid](x, gamma, bias, made, x.shape[1] ** 0.5, _EPSILON, *sizes)
    return made


def add(x: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """The sum of two pictures and a bias, computed in float32.

    Args:
        x, other: [B, C, F, H, W].
        bias: [C], on the same device.

    Returns:
        As `norm_silu`.
    """
    x, other = (each.contiguous(memory_format=torch.channels_last_3d) for each in (x, other))
    made = torch.empty_like(x)
    grid, sizes = _programs(x)
    with torch.cuda.device_of(x):
        _add[grid](x, other, bias, made, *sizes)
    return made


def _programs(x: Tensor) -> tuple[tuple[int], tuple[int, ...]]:
    channels = x.shape[1]
    places = x.numel() // channels
    return (triton.cdiv(places, _ROWS),), (places, channels, _ROWS, triton.next_power_of_2(channels))


@triton.jit
def _norm_silu(x, gamma, bias, made, scale, epsilon, places, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.arange(0, COLUMNS)
    where, inside = _places(places, channels, ROWS, COLUMNS)
    values = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        values += tl.load(bias + columns, mask=columns < channels, other=0.0).to(tl.float32)[None, :]
    length = tl.sqrt(tl.sum(values * values, axis=1))
    weights = tl.load(gamma + columns, mask=columns < channels, other=0.0).to(tl.float32)
    normed = values * (scale / tl.maximum(length, epsilon))[:, None] * weights[None, :]
    tl.store(made + where, (normed * tl.sigmoid(normed)).to(made.dtype.element_ty), mask=inside)


@triton.jit
def _add(x, other, bias, made, places, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.arange(0, COLUMNS)
    where, inside = _places(places, channels, ROWS, COLUMNS)
    values = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(other + where, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(bias + columns, mask=columns < channels, other=0.0).to(tl.float32)[None, :]
    tl.store(made + where, values.to(made.dtype.element_ty), mask=inside)


@triton.jit
def _places(places, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where in memory the values [ROWS, COLUMNS] of a program are, and which of them exist."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    return rows[:, None] * channels + columns[None, :], (rows[:, None] < places) & (columns[None, :] < channels)

"""Kernels of Wan's VAE for a GPU."""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

_ROWS = 16  # places of a program
_EPSILON = 1e-12  # of `F.normalize`


def norm_silu(x: Tensor, gamma: Tensor) -> Tensor:
    """SiLU of `WanRMS_norm`, computed in float32.

    Args:
        x: [B, C, F, H, W].
        gamma: [C, 1, 1, 1], on the same device.

    Returns:
        [B, C, F, H, W] with channels innermost in memory, in the dtype of `x`.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    made, channels = torch.empty_like(x), x.shape[1]
    places = x.numel() // channels
    with torch.cuda.device_of(x):  # no matter which one is current
        _norm_silu[(triton.cdiv(places, _ROWS),)](
            x, gamma, made, places, channels, channels**0.5, _EPSILON, _ROWS, triton.next_power_of_2(channels)
        )
    return made


@triton.jit
def _norm_silu(x, gamma, made, places, channels, scale, epsilon, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    where = rows[:, None] * channels + columns[None, :]
    inside = (rows[:, None] < places) & (columns[None, :] < channels)
    values = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(values * values, axis=1))
    weights = tl.load(gamma + columns, mask=columns < channels, other=0.0).to(tl.float32)
    normed = values * (scale / tl.maximum(length, epsilon))[:, None] * weights[None, :]
    tl.store(made + where, (normed * tl.sigmoid(normed)).to(made.dtype.element_ty), mask=inside)

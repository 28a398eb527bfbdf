"""Where each token of the S2V sequence stands: in the sequence, in time and in the picture.

The sequence is [video | reference | motion]. Video tokens are frame-major. The reference picture stands at time 30.
Motion latents are packed by age (FramePack, https://huggingface.co/papers/2504.12626): the newest latent keeps the
video's token grid, the two before it are merged 2x4x4, the sixteen before those 4x8x8; their times are negative.
Follows `rope_precompute` and `FramePackMotioner` of Wan2.2 (commit 42bf4cf), in closed form.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

REFERENCE_TIME = 30
MOTION_BUCKETS = (1, 2, 16)  # latents, newest first


@dataclass(frozen=True)
class TokenLayout:
    """The part of the sequence that this process holds.

    Plain integers, so that a block compiles without looking at data.

    Args:
        video_tokens: how many of the local tokens belong to the video; they come first.
        tokens_per_frame: video tokens of one latent frame.
        first_frame: latent frame of the first local token.
        lead: how many tokens of `first_frame` lie before the first local one (0 unless the sequence is sharded).
        frames: latent frames that the local video tokens touch.
    """

    video_tokens: int
    tokens_per_frame: int
    first_frame: int
    lead: int
    frames: int

    @classmethod
    def shard(
        cls, total: int, video_tokens: int, tokens_per_frame: int, rank: int = 0, world: int = 1
    ) -> "TokenLayout":
        """The layout of shard `rank` of `world` when `total` tokens are cut as `torch.tensor_split` cuts them."""
        size, longer = divmod(total, world)
        start = rank * size + min(rank, longer)
        stop = start + size + (rank < longer)
        local = max(0, min(stop, video_tokens) - start)
        first, lead = divmod(start, tokens_per_frame)
        frames = -(-(lead + local) // tokens_per_frame) if local else 0
        return cls(local, tokens_per_frame, first if local else 0, lead if local else 0, frames)


def _spread(stop: int, count: int, start: int = 0) -> np.ndarray:
    # the reference truncates to whole positions: a coarser grid still spans the finer one's range
    return np.linspace(start, stop, count).astype(np.int64)


def _grid(times: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    axes = np.meshgrid(times, rows, columns, indexing="ij")
    return np.stack([axis.reshape(-1) for axis in axes], axis=-1)


def token_positions(frames: int, height: int, width: int, motion: bool) -> np.ndarray:
    """Positions of all tokens, [L, 3] as (time, row, column).

    Args:
        frames: latent frames of the video.
        height, width: the patch grid (latent size / 2).
        motion: whether motion tokens follow the reference tokens.
    """
    rows, columns = np.arange(height), np.arange(width)
    parts = [
        _grid(np.arange(frames), rows, columns),
        _grid(np.array([REFERENCE_TIME]), rows, columns),
    ]
    if motion:
        newest, middle, _ = MOTION_BUCKETS
        oldest_time = sum(MOTION_BUCKETS)
        merged = [
            (np.array([-newest]), height, width),
            (np.array([-(newest + middle)]), height // 2, width // 2),
            (-_spread(newest + middle + 1, MOTION_BUCKETS[2] // 4, start=oldest_time), height // 4, width // 4),
        ]
        parts += [_grid(times, _spread(height - 1, h), _spread(width - 1, w)) for times, h, w in merged]
    return np.concatenate(parts)


class WanS2VRotaryPosEmbed(nn.Module):
    """Rotary tables for the whole sequence; no weights. A module of its own so that context parallel can shard it.

    Args:
        attention_head_dim: channels of a head; rows and columns take 2·(d // 6) each, time takes the rest.
        theta: base of the frequencies.
    """

    def __init__(self, attention_head_dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        side = 2 * (attention_head_dim // 6)
        self.axis_dims = (attention_head_dim - 2 * side, side, side)
        self.theta = theta

    def forward(
        self, frames: int, height: int, width: int, motion: bool, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, each [1, L, 1, attention_head_dim / 2] in float32."""
        return _rotary_tables(self.axis_dims, self.theta, (frames, height, width), motion, device)


# training asks for the same ones in every step, and a copy to the GPU makes the processor wait for it
@lru_cache(maxsize=2)
def _rotary_tables(
    axis_dims: tuple[int, int, int], theta: float, grid: tuple[int, int, int], motion: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    positions = token_positions(*grid, motion)
    # float64 here only: on the CPU, so that large positions keep their phase
    angles = np.concatenate(
        [
            positions[:, axis : axis + 1] * theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
            for axis, dim in enumerate(axis_dims)
        ],
        axis=1,
    )
    # kept tables may serve training after inference, which an inference tensor could not
    with torch.inference_mode(False):
        table = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)).to(device)
        return table[0][None, :, None], table[1][None, :, None]

"""The S2V sequence: which tokens it has, where each is in time and in the picture, and which of them a process holds.

The sequence is [video | reference | motion]. Video tokens are frame-major. The reference picture is at time 30. Motion
latents are packed by age (FramePack, https://huggingface.co/papers/2504.12626): the newest latent keeps the video's
token grid, the two before it are merged 2x4x4, the sixteen before those 4x8x8; their times are negative. Follows
`rope_precompute` and `FramePackMotioner` of Wan2.2 (commit 42bf4cf), in closed form.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

REFERENCE_TIME = 30
MOTION_BUCKETS = (1, 2, 16)  # latents, newest first
PACKED_SIDE = 64  # pixels of a token of the oldest ones: stride 8 of the VAE times patch size 8; the rest is not packed


class WanS2VFramePacker(nn.Module):
    """Packs motion latents by age: the older, the fewer tokens.

    Args:
        in_channels: latent channels.
        dim: width of the tokens.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.proj_2x = nn.Conv3d(in_channels, dim, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        self.proj_4x = nn.Conv3d(in_channels, dim, kernel_size=(4, 8, 8), stride=(4, 8, 8))

    def forward(self, motion_latents: torch.Tensor) -> torch.Tensor:
        """[B, C, T, h, w], oldest first -> tokens [B, L, dim], newest first; missing old latents count as zeros."""
        total = sum(MOTION_BUCKETS)
        latents = motion_latents[:, :, -total:]
        latents = F.pad(latents, (0, 0, 0, 0, total - latents.shape[2], 0))
        oldest, middle, newest = latents.split(MOTION_BUCKETS[::-1], dim=2)
        packed = (self.proj(newest), self.proj_2x(middle), self.proj_4x(oldest))
        return torch.cat([tokens.flatten(2).transpose(1, 2) for tokens in packed], dim=1)


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
        """Cosines and sines, each [1, L, 1, attention_head_dim / 2] in float32; arguments as in `token_positions`."""
        positions = token_positions(frames, height, width, motion, device)
        angles = []
        for axis, dim in enumerate(self.axis_dims):
            exponents = torch.arange(0, dim, 2, dtype=positions.dtype, device=positions.device) / dim
            angles.append(positions[:, axis : axis + 1] * self.theta**-exponents)
        angle = torch.cat(angles, dim=1)[None, :, None]
        return angle.cos().float().to(device), angle.sin().float().to(device)


def token_positions(frames: int, height: int, width: int, motion: bool, device: torch.device) -> torch.Tensor:
    """Positions of all tokens, [L, 3] as (time, row, column), whole numbers in float64.

    They are computed on the device, since a copy from the host would make every training step wait for it.

    Args:
        frames: latent frames of the video.
        height, width: the patch grid (latent size / 2).
        motion: whether motion tokens follow the reference tokens.
        device: where they are computed; the CPU for mps, which has no float64.
    """
    device = torch.device("cpu") if device.type == "mps" else device

    def whole(start: int, count: int, step: int = 1) -> torch.Tensor:
        return start + step * torch.arange(count, dtype=torch.float64, device=device)

    def spread(stop: int, count: int) -> torch.Tensor:
        # as `np.linspace(0, stop, count).astype(int)` in the reference: a coarser grid spans the range of the finer one
        positions = (whole(0, count) * (stop / max(count - 1, 1))).floor()
        if count > 1:
            positions[-1] = stop  # rounding may leave the last one a hair below
        return positions

    newest, middle, oldest = MOTION_BUCKETS
    grids = [
        (whole(0, frames), whole(0, height), whole(0, width)),
        (whole(REFERENCE_TIME, 1), whole(0, height), whole(0, width)),
    ]
    if motion:
        # (time of the first token, tokens in time, their distance, how many rows and columns are merged into one)
        for time, count, step, merged in (
            (-newest, 1, 1, 1),
            (-newest - middle, 1, 1, 2),
            (-newest - middle - oldest, oldest // 4, 5, 4),
        ):
            rows, columns = spread(height - 1, height // merged), spread(width - 1, width // merged)
            grids.append((whole(time, count, step), rows, columns))
    return torch.cat([torch.cartesian_prod(*grid) for grid in grids])


@dataclass(frozen=True)
class TokenLayout:
    """The part of the sequence that this process holds.

    Plain integers, so that a block compiles without looking at data.

    Args:
        video_tokens: how many of the local tokens belong to the video; they come first.
        tokens_per_frame: video tokens of one latent frame.
        first_frame: latent frame of the first local token.
        lead: tokens of `first_frame` before the first local one (0 unless the sequence is sharded).
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
        if not local:
            return cls(0, tokens_per_frame, 0, 0, 0)
        first, lead = divmod(start, tokens_per_frame)
        return cls(local, tokens_per_frame, first, lead, -(-(lead + local) // tokens_per_frame))

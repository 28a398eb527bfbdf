"""The embedders that S2V has beyond Wan's: causal audio encoder and packed motion latents."""

import torch
import torch.nn.functional as F
from torch import nn

from .layout import MOTION_BUCKETS


class CausalConv1d(nn.Module):
    """1-D convolution that sees only the past; the first sample is repeated before the start."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size=3, stride=stride)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[B, T, C_in] -> [B, ceil(T / stride), C_out]."""
        return self.conv(F.pad(states.transpose(1, 2), (2, 0), mode="replicate")).transpose(1, 2)


class WanS2VCausalAudioEncoder(nn.Module):
    """Weighs the hidden layers of wav2vec2 and turns every four video frames into a handful of tokens.

    Args:
        audio_dim: width of wav2vec2's hidden states.
        dim: width of the tokens.
        num_layers: hidden states per frame (wav2vec2-large: 25, the embedding included).
        num_tokens: audio tokens per latent frame; one learnt padding token is added to them.
        with_global: whether a summary per latent frame is made as well, for AdaIN.
    """

    def __init__(self, audio_dim: int, dim: int, num_layers: int = 25, num_tokens: int = 4, with_global: bool = True):
        super().__init__()
        self.num_tokens = num_tokens
        self.weights = nn.Parameter(torch.full((1, num_layers, 1, 1), 0.01))
        self.conv1_local = CausalConv1d(audio_dim, dim // 4 * num_tokens)
        self.conv1_global = CausalConv1d(audio_dim, dim // 4) if with_global else None
        self.conv2 = CausalConv1d(dim // 4, dim // 2, stride=2)
        self.conv3 = CausalConv1d(dim // 2, dim, stride=2)
        self.final_linear = nn.Linear(dim, dim) if with_global else None
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, audio_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode [B, layers, audio_dim, T].

        Returns:
            tokens [B, ceil(T/4), num_tokens + 1, dim], and the summary [B, ceil(T/4), dim] or None.
        """
        audio_embeds = audio_embeds.to(self.weights.dtype)
        weights = F.silu(self.weights)
        mixed = ((audio_embeds * weights) / weights.sum(dim=1, keepdim=True)).sum(dim=1).transpose(1, 2)

        local = self.conv1_local(mixed).unflatten(2, (self.num_tokens, -1)).transpose(1, 2).flatten(0, 1)
        local = self._downsample(local).unflatten(0, (-1, self.num_tokens)).transpose(1, 2)
        padding = self.padding_tokens.expand(local.shape[0], local.shape[1], 1, -1)
        tokens = torch.cat([local, padding], dim=2)
        if self.conv1_global is None or self.final_linear is None:
            return tokens, None
        return tokens, self.final_linear(self._downsample(self.conv1_global(mixed)))

    def _downsample(self, states: torch.Tensor) -> torch.Tensor:
        for conv in (None, self.conv2, self.conv3):
            if conv is not None:
                states = conv(states)
            states = F.silu(F.layer_norm(states, states.shape[-1:], eps=1e-6))
        return states


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

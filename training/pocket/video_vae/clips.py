"""A bank of drawn clips in device memory, from which training samples its batches."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.pocket.world.attributes import Split, sample_attributes
from training.pocket.world.cells import CELL, feature_cells
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.motion import sample_actions, sample_motion
from training.pocket.world.truth import masks_of
from training.pocket.world.visemes import FPS, NAMES, Sound, mouth_track


def babble(seconds: float, generator: torch.Generator) -> list[Sound]:
    """Random sounds of 60 to 260 ms each, with pauses."""
    sounds: list[Sound] = []
    time = float(torch.rand((), generator=generator)) * 0.3
    while time < seconds:
        length = 0.06 + 0.2 * float(torch.rand((), generator=generator))
        name = NAMES[int(torch.randint(len(NAMES), (), generator=generator))]
        loudness = 0.4 + 0.6 * float(torch.rand((), generator=generator))
        sounds.append(Sound(time, time + length, name, loudness))
        time += length + (0.4 if float(torch.rand((), generator=generator)) < 0.08 else 0.0)
    return sounds


@dataclass
class ClipBank:
    """Clips of talking avatars.

    Attributes:
        pixels: uint8 [N, F, 3, H, W].
        mouths: uint8 [N, F, H/8, W/8], 0..255, the share of the latent cell covered by lips.
        features: bool [N, F, H/8, W/8], whether the latent cell contains an eye, a brow or the lips.
    """

    pixels: Tensor
    mouths: Tensor
    features: Tensor

    @property
    def frames(self) -> int:
        """Frames per clip."""
        return self.pixels.shape[1]

    @classmethod
    def draw(
        cls, count: int, frames: int, size: int, device: torch.device, seed: int, split: Split = "train"
    ) -> "ClipBank":
        """Draw `count` clips of different talking avatars."""
        pixels = torch.empty(count, frames, 3, size, size, dtype=torch.uint8, device=device)
        mouths = torch.empty(count, frames, size // CELL, size // CELL, dtype=torch.uint8, device=device)
        features = torch.empty_like(mouths, dtype=torch.bool)
        chunk = 64
        for start in range(0, count, chunk):
            stop = min(count, start + chunk)
            chunk_seed = seed * 1_000_003 + start
            generator = torch.Generator().manual_seed(chunk_seed)
            attributes = sample_attributes(stop - start, chunk_seed, split)
            actions = [names if i % 2 else () for i, names in enumerate(sample_actions(stop - start, chunk_seed))]
            pose = sample_motion(stop - start, frames, chunk_seed, actions)
            tracks = [mouth_track(babble(frames / FPS, generator), frames).mouth for _ in range(stop - start)]
            pose = pose.speaking(torch.stack(tracks))
            pixels[start:stop] = (render(attributes, pose, (size, size), device) * 255).round().to(torch.uint8)
            sheet = sheet_of(attributes, pose).to(device)
            lips = masks_of(sheet, size, size)[1]
            cells = F.avg_pool2d(lips.float()[:, None], CELL) * 255
            mouths[start:stop] = cells.to(torch.uint8).view(mouths[start:stop].shape)
            features[start:stop] = feature_cells(sheet, size).view(mouths[start:stop].shape)
        return cls(pixels, mouths, features)

    def batch(self, count: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample `count` cuts of `frames` frames: pixels [B, 3, F, H, W] in [-1, 1], and masks 0..1 of the mouth and of
        the features, [B, 1, F, H, W] each."""
        rows = torch.randint(len(self.pixels), (count,), generator=generator)
        starts = torch.randint(self.frames - frames + 1, (count,), generator=generator)
        index = (starts[:, None] + torch.arange(frames)).to(self.pixels.device)
        rows = rows.to(self.pixels.device)[:, None]
        pixels = self.pixels[rows, index].transpose(1, 2).float() / 127.5 - 1
        return pixels, _spread(self.mouths[rows, index] / 255), _spread(self.features[rows, index])


def _spread(cells: Tensor) -> Tensor:
    """Upsample cells [B, F, h, w] to pixels, float [B, 1, F, H, W]."""
    return cells[:, None].float().repeat_interleave(CELL, dim=3).repeat_interleave(CELL, dim=4)

"""Inference of the judge: tracks, landmarks and regions of frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.pocket.judge.network import POINTS, REGION_SIZE, REGIONS, SIZE, TRACKS, Judge

WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / "pocket" / "judge" / "mouth.safetensors"
_CHUNK = 64


@dataclass(frozen=True)
class Reading:
    """The judge's output for F frames.

    Attributes:
        tracks: by the names of `network.TRACKS`, each [F], in the units of `world.pose` (see `pictures.tracks_of`).
        points: by the names of `network.POINTS`, pixels (x, y) of the frames, each [F, 2].
        regions: by the names of `network.REGIONS`, soft masks 0..1, each [F, REGION_SIZE, REGION_SIZE].
    """

    tracks: Mapping[str, NDArray[np.float64]]
    points: Mapping[str, NDArray[np.float64]]
    regions: Mapping[str, NDArray[np.float64]]


class Reader:
    """Applies the judge to single frames: each result depends on its frame alone.

    It is a `wanavatar_lab.metrics.RegionSource`.
    """

    def __init__(self, judge: Judge) -> None:
        """Use a trained network, on its current device."""
        self.judge = judge

    @classmethod
    def load(cls, path: Path = WEIGHTS, device: torch.device | str = "cpu") -> "Reader":
        """Load the weights at `path`.

        Raises:
            WeightsError: they are missing or are not the judge's.
        """
        return cls(Judge.load(path).to(device))

    @torch.no_grad()
    def read(self, frames: NDArray[np.uint8]) -> Reading:
        """Read all tracks, points and regions of frames uint8 [F, H, W, 3].

        Raises:
            ValueError: the frames are not square, or their side is not a multiple of `network.REGION_SIZE`.
        """
        height, width = frames.shape[1:3]
        if height != width or width % REGION_SIZE:
            raise ValueError(f"Frames must be squares of a multiple of {REGION_SIZE} pixels (got {height} x {width}).")
        device = next(self.judge.parameters()).device
        found: list[tuple[torch.Tensor, ...]] = []
        for start in range(0, len(frames), _CHUNK):
            part = torch.from_numpy(np.ascontiguousarray(frames[start : start + _CHUNK])).to(device)
            pixels = part.permute(0, 3, 1, 2).float() / 127.5 - 1
            if width != SIZE:
                pixels = F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
            tracks, points, logits = self.judge(pixels)
            found.append((tracks.cpu(), points.cpu(), logits.softmax(dim=1).cpu()))
        tracks, points, regions = (torch.cat(parts).double().numpy() for parts in zip(*found, strict=True))
        return Reading(
            {name: tracks[:, i] for i, name in enumerate(TRACKS)},
            {name: (points[:, i] + 1) * (width / 2) for i, name in enumerate(POINTS)},
            {name: regions[:, i] for i, name in enumerate(REGIONS)},
        )

    def opening(self, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Opening of the mouth in every frame, [F], on the scale of `truth.Truth.opening`."""
        return self.read(frames).tracks["opening"]

    def regions(self, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float64]]:
        """Regions of hair, skin, clothes and background, soft masks [F, REGION_SIZE, REGION_SIZE] each."""
        return self.read(frames).regions

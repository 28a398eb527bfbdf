"""Inference of the judge: tracks, landmarks and regions of frames."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.pocket.judge.network import POINTS, REGION_SIZE, REGIONS, SIZE, TRACKS, Judge
from wanavatar_lab.files import sha256_of
from wanavatar_lab.metrics.landmarks import LIPS, OVAL, Face, FacesIn, LandmarkSource, Points

WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / "pocket" / "judge" / "mouth.safetensors"
_CHUNK = 64
REACH, PLAIN = 16, 4  # pixels about a nose of 128, and levels by which a part of a picture without a face varies less
# The oval of a drawn face by its points, on average over the toy world: its width in distances of the eyes, and the
# top of the forehead in distances from the eyes to the chin, above the eyes. A lip is this share of the mouth's width.
WIDTH, FOREHEAD, THICKNESS = 2.19, 0.88, 0.15


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


class Reader(LandmarkSource):
    """Applies the judge to single frames: each result depends on its frame alone.

    It is a `wanavatar_lab.metrics.RegionSource` too.
    """

    def __init__(self, judge: Judge) -> None:
        """Use a trained network, on its current device."""
        self.judge = judge

    def identity(self, video: Path) -> str:
        """By the weights that ship."""
        return f"judge {sha256_of(WEIGHTS)}"

    @contextmanager
    def everyone(self, video: Path) -> Iterator[FacesIn]:
        """See `LandmarkSource`; of frames of any shape, and one face at most."""

        def faces_in(frame: NDArray[np.uint8], seconds: float) -> Sequence[Face]:
            height, width = frame.shape[:2]
            side = max(height, width)
            square = np.pad(frame, ((0, side - height), (0, side - width), (0, 0)), mode="edge")
            sized = np.asarray(cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
            read = self.read(sized[None])
            face = _face({name: points[0] * side / SIZE for name, points in read.points.items()})
            row, column = (np.clip(face.marks[2, ::-1] / side, 0, 1 - 1e-9) * REGION_SIZE).astype(int)  # type: ignore[index]
            # points are read in any frame; where there is a face, its nose is on skin, and something is drawn in it
            on_skin = read.regions["skin"][0, row, column] > 0.5
            near = sized[max(0, 2 * row - REACH) : 2 * row + REACH, max(0, 2 * column - REACH) : 2 * column + REACH]
            return [face] if on_skin and near.std(axis=(0, 1)).max() > PLAIN else []

        yield faces_in

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


def _face(points: Mapping[str, Points]) -> Face:
    """The face with these points of the judge's, its outlines drawn as ellipses."""
    left, right, chin = points["eye_left"], points["eye_right"], points["chin"]
    eyes = (left + right) / 2
    top = eyes - FOREHEAD * (chin - eyes)
    # clockwise from the forehead, seen in a picture whose y goes down
    angle = np.arange(OVAL)[:, None] * (2 * np.pi / OVAL)
    across = (right - left) * WIDTH / 2
    oval = (top + chin) / 2 + np.cos(angle) * (top - chin) / 2 + np.sin(angle) * across
    corners, gap = (points["mouth_left"], points["mouth_right"]), points["lip_below"] - points["lip_above"]
    middle, half = sum(corners) / 2, (corners[0] - corners[1]) / 2
    # from the corner at the left along the lower lip; the judge's points are on the inner edge
    turn = np.arange(LIPS)[:, None] * (2 * np.pi / LIPS)
    inner = middle + np.cos(turn) * half + np.sin(turn) * gap / 2
    lip = (chin - eyes) / np.linalg.norm(chin - eyes) * THICKNESS * np.linalg.norm(2 * half)
    return Face(oval, inner + np.sin(turn) * lip, inner, np.stack([left, right, points["nose"], *corners]))

"""Is it still the same person: hair, skin, clothes and background against the reference picture, segment by segment."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .colour import delta_e2000, srgb_to_lab

REGIONS = ("hair", "skin", "clothes", "background")
# Only what surely belongs to a region counts: edges are mixtures of two. Masks below the first do not, from the second
# on they count in full.
_DOUBTFUL, _SURE = 0.8, 0.95
# A region of the reference picture is measured if it has at least this share of it; it is lost from a clip that shows
# less than this share of what the reference showed.
_SMALLEST, _LOST = 0.004, 0.2


class RegionSource(Protocol):
    """Finds regions in frames.

    `regions(frames)` takes uint8 [F, H, W, 3] and gives soft masks, float [F, h, w] in 0..1, for some of
    `REGIONS`; H is a multiple of h and W of w.
    """

    def regions(self, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float64]]: ...


@dataclass(frozen=True)
class Region:
    """What frames show of a region: its mean colour, RGB in 0..1, and its mean share of the picture."""

    colour: NDArray[np.float64]
    share: float


@dataclass(frozen=True)
class Likeness:
    """How near each segment of a clip is to the reference picture.

    Attributes:
        reference: the mean colour of every region that the reference shows, RGB in 0..1.
        segments: for every segment, CIEDE2000 of every one of these regions; infinite where the region is gone.
    """

    reference: Mapping[str, NDArray[np.float64]]
    segments: Sequence[Mapping[str, float]]

    @property
    def worst(self) -> dict[str, float]:
        """The largest difference of every region over the segments."""
        return {name: max(segment[name] for segment in self.segments) for name in self.reference}

    @property
    def drift(self) -> dict[str, float]:
        """By how much every region is further from the reference in the last segment than in the first."""
        first, last = self.segments[0], self.segments[-1]
        return {name: last[name] - first[name] if math.isfinite(first[name]) else last[name] for name in self.reference}


def likeness(
    reference: NDArray[np.uint8],
    frames: NDArray[np.uint8],
    source: RegionSource,
    borders: Sequence[int] = (),
) -> Likeness:
    """Compare the colours of a clip with those of its reference picture.

    Args:
        reference: uint8 [H, W, 3].
        frames: uint8 [F, H', W', 3].
        source: finds the regions.
        borders: the first frame of every segment but the first one.

    Raises:
        ValueError: there are no frames, or the reference shows none of the regions.
    """
    if not len(frames):
        raise ValueError("The clip has no frames, so there is nothing to compare.")
    shown = {
        name: region for name, region in region_colours(reference[None], source).items() if region.share >= _SMALLEST
    }
    if not shown:
        raise ValueError("The reference picture shows no hair, skin, clothes or background that could be measured.")
    segments = []
    for start, end in pairwise([0, *borders, len(frames)]):
        found = region_colours(frames[start:end], source)
        segments.append({name: _difference(region, found.get(name)) for name, region in shown.items()})
    return Likeness({name: region.colour for name, region in shown.items()}, segments)


def region_colours(frames: NDArray[np.uint8], source: RegionSource) -> dict[str, Region]:
    """What frames [F, H, W, 3] show of each region, by its name.

    Raises:
        ValueError: a mask's size does not divide the frames'.
    """
    found = {}
    count, tall, broad = frames.shape[:3]
    for name, mask in source.regions(frames).items():
        height, width = mask.shape[1:]
        if tall % height or broad % width:
            raise ValueError(f"A mask of {height} x {width} does not divide frames of {tall} x {broad} pixels.")
        weight = np.clip((mask - _DOUBTFUL) / (_SURE - _DOUBTFUL), 0, 1)
        if weight.sum() > 0:
            cells = frames.reshape(count, height, tall // height, width, broad // width, 3).mean(axis=(2, 4)) / 255
            found[name] = Region(np.einsum("fhw,fhwc->c", weight, cells) / weight.sum(), float(weight.mean()))
    return found


def _difference(reference: Region, found: Region | None) -> float:
    if found is None or found.share < _LOST * reference.share:
        return math.inf
    return float(delta_e2000(srgb_to_lab(found.colour), srgb_to_lab(reference.colour)))

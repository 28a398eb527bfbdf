"""Whether a person stays the same: colours of hair, skin, clothes and background against the reference, by segment.

Colours are compared as people perceive them: in CIE Lab, by the difference CIEDE2000.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
REGIONS = ("hair", "skin", "clothes", "background")
# Pixels count from the first value of a mask on, from the second in full: those at edges are mixtures of two regions.
_DOUBTFUL, _SURE = 0.8, 0.95
# A region is measured if it covers at least this share of the reference picture: 0.004 is 1,600 pixels of 480x832.
_SMALLEST = 0.004
# A region is lost from a segment that shows less than this share of its area in the reference.
_LOST = 0.2


class RegionSource(Protocol):
    """Segments frames into regions."""

    def regions(self, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float64]]:
        """Soft masks [F, h, w] in 0..1 of some of `REGIONS` in frames [F, H, W, 3]; h divides H, and w divides W."""


@dataclass(frozen=True)
class Region:
    """The mean colour of a region in some frames, RGB in 0..1, and its mean share of the picture."""

    colour: NDArray[np.float64]
    share: float


@dataclass(frozen=True)
class Likeness:
    """How similar each segment of a clip is to the reference picture.

    Attributes:
        reference: the mean colour of every region in the reference, RGB in 0..1.
        segments: for every segment, CIEDE2000 of each of these regions; infinite where the region is lost.
    """

    reference: Mapping[str, NDArray[np.float64]]
    segments: Sequence[Mapping[str, float]]

    @property
    def worst(self) -> dict[str, float]:
        """The largest difference of every region over the segments."""
        return {name: max(segment[name] for segment in self.segments) for name in self.reference}


def likeness(
    reference: NDArray[np.uint8], frames: NDArray[np.uint8], source: RegionSource, borders: Sequence[int] = ()
) -> Likeness:
    """Compare the colours of a clip with those of its reference picture.

    Args:
        reference: uint8 [H, W, 3].
        frames: uint8 [F, H', W', 3].
        source: segments the frames.
        borders: the first frame of every segment but the first.

    Raises:
        ValueError: there are no frames, or the reference shows none of the regions.
    """
    if not len(frames):
        raise ValueError("The clip has no frames, so there is nothing to compare.")
    parts = [region_colours(frames[start:end], source) for start, end in pairwise([0, *borders, len(frames)])]
    return likeness_of(region_colours(reference[None], source), parts)


def likeness_of(reference: Mapping[str, Region], segments: Sequence[Mapping[str, Region]]) -> Likeness:
    """Compare the regions of the segments of a clip with those of a reference.

    Raises:
        ValueError: the reference shows no region that is large enough.
    """
    shown = {name: region for name, region in reference.items() if region.share >= _SMALLEST}
    if not shown:
        raise ValueError("The reference picture shows no hair, skin, clothes or background that could be measured.")
    differing = []
    for found in segments:
        differences = {}
        for name, region in shown.items():
            now = found.get(name, Region(region.colour, 0.0))
            difference = float(delta_e2000(srgb_to_lab(now.colour), srgb_to_lab(region.colour)))
            differences[name] = difference if now.share >= _LOST * region.share else math.inf
        differing.append(differences)
    return Likeness({name: region.colour for name, region in shown.items()}, differing)


def merged(regions: Sequence[Mapping[str, Region]]) -> dict[str, Region]:
    """The regions of several pictures of one size as one: mean colours by area, mean shares."""
    found = {}
    for name in dict.fromkeys(name for each in regions for name in each):
        known = [each[name] for each in regions if name in each]
        area = sum(region.share for region in known)
        found[name] = Region(
            np.sum([region.colour * region.share for region in known], axis=0) / area, area / len(regions)
        )
    return found


def typical_outline(outlines: Sequence[Values], onto: Values) -> Values:
    """The median of each point of the outlines of a face, [P, 2], in which noise and movements cancel.

    Every outline [P, 2] is first laid over `onto` by the shift, turn and scale of least squares (Procrustes), so that
    neither the place and the turn in the picture nor the distance to the camera counts.
    """
    return np.asarray(np.median([_laid_over(outline, onto) for outline in outlines], axis=0))


def outline_difference(outlines: Sequence[Values], reference: Values) -> float:
    """The root mean square distance of the typical outline from a reference, as a share of the reference's width."""
    apart = typical_outline(outlines, reference) - reference
    return float(np.sqrt((apart**2).sum(axis=1).mean()) / np.ptp(reference[:, 0]))


def _laid_over(points: Values, reference: Values) -> Values:
    # as complex numbers, of which one factor is a turn with a scale
    (here, there) = (each[:, 0] + 1j * each[:, 1] for each in (points, reference))
    centred, onto = here - here.mean(), there - there.mean()
    placed = centred * (np.vdot(centred, onto) / np.vdot(centred, centred)) + there.mean()
    return np.stack([placed.real, placed.imag], axis=1)


def region_colours(frames: NDArray[np.uint8], source: RegionSource) -> dict[str, Region]:
    """Each region that frames [F, H, W, 3] show, by name.

    Raises:
        ValueError: the size of a mask does not divide that of the frames.
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


# IEC 61966-2-1: linear sRGB to XYZ under D65.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(axis=1)


def srgb_to_lab(rgb: ArrayLike) -> NDArray[np.float64]:
    """CIE L*a*b* (D65, 2 degrees) of sRGB colours; [..., 3], RGB in 0..1, L in 0..100."""
    encoded = np.asarray(rgb, dtype=np.float64)
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    bent = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def delta_e2000(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """The perceived difference of Lab colours, [...] of [..., 3] and [..., 3]; 1 is just visible side by side.

    G. Sharma, W. Wu, E. Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data,
    and mathematical observations", 2005; the numbers in brackets are its equations.
    """
    a, b = np.broadcast_arrays(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    mean_chroma = (np.hypot(a[..., 1], a[..., 2]) + np.hypot(b[..., 1], b[..., 2])) / 2  # (2), (3)
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7))  # 1 + G of (4)
    chroma_a, hue_a = _chroma_and_hue(a, stretch)
    chroma_b, hue_b = _chroma_and_hue(b, stretch)
    # Where one of the colours is grey, its hue is arbitrary, and all that follows from a hue is multiplied by zero.
    turn = hue_b - hue_a
    turn = np.where(np.abs(turn) > 180, turn - np.copysign(360, turn), turn)  # (10)
    lightness = b[..., 0] - a[..., 0]  # (8)
    chroma = chroma_b - chroma_a  # (9)
    hue = 2 * np.sqrt(chroma_a * chroma_b) * np.sin(np.radians(turn) / 2)  # (11)

    mean_lightness = (a[..., 0] + b[..., 0]) / 2  # (12)
    mean_chroma = (chroma_a + chroma_b) / 2  # (13)
    mean_hue = (hue_a + turn / 2) % 360  # (14)

    weight = (  # (15)
        1
        - 0.17 * np.cos(np.radians(mean_hue - 30))
        + 0.24 * np.cos(np.radians(2 * mean_hue))
        + 0.32 * np.cos(np.radians(3 * mean_hue + 6))
        - 0.20 * np.cos(np.radians(4 * mean_hue - 63))
    )
    rotation = 30 * np.exp(-(((mean_hue - 275) / 25) ** 2))  # (16)
    blue = 2 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7))  # (17)
    off = (mean_lightness - 50) ** 2
    per_lightness = lightness / (1 + 0.015 * off / np.sqrt(20 + off))  # (18)
    per_chroma = chroma / (1 + 0.045 * mean_chroma)  # (19)
    per_hue = hue / (1 + 0.015 * mean_chroma * weight)  # (20)
    crossed = -np.sin(np.radians(2 * rotation)) * blue * per_chroma * per_hue  # (21), (22)
    return np.sqrt(per_lightness**2 + per_chroma**2 + per_hue**2 + crossed)


def _chroma_and_hue(lab: Values, stretch: Values) -> tuple[Values, Values]:
    """C' and h' in degrees, 0..360 and 0 for grey; (5) to (7)."""
    red, yellow = lab[..., 1] * stretch, lab[..., 2]
    return np.hypot(red, yellow), np.degrees(np.arctan2(yellow, red)) % 360

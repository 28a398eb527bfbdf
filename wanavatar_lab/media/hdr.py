"""Pictures and frames of HDR and of wide gamuts in the colours of BT.709, as an SDR screen shows them.

Phones film in HLG, films and games come in PQ, cameras take HEIC in either, all with the primaries of BT.2020. Their
code values taken for SDR look grey and dull. Here the light that a code value stands for is worked out (ITU-R BT.2100),
the primaries are converted, what is brighter than an SDR screen is compressed, and the result is coded for the screen
(ITU-R BT.1886). Reference white of HDR, 203 cd/m² (ITU-R BT.2408), becomes 238 of 255; what is darker than 0.7 of it
keeps its light.
"""

from functools import cache
from typing import Any

import av
import av.filter
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

HDR = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
REFERENCE_WHITE = 203.0  # cd/m²
# cd/m² of the largest code value; HLG has none of its own and is graded on displays of this one
PEAK = {"PQ": 10_000.0, "HLG": 1_000.0, "": REFERENCE_WHITE}
KNEE = 0.7  # shares of reference white up to which light is kept
SCREEN_GAMMA = 2.4
# linear RGB to that with the primaries of BT.709: of BT.2020 as in ITU-R BT.2087, of Display P3 from its chromaticities
TO_BT709 = {
    int(ColorPrimaries.BT2020): [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ],
    int(ColorPrimaries.SMPTE432): [
        [1.224940, -0.224940, 0.0],
        [-0.042057, 1.042057, 0.0],
        [-0.019638, -0.078636, 1.098274],
    ],
}
LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593])
LUMINANCE_709 = np.array([0.2126, 0.7152, 0.0722])
LUT_SIDE = 64  # entries per channel; FFmpeg's haldclut takes such a table as a picture of 512 × 512


def hdr_of(frame: VideoFrame) -> str:
    """The HDR transfer function of a frame, "PQ" or "HLG"; empty if it is SDR."""
    return HDR.get(frame.color_trc, "")


def colours_to_map(transfer: int, primaries: int) -> tuple[str, int] | None:
    """What `ToBT709` is given for colours of this transfer function and these primaries (code points of ITU-T H.273).

    Returns:
        The HDR transfer function, or "", and the primaries; None for SDR with primaries like those of BT.709.
    """
    hdr = HDR.get(transfer, "")
    if hdr and primaries not in (*TO_BT709, ColorPrimaries.BT709):
        primaries = int(ColorPrimaries.BT2020)  # the only ones that BT.2100 has
    return (hdr, primaries) if hdr or primaries in TO_BT709 else None


class ToBT709:
    """Maps frames of one size, by a table and tetrahedral interpolation in FFmpeg.

    Args:
        width, height: of the frames, in pixels.
        hdr, primaries: of the frames, from `colours_to_map`.
    """

    def __init__(self, width: int, height: int, hdr: str, primaries: int) -> None:
        graph = av.filter.Graph()

        def source(width: int, height: int) -> Any:
            return graph.add("buffer", f"video_size={width}x{height}:pix_fmt=rgb48le:time_base=1/1:pixel_aspect=1/1")

        self._frames, table = source(width, height), source(LUT_SIDE**3 // 512, 512)
        lookup, self._mapped = graph.add("haldclut", "clut=first:interp=tetrahedral"), graph.add("buffersink")
        self._frames.link_to(lookup, 0, 0)
        table.link_to(lookup, 0, 1)
        lookup.link_to(self._mapped)
        graph.configure()
        entries = _table(hdr, primaries).reshape(512, -1, 3)
        table.push(_at(av.VideoFrame.from_ndarray(entries, format="rgb48le"), 0))
        table.push(None)
        self._graph, self._count = graph, 0

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A frame in rgb48le, with its full range, as `[H, W, 3]` in BT.709."""
        self._frames.push(_at(frame, self._count))
        self._count += 1
        mapped: Any = self._mapped.pull()
        return (mapped.to_ndarray() >> 8).astype(np.uint8)


def _at(frame: VideoFrame, time: int) -> VideoFrame:
    frame.pts, frame.time_base = time, 1  # type: ignore[assignment]
    return frame


@cache
def _table(hdr: str, primaries: int) -> NDArray[np.uint16]:
    """For code values R, G, B of `LUT_SIDE` steps each, R the fastest: those in BT.709, uint16 `[B, G, R, 3]`."""
    steps = np.linspace(0.0, 1.0, LUT_SIDE)
    codes = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")[::-1], axis=-1)
    light = _light(codes, hdr) @ np.array(TO_BT709.get(primaries, np.eye(3))).T
    shown = _compressed(_within_bt709(light), PEAK[hdr] / REFERENCE_WHITE) ** (1 / SCREEN_GAMMA)
    # so that the upper byte is the value of 8 bits, rounded
    return (shown * 255 * 256 + 127).astype(np.uint16)


def _light(codes: NDArray[np.float64], hdr: str) -> NDArray[np.float64]:
    """The light of code values 0 to 1, `[..., 3]`, in shares of reference white (ITU-R BT.2100, tables 4 and 5)."""
    if hdr == "PQ":
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = codes ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif hdr == "HLG":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
        light = scene * (scene @ LUMINANCE_2020)[..., None] ** 0.2
    else:
        light = codes**SCREEN_GAMMA
    return light * (PEAK[hdr] / REFERENCE_WHITE)


def _within_bt709(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mix a colour that BT.709 has not, which has a negative part, with grey of its own luminance until it has."""
    grey, least = (light @ LUMINANCE_709)[..., None], light.min(axis=-1, keepdims=True)
    return np.where(least < 0, grey + (light - grey) * grey / np.maximum(grey - least, 1e-9), light)


def _compressed(light: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """Light of up to `peak` as 0 to 1: Reinhard's curve from the knee on, of the largest of R, G, B, so hue stays."""
    most = light.max(axis=-1, keepdims=True)
    if peak > 1:
        over, furthest = np.maximum(most - KNEE, 0) / (1 - KNEE), (peak - KNEE) / (1 - KNEE)
        within = np.minimum(most, KNEE) + (1 - KNEE) * over * (1 + over / furthest**2) / (1 + over)
        light = light * within / np.maximum(most, 1e-9)
    return np.clip(light, 0, 1)

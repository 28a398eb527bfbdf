"""HDR and wide-gamut videos, read in the colours of BT.709: each file is made of light whose values are known."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from tests.media.samples import mux, number_in, numbered
from wanavatar_lab.media import probe, read_frame, read_frames

TRANSFERS = {"HLG": ColorTrc.ARIB_STD_B67, "PQ": ColorTrc.SMPTE2084}
X265 = {"x265-params": "log-level=none"}
# x, y of red, green, blue, and of white D65
CHROMATICITIES = {
    "709": [(0.640, 0.330), (0.300, 0.600), (0.150, 0.060)],
    "2020": [(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)],
    "P3": [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)],
}
WHITE = (0.3127, 0.3290)
# code values 0 to 255 of patches in BT.709, from black to as light as is kept unchanged
COLOURS = [(0, 0, 0), (60, 60, 60), (217, 217, 217), (210, 160, 140), (200, 50, 50), (50, 180, 60), (50, 60, 210)]


def to_xyz(space: str) -> NDArray[np.float64]:
    def whole(x: float, y: float) -> list[float]:
        return [x / y, 1.0, (1 - x - y) / y]

    columns = np.array([whole(*xy) for xy in CHROMATICITIES[space]]).T
    return columns * np.linalg.solve(columns, whole(*WHITE))


def coded(nits: NDArray[np.float64], transfer: str) -> NDArray[np.float64]:
    """Code values 0 to 1 of light `[..., 3]` in cd/m² with BT.2020's primaries, by ITU-R BT.2100."""
    if transfer == "PQ":
        power = np.maximum(nits / 10_000, 0) ** 0.1593017578125
        coded: NDArray[np.float64] = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
        return coded
    shown = np.maximum(nits / 1_000, 0)
    luminance = (shown @ [0.2627, 0.6780, 0.0593])[..., None]
    scene = shown * np.where(luminance > 0, np.maximum(luminance, 1e-12) ** (1 / 1.2 - 1), 0)
    logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-12)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)


def patches(values: NDArray[np.float64], side: int = 32) -> NDArray[np.uint16]:
    """A row of squares whose colours are `[n, 3]`, 0 to 1."""
    squares = np.repeat(np.repeat(values[None], side, axis=0), side, axis=1)
    return np.rint(squares * 65535).astype(np.uint16)


def middles(frame: NDArray[np.uint8], side: int = 32) -> NDArray[np.int64]:
    return frame[side // 2, side // 2 :: side].astype(np.int64)


def grey_file(path: Path, code: int, transfer: str) -> Path:
    """Frames of one code value of 10 bits, as luma, written plane by plane."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx265", rate=16, options=X265)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p10le"
        stream.codec_context.color_trc = TRANSFERS[transfer]
        stream.codec_context.color_primaries, stream.codec_context.colorspace = ColorPrimaries.BT2020, Colorspace.BT2020
        stream.codec_context.color_range = ColorRange.MPEG
        for index in range(3):
            frame = av.VideoFrame(64, 64, "yuv420p10le")
            for plane, value in zip(frame.planes, (code, 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


# ITU-R BT.2408, table 1: reference white is 75 % of HLG and 58 % of PQ, and 203 cd/m²; a grey card is 38 % and 26 cd/m²
@pytest.mark.parametrize(("transfer", "white", "card"), [("HLG", 721, 397), ("PQ", 572, 397)])
def test_reference_white_is_white_and_a_grey_card_is_grey(tmp_path: Path, transfer: str, white: int, card: int) -> None:
    path = grey_file(tmp_path / "white.mov", white, transfer)
    for frame in (next(read_frames(path)), read_frame(path, 0.1), next(read_frames(path, fps=10))):
        assert frame.dtype == np.uint8 and frame.shape == (64, 64, 3)
        assert frame.min() >= 235 and frame.max() <= 240
    info = probe(path)
    assert (info.kind, info.hdr, info.width, info.missing) == ("video", transfer, 64, "")
    grey = read_frame(grey_file(tmp_path / "card.mov", card, transfer), 0)
    assert np.abs(grey.astype(float) - 255 * (26 / 203) ** (1 / 2.4)).max() <= 2


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx265"), ("mkv", "libx265"), ("webm", "libsvtav1")])
def test_colours_of_an_sdr_screen_come_back_as_they_were(
    tmp_path: Path, transfer: str, suffix: str, codec: str
) -> None:
    light = (np.array(COLOURS) / 255) ** 2.4 * 203 @ (np.linalg.inv(to_xyz("2020")) @ to_xyz("709")).T
    path = mux(
        tmp_path / f"a.{suffix}",
        video=codec,
        pixels="yuv420p10le",
        frames=[patches(coded(light, transfer))] * 3,
        tags=(TRANSFERS[transfer], ColorPrimaries.BT2020, Colorspace.BT2020),
        video_options=X265 | {"crf": "4"} if codec == "libx265" else {"crf": "4", "preset": "12"},
    )
    frames = list(read_frames(path))
    assert len(frames) == 3 and probe(path).hdr == transfer
    for frame in frames:
        assert np.abs(middles(frame) - COLOURS).max() <= 6


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_highlights_stay_apart_and_colours_that_a_screen_has_not_keep_their_hue(tmp_path: Path, transfer: str) -> None:
    greys = np.array([[150.0] * 3, [203.0] * 3, [400.0] * 3, [1000.0] * 3])
    beyond = np.array([[0.0, 200.0, 0.0], [300.0, 0.0, 0.0], [0.0, 0.0, 60.0], [600.0, 500.0, 0.0]])  # in BT.2020
    path = mux(
        tmp_path / "a.mov",
        video="libx265",
        pixels="yuv444p10le",
        frames=[patches(coded(np.concatenate([greys, beyond]), transfer))],
        tags=(TRANSFERS[transfer], ColorPrimaries.BT2020, Colorspace.BT2020),
        video_options=X265 | {"crf": "4"},
    )
    read = middles(next(read_frames(path)))
    levels = read[:4].mean(axis=1)
    assert (np.diff(levels) > 2).all() and levels[0] >= 215 and levels[3] >= 250
    green, red, blue, yellow = read[4:]
    assert green.argmax() == 1 and red.argmax() == 0 and blue.argmax() == 2
    for colour in (green, red, blue):
        assert colour.max() - np.sort(colour)[1] > 70
    assert min(yellow[0], yellow[1]) - yellow[2] > 90 and abs(yellow[0] - yellow[1]) < 60


@pytest.mark.parametrize(
    ("space", "primaries", "matrix", "transfer"),
    [
        ("P3", ColorPrimaries.SMPTE432, Colorspace.ITU709, ColorTrc.BT709),
        ("2020", ColorPrimaries.BT2020, Colorspace.BT2020, ColorTrc.BT2020_10),
    ],
)
def test_wide_colours_without_hdr_are_converted(
    tmp_path: Path, space: str, primaries: ColorPrimaries, matrix: Colorspace, transfer: ColorTrc
) -> None:
    light = (np.array(COLOURS) / 255) ** 2.4 @ (np.linalg.inv(to_xyz(space)) @ to_xyz("709")).T
    path = mux(
        tmp_path / "a.mkv",
        video="libx265",
        pixels="yuv444p10le",
        frames=[patches(np.maximum(light, 0) ** (1 / 2.4))] * 2,
        tags=(transfer, primaries, matrix),
        video_options=X265 | {"crf": "4"},
    )
    assert np.abs(middles(next(read_frames(path))) - COLOURS).max() <= 4
    assert probe(path).hdr == ""


def test_frames_of_hdr_are_turned_and_keep_their_order(tmp_path: Path) -> None:
    path = mux(
        tmp_path / "a.mov",
        video="libx265",
        pixels="yuv420p10le",
        frames=[numbered(k) for k in range(20)],
        tags=(TRANSFERS["HLG"], ColorPrimaries.BT2020, Colorspace.BT2020),
        video_options=X265,
        rotation=180,
    )
    assert [number_in(np.rot90(frame, 2)) for frame in read_frames(path)] == list(range(20))
    assert [number_in(np.rot90(frame, 2)) for frame in read_frames(path, start=0.5, limit=3)] == [8, 9, 10]

"""Pictures of every kind that people have, and pictures written."""

import errno
import io
import json
import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, features

from tests.media.samples import mux
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import (
    Samples,
    probe,
    read_metadata,
    read_picture,
    read_samples,
    write_picture,
    write_samples,
)
from wanavatar_lab.media.pictures import picture_texts

PIXELS = np.array(
    [[[200, 30, 30], [30, 200, 30], [30, 30, 200]], [[250, 250, 0], [0, 0, 0], [255, 255, 255]]], np.uint8
)


def scene(height: int = 40, width: int = 60) -> Image.Image:
    """PIXELS, enlarged: two rows and three columns of plain colours."""
    return Image.fromarray(PIXELS).resize((width, height), Image.Resampling.NEAREST)


def middles(image: Image.Image) -> NDArray[np.int64]:
    """The colours in the middle of the fields of a scene, `[2, 3, 3]`."""
    array = np.asarray(image).astype(np.int64)
    height, width = array.shape[:2]
    return array[height // 4 :: height // 2, width // 6 :: width // 3][:2, :3]


def deep_png(path: Path, samples: NDArray[np.uint16]) -> Path:
    """A PNG with 16 bits per sample, gray `[H, W]` or RGB `[H, W, 3]`."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if samples.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    made = b"".join(chunk(name, data) for name, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + made)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(name: bytes, data: bytes) -> bytes:
    """The scene as PNG with a chunk more, before its end."""
    memory = io.BytesIO()
    scene().save(memory, "PNG")
    return memory.getvalue()[:-12] + chunk(name, data) + memory.getvalue()[-12:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_exif_orientation_is_read_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = scene() if turned is None else scene().transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, quality=95)
    read = read_picture(path)
    assert (read.mode, read.size) == ("RGB", (60, 40))
    assert np.abs(middles(read) - PIXELS).max() <= 8
    info = probe(path)
    assert (info.kind, info.width, info.height, info.duration) == ("picture", 60, 40, None)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_scan_without_compression_is_read_upright(tmp_path: Path, mode: str) -> None:
    exif, grey = Image.Exif(), np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) * 27
    exif[ExifTags.Base.Orientation] = 6
    scan = Image.fromarray(grey) if mode == "I;16" else Image.fromarray((grey >> 8).astype(np.uint8)).convert(mode)
    scan.save(tmp_path / "a.tif", exif=exif)
    read = np.asarray(read_picture(tmp_path / "a.tif")).astype(int)
    assert read.shape == (60, 40, 3)
    assert np.abs(read - np.rot90(grey / 257, -1)[..., None]).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "L", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    scene().convert(mode).save(path)
    read = read_picture(path)
    expected = scene().convert(mode).convert("RGB")
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read).astype(int) - np.asarray(expected)).max() <= 1


def test_cmyk_jpeg_has_its_colours_and_not_their_opposites(tmp_path: Path) -> None:
    scene().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(middles(read_picture(tmp_path / "a.jpg")) - PIXELS).max() <= 12


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    clear = np.full((8, 8, 4), (255, 0, 0, 0), np.uint8)
    clear[:4] = (255, 0, 0, 128)
    for suffix in ("png", "webp", "tif"):
        Image.fromarray(clear).save(tmp_path / f"a.{suffix}", lossless=True)
        read = np.asarray(read_picture(tmp_path / f"a.{suffix}")).astype(int)
        assert np.abs(read[6, 4] - (255, 255, 255)).max() == 0
        assert np.abs(read[1, 4] - (255, 127, 127)).max() <= 1
    Image.fromarray(clear[..., [0, 3]], "LA").save(tmp_path / "la.png")
    assert np.asarray(read_picture(tmp_path / "la.png"))[6, 4].tolist() == [255, 255, 255]
    for mode, key in (("P", 0), ("RGB", (255, 0, 0)), ("L", 76)):
        red = Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)
        red.save(tmp_path / "key.png", transparency=red.getpixel((0, 0)) if mode == "P" else key)
        assert np.asarray(read_picture(tmp_path / "key.png"))[4, 4].tolist() == [255, 255, 255], mode


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    expected = np.linspace(0, 255, 256).reshape(16, 16)
    colour = np.stack([ramp, ramp[::-1], ramp.T], axis=2)
    Image.fromarray(ramp).save(tmp_path / "gray.tif")
    (tmp_path / "gray.pgm").write_bytes(b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes())
    deep_png(tmp_path / "gray.png", ramp)
    for name in ("gray.png", "gray.tif", "gray.pgm"):
        read = np.asarray(read_picture(tmp_path / name)).astype(float)
        assert np.abs(read - expected[..., None]).max() <= 1, name
    read = np.asarray(read_picture(deep_png(tmp_path / "colour.png", colour))).astype(float)
    assert np.abs(read - colour / 257).max() <= 1


def test_samples_whose_white_is_unknown_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 8), 1 << 20, np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(MediaError, match="8 or 16 bits"):
            read_picture(tmp_path / name)


def test_a_colour_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, suffix in (("RGB", "jpg"), ("RGBA", "png"), ("RGB", "webp")):
        scene().convert(mode).save(tmp_path / f"a.{suffix}", icc_profile=srgb, quality=95)
        assert np.abs(middles(read_picture(tmp_path / f"a.{suffix}")) - PIXELS).max() <= 8
    # a profile with red and blue exchanged shows that it is used
    swapped = bytearray(srgb)
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    for mode in ("RGB", "RGBA"):
        scene().convert(mode).save(tmp_path / "b.png", icc_profile=bytes(swapped))
        assert np.abs(middles(read_picture(tmp_path / "b.png")) - PIXELS[..., ::-1]).max() <= 4
    # a profile for another kind of picture says nothing about this one
    scene().convert("L").save(tmp_path / "c.png", icc_profile=srgb)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "c.png"))[..., 0], np.asarray(scene().convert("L")))


def test_a_damaged_colour_profile_or_exif_is_ignored_as_browsers_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in ("png", "jpg", "webp"):
        scene().save(tmp_path / f"a.{suffix}", icc_profile=b"nonsense" * 40, quality=95, lossless=True)
        caplog.clear()
        assert np.abs(middles(read_picture(tmp_path / f"a.{suffix}")) - PIXELS).max() <= 8
        assert f"profile of {tmp_path / f'a.{suffix}'} is damaged" in caplog.text and "sRGB" in caplog.text
    data = png_with(b"eXIf", b"no EXIF at all")
    (tmp_path / "b.png").write_bytes(data)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "b.png")), np.asarray(scene()))
    assert read_metadata(tmp_path / "b.png") == {}


def late(path: Path) -> None:
    """Move a PNG's texts behind its pixels."""
    data = path.read_bytes()
    chunks, place = [], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place:end])
        place = end
    texts = [chunk for chunk in chunks if chunk[4:8] in (b"tEXt", b"zTXt", b"iTXt")]
    others = [chunk for chunk in chunks if chunk not in texts]
    path.write_bytes(data[:8] + b"".join([*others[:-1], *texts, others[-1]]))


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
def test_a_png_is_read_whatever_its_texts_are(tmp_path: Path, behind: bool) -> None:
    long, international, wrong = (PngImagePlugin.PngInfo() for _ in range(3))
    long.add_text("workflow", "x" * 2_100_000, zip=True)
    international.add_itxt("workflow", "x" * 2_100_000, zip=True)
    wrong.add_text("comment", "a letter of this is exchanged")
    for name, texts in (("long", long), ("international", international), ("wrong", wrong)):
        path = tmp_path / f"{name}.png"
        scene().save(path, pnginfo=texts)
        if behind:
            late(path)
        data = bytearray(path.read_bytes())
        if name == "wrong":
            data[data.index(b"letter")] ^= 1
            path.write_bytes(data)
        assert np.array_equal(np.asarray(read_picture(path)), np.asarray(scene())), name
        assert probe(path).kind == "picture"


def test_a_large_colour_profile_is_applied(tmp_path: Path) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    profile += bytes(1_500_000 - len(profile))
    profile[:4] = len(profile).to_bytes(4, "big")
    scene().save(tmp_path / "a.png", icc_profile=bytes(profile))
    assert np.abs(middles(read_picture(tmp_path / "a.png")) - PIXELS[..., ::-1]).max() <= 4


def test_pillows_own_settings_are_left_as_they_were(tmp_path: Path) -> None:
    def settings() -> tuple[object, ...]:
        return Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, ImageFile.LOAD_TRUNCATED_IMAGES

    before = settings()
    scene().save(tmp_path / "a.png")
    read_picture(tmp_path / "a.png")
    for length in (60, 20):
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:length])
        with suppress(MediaError):
            read_picture(tmp_path / "b.png")
    assert settings() == before
    assert before[2] is False


def test_a_heic_photo_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    read = read_picture(tmp_path / "a.heic")
    assert (read.mode, read.size) == ("RGB", (60, 40))
    assert np.abs(middles(read) - PIXELS).max() <= 40
    (tmp_path / "b.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:-200])
    with pytest.raises(MediaError):
        read_picture(tmp_path / "b.heic")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    others = [Image.new("RGB", (60, 40), (0, 0, shade)) for shade in (50, 150, 250)]
    scene().save(tmp_path / f"a.{suffix}", save_all=True, append_images=others, duration=100, lossless=True)
    assert np.abs(middles(read_picture(tmp_path / f"a.{suffix}")) - PIXELS).max() <= 8
    assert probe(tmp_path / f"a.{suffix}").kind == "picture"


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8))
CUT: dict[str, dict[str, Any]] = {
    "turned.jpg": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    "clear.gif": {"transparency": 3},
    "lossless.webp": {"lossless": True},
    **{f"a.{suffix}": {} for suffix in ("png", "jpg", "gif", "webp", "bmp", "tif", "ppm", "tga", "pcx")},
}


@pytest.mark.parametrize("name", CUT)
def test_a_cut_picture_is_read_as_far_as_it_goes_and_the_loss_is_said(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    picture = NOISE.resize((192, 144), Image.Resampling.BICUBIC)
    (picture.quantize(64) if name.endswith("gif") else picture).save(tmp_path / name, **{"interlace": 0} | CUT[name])

    def rows_of(path: Path) -> NDArray[np.int64]:
        """In the order of the file."""
        read = np.rot90(np.asarray(read_picture(path)).astype(np.int64), int(name == "turned.jpg"))
        return read[::-1] if name.endswith(("bmp", "tga")) else read

    data, cut, whole = (tmp_path / name).read_bytes(), tmp_path / f"cut_{name}", rows_of(tmp_path / name)
    assert whole.shape == (144, 192, 3) and probe(tmp_path / name).missing == ""
    for share in (0.4, 0.7, 0.98):
        cut.write_bytes(data[: round(len(data) * share)])
        caplog.clear()
        read = rows_of(cut)
        said = re.fullmatch(r"(\d+) of 144 rows can be read", probe(cut).missing)
        assert said and f"{cut} is cut short or damaged: {said[0]}" in caplog.text
        rows = int(said[1])
        assert 144 * share - 36 <= rows <= 144 * share + 4  # what a block and the loop filter hold back
        assert np.abs(read - whole)[: rows - 4].max() <= 2  # of WebP what follows changes four rows a little
        assert (read[rows + 1 :] == 255).all()


def test_of_a_progressive_jpeg_the_passes_are_read_that_are_there(tmp_path: Path) -> None:
    """Cut anywhere: in compressed data, and in the header of a pass."""
    NOISE.resize((192, 144), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", progressive=True)
    data, cut = (tmp_path / "a.jpg").read_bytes(), tmp_path / "cut.jpg"
    whole = np.asarray(read_picture(tmp_path / "a.jpg")).astype(float)
    errors = []
    for end in range(len(data) // 3, len(data) - 2, 40):
        cut.write_bytes(data[:end])
        said = re.fullmatch(r"(\d+) of 192 coefficients .* up to row \d+ of 144", probe(cut).missing)
        assert said and int(said[1]) <= 192
        errors.append(np.abs(np.asarray(read_picture(cut)) - whole).mean())
    assert max(errors) < 40 and 0 < errors[-1] < 1


def test_of_what_no_browser_shows_nothing_is_made_up(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "gif", "webp", "bmp", "avif", "heic"):
        NOISE.resize((192, 144)).save(tmp_path / f"a.{suffix}")
        data, cut = (tmp_path / f"a.{suffix}").read_bytes(), tmp_path / f"cut.{suffix}"
        ends = (1, 20, len(data) // 2) if suffix in ("avif", "heic") else (1, 8, 20)
        if suffix == "jpg":
            ends = (*ends, *range(30, data.index(b"\xff\xda") + 14))
        for end in ends:
            cut.write_bytes(data[:end])
            with pytest.raises(MediaError, match=r"not a picture|damaged or cut short"):
                read_picture(cut)


def test_a_picture_that_lacks_only_what_follows_its_pixels_is_whole(tmp_path: Path) -> None:
    for progressive in (False, True):
        NOISE.save(tmp_path / "a.jpg", progressive=progressive)
        whole, cut = (tmp_path / "a.jpg").read_bytes(), tmp_path / "cut.jpg"
        for missing in (1, 2):  # bytes of the end marker
            cut.write_bytes(whole[:-missing])
            assert np.array_equal(np.asarray(read_picture(cut)), np.asarray(read_picture(tmp_path / "a.jpg")))
            assert probe(cut).missing == ""


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_of_interlaced_rows_those_that_lack_are_like_the_ones_before(tmp_path: Path, suffix: str) -> None:
    shades = np.arange(0, 256, 4, dtype=np.uint8)
    smooth = np.broadcast_to(shades[:, None, None], (64, 64, 3)).copy()
    path = tmp_path / f"a.{suffix}"
    if suffix == "gif":
        Image.fromarray(smooth).quantize(64).save(path, interlace=1)
    else:
        passes = [smooth[y::dy, x::dx] for y, x, dy, dx in ADAM7]
        raw = b"".join(b"\0" + row.tobytes() for each in passes for row in each)
        header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 1)
        packed = zlib.compress(raw, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    whole, data = np.asarray(read_picture(path)).astype(int), path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    read = np.asarray(read_picture(path)).astype(int)
    assert np.abs(read - whole)[:60].max() <= 32 and "of 64 rows" in probe(path).missing


@pytest.mark.parametrize(("suffix", "error"), [("ico", 0), ("jp2", 12), ("tga", 0), ("pcx", 0), ("sgi", 0), ("dds", 0)])
def test_other_pictures_that_some_programs_show_are_read(tmp_path: Path, suffix: str, error: int) -> None:
    scene(48, 48).save(tmp_path / f"a.{suffix}")
    assert np.abs(middles(read_picture(tmp_path / f"a.{suffix}")) - PIXELS).max() <= error
    assert probe(tmp_path / f"a.{suffix}").kind == "picture"


# the code values of reference white, 203 cd/m², of full range: ITU-R BT.2408
WHITE = {"PQ": (16, 0.58068881), "HLG": (18, 0.75)}


@pytest.mark.parametrize("transfer", WHITE)
@pytest.mark.parametrize("suffix", ["heic", "avif", "png"])
def test_reference_white_of_an_hdr_photo_is_white(
    tmp_path: Path, transfer: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    (code, white), path = WHITE[transfer], tmp_path / f"a.{suffix}"
    frame = np.full((64, 64, 3), round(white * 65_535), np.uint16)
    frame[:, 32:] = 0
    if suffix == "heic":
        made = pillow_heif.from_bytes(mode="RGB;16", size=(64, 64), data=frame.tobytes())
        made.save(path, quality=95, color_primaries=9, transfer_characteristics=code, matrix_coefficients=9)
    elif suffix == "avif":
        mux(
            path,
            video="libsvtav1",
            container="avif",
            frames=[frame],
            pixels="yuv420p10le",
            tags=(ColorTrc(code), ColorPrimaries.BT2020, Colorspace.BT2020),
            video_options={"crf": "4", "preset": "12", "svtav1-params": "lp=1"},
        )
    else:
        data = deep_png(path, frame).read_bytes()
        path.write_bytes(data[:33] + chunk(b"cICP", bytes([9, code, 0, 1])) + data[33:])
    read = np.asarray(read_picture(path)).astype(int)
    assert np.abs(read[:, 4:28] - 238).max() <= 3 and read[:, 36:].max() <= 6
    assert probe(path).hdr == transfer and f"{path} is HDR ({transfer})" in caplog.text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a.png").write_bytes(b"something")

    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("builtins.open", refuse)
    for read in (read_picture, probe):
        with pytest.raises(MediaError, match=rf"a\.png cannot be read: {os.strerror(number)}\. Check its permissions"):
            read(tmp_path / "a.png")


def test_what_is_no_picture_is_refused_in_clear_words(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("This is a letter.\n" * 100)
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    for name, said in {
        "missing.png": "There is no file",
        ".": "is a folder",
        "empty.png": "is empty",
        "text.png": "is not a picture",
        "script.eps": "is not a picture",
    }.items():
        with pytest.raises(MediaError, match=said):
            read_picture(tmp_path / name)
    with pytest.raises(MediaError, match=r"cannot be read as a picture .* for example as PNG or JPEG"):
        probe(tmp_path / "text.png")  # as an upload is checked, whatever it is


def test_a_picture_that_unpacks_to_too_much_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = b"\0" + bytes(30_000 // 8)
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(rows) for _ in range(30_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    with open(tmp_path / "bomb.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    with pytest.raises(MediaError, match="30000×30000 pixels and the limit is 100,000,000"):
        read_picture(tmp_path / "bomb.png")
    scene().save(tmp_path / "a.png")
    monkeypatch.setenv("WANAVATAR_MAX_PICTURE_PIXELS", "2399")
    with pytest.raises(MediaError, match="60×40 pixels and the limit is 2,399"):
        read_picture(tmp_path / "a.png")
    monkeypatch.setenv("WANAVATAR_MAX_PICTURE_PIXELS", "2400")
    assert read_picture(tmp_path / "a.png").size == (60, 40)


@pytest.mark.parametrize(("suffix", "error"), [("png", 0), ("jpg", 8), ("jpeg", 8), ("webp", 40)])
def test_a_written_picture_reads_back_and_its_bytes_are_the_same_each_time(
    tmp_path: Path, suffix: str, error: int
) -> None:
    metadata = {"seed": "7", "prompt": "안녕 “x”"}
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.{suffix}", scene(), metadata=metadata)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert np.abs(middles(read_picture(tmp_path / f"a.{suffix}")) - PIXELS).max() <= error
    with Image.open(tmp_path / f"a.{suffix}") as image:
        texts: dict[str, Any] = image.text if suffix == "png" else json.loads(image.getexif()[0x010E])  # type: ignore[attr-defined]
    assert texts == metadata


def test_nothing_of_the_source_travels_into_a_written_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    scene().save(tmp_path / "a.png", exif=exif, dpi=(300, 300))
    write_picture(tmp_path / "b.png", read_picture(tmp_path / "a.png"))
    write_picture(tmp_path / "c.png", Image.fromarray(np.asarray(read_picture(tmp_path / "a.png"))))
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    for name, mode, said in (
        ("a.gif", "RGB", "does not end in"),
        ("a.jpg", "RGBA", "has mode RGBA"),
        ("a.png", "CMYK", "has mode CMYK"),
        ("none/a.png", "RGB", "cannot be written"),
    ):
        with pytest.raises(MediaError, match=said):
            write_picture(tmp_path / name, scene().convert(mode))
    with pytest.raises(MediaError, match="cannot be written as JPEG"):
        write_picture(tmp_path / "a.jpg", scene(), metadata={"prompt": "x" * 70_000})
    assert list(tmp_path.iterdir()) == []


def test_avif_is_read_where_pillow_has_it(tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    scene().save(tmp_path / "a.avif", quality=95)
    assert np.abs(middles(read_picture(tmp_path / "a.avif")) - PIXELS).max() <= 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_samples_of_16_bits_are_upright_and_keep_their_profile(orientation: int, channels: int, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB" if channels == 1 else "sRGB")).tobytes()
    write_samples(tmp_path / "a.png", Samples(levels, profile), metadata={"prompt": "눈 雪"})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"eXIf", exif.tobytes()[6:])
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk.getvalue() + whole[33:])
    found, kept = read_samples(tmp_path / "a.png")
    # Pillow turns each 8-bit plane; the high and the low byte of a sample go the same way
    planes = [
        np.asarray(ImageOps.exif_transpose(with_exif(Image.fromarray(plane), exif)))
        for channel in range(channels)
        for plane in ((levels[:, :, channel] >> 8).astype(np.uint8), (levels[:, :, channel] & 255).astype(np.uint8))
    ]
    wanted = np.dstack([high.astype(np.uint16) << 8 | low for high, low in zip(planes[::2], planes[1::2], strict=True)])
    assert found.dtype == np.uint16 and np.array_equal(found, wanted)
    assert kept == (None if channels == 1 else profile), "a profile of other colours says nothing about grey"
    assert picture_texts(tmp_path / "a.png")[0] == {"prompt": "눈 雪"}


def with_exif(image: Image.Image, exif: Image.Exif) -> Image.Image:
    image.info["exif"] = exif.tobytes()
    return image


def test_samples_of_8_bits_keep_transparency_and_grey(tmp_path: Path) -> None:
    clear = Image.new("P", (4, 3))
    clear.putpalette([10, 20, 30, 200, 100, 50])
    clear.putpixel((0, 0), 1)
    clear.save(tmp_path / "p.png", transparency=1)
    levels = read_samples(tmp_path / "p.png").levels
    assert levels[0, 0].tolist() == [200, 100, 50, 0] and levels[2, 3].tolist() == [10, 20, 30, 255]
    Image.new("1", (4, 3), 1).save(tmp_path / "one.png")
    Image.new("L", (4, 3), 77).save(tmp_path / "grey.png")
    Image.new("CMYK", (4, 3)).save(tmp_path / "print.tif")
    assert read_samples(tmp_path / "grey.png").levels.tolist() == [[[77]] * 4] * 3
    assert read_samples(tmp_path / "print.tif").levels.tolist() == [[[255] * 3] * 4] * 3
    with pytest.raises(MediaError, match=r"a\.jpg does not end in \.png"):
        write_samples(tmp_path / "a.jpg", Samples(np.zeros((3, 4, 3), np.uint16)))


def test_a_photograph_as_png_is_no_larger_than_by_zlib_s_default(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:256, :256]
    smooth = np.stack([rows, columns, (rows + columns) // 2], axis=2)
    grain = np.random.default_rng(0).normal(0, 2, smooth.shape)
    picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
    write_picture(tmp_path / "a.png", picture)
    picture.save(tmp_path / "b.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(picture))
    assert (tmp_path / "a.png").stat().st_size <= (tmp_path / "b.png").stat().st_size

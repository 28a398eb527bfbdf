"""Pictures of every kind that people have, and pictures written."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, features

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import probe, read_picture, write_picture

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
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + made)
    return path


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
    scene().save(tmp_path / "d.png", icc_profile=b"nonsense" * 40)
    with pytest.raises(MediaError, match="damaged"):
        read_picture(tmp_path / "d.png")


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
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(MediaError):
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_a_cut_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for end in range(1, len(whole) * 15 // 16, len(whole) // 24):
        cut.write_bytes(whole[:end])
        with pytest.raises(MediaError):
            read_picture(cut)


def test_a_jpeg_without_its_end_is_whole_and_one_without_pixels_is_not(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for progressive in (False, True):
        Image.fromarray(noise).save(tmp_path / "a.jpg", progressive=progressive)
        whole, cut = (tmp_path / "a.jpg").read_bytes(), tmp_path / "cut.jpg"
        for missing in (1, 2):
            cut.write_bytes(whole[:-missing])
            assert np.array_equal(np.asarray(read_picture(cut)), np.asarray(read_picture(tmp_path / "a.jpg")))
        cut.write_bytes(whole[:-30])
        with pytest.raises(MediaError, match="damaged or cut short"):
            read_picture(cut)


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

"""Read and write pictures through Pillow."""

import errno
import io
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import av
import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin, UnidentifiedImageError

from wanavatar_lab.errors import LabError, MediaError
from wanavatar_lab.files import write_bytes
from wanavatar_lab.media.container import existing_file
from wanavatar_lab.media.hdr import ToBT709, colours_to_map
from wanavatar_lab.settings import read_settings

# What people have; others, such as EPS, which starts an interpreter, are refused.
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "ICO", "JPEG2000"]
# begin so plainly that any data might be taken for them, and are read by the name of the file only
FORMATS_BY_NAME = {".tga": "TGA", ".pcx": "PCX", ".sgi": "SGI", ".dds": "DDS", ".icns": "ICNS"}
pillow_heif.register_heif_opener()
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
SIXTEEN_BIT_DECODERS = (";16", "65535")  # in the arguments of Pillow's decoders
# how a picture is turned to stand upright, by its EXIF orientation
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
DEFAULT_DURATION = 100  # milliseconds that browsers show a frame of which the file says 0
MOST_FILLING = 64  # a WebP that declares more than so many times its size has no pixel row
CODE_POINTS_WITHIN = 1 << 16  # bytes from the beginning of a file: both formats have them before the pixels
COLOUR_SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "L": "GRAY", "LA": "GRAY", "CMYK": "CMYK"}
OPTIONS: dict[str, dict[str, Any]] = {
    # of a photograph as small as zlib's default makes it, in a fifth of the time
    ".png": {"format": "PNG", "compress_type": zlib.Z_RLE},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95, "method": 4},
}
# bytes that a PNG's colour profile or one of its texts may unpack to, where Pillow allows 1 MB. Profiles of printers
# have up to 10 MB, and image generators write whole workflows as text; all texts together are held to 64 MB by Pillow.
MAX_PNG_CHUNK = 64 << 20
# Pillow keeps its limits and its strictness in module variables, which one reader at a time may change
_pillow_settings = threading.Lock()

_log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """A picture as it was read.

    Attributes:
        image: upright, 8-bit RGB, or as `keep` says; what could not be read of it is white, or between rows of an
            interlaced one like the row before.
        hdr: "HLG" or "PQ" where the file is HDR, whose colours are mapped; else empty.
        missing: what could not be read, in words; empty if nothing is known to be missing.
    """

    image: Image.Image
    hdr: str
    missing: str


def read_picture(path: Path | str) -> Image.Image:
    """Read a picture as upright 8-bit RGB, as far as it can be decoded; a loss is logged.

    EXIF orientation is applied; transparency is laid over white; 16 bits are scaled to 8; an embedded colour
    profile that fits the picture is converted to sRGB (CMYK without one by the plain formula); HDR and wide gamuts
    that the file names by code points are mapped as those of video; of an animation the first frame is taken.

    Raises:
        MediaError: no such file, not a picture, none of its pixels can be decoded, or larger than the settings allow
            (`max_picture_pixels`, `max_media_bytes`). What is damaged beside the pixels, such as a comment, is ignored.
    """
    return _with_loss_logged(read_picture_and_loss(path), path)


def read_kept_picture(path: Path | str) -> Image.Image:
    """As `read_picture`, but of mode RGBA with its transparency, and L if it is grey."""
    return _with_loss_logged(read_picture_and_loss(path, keep=True), path)


def read_picture_and_loss(path: Path | str, *, keep: bool = False) -> Picture:
    """As `read_picture`, with what is missing of it, and without a word in the log but for the colour profile.

    Args:
        keep: transparency, as RGBA, and grey, as L, where nothing is missing.
    """
    with _opened(path) as image:
        lacking, missing = None, ""
        try:
            if next(_filled_webp(path), None):
                raise OSError("it is shorter than it declares")
            image.load()
        except Exception:  # see _opened
            found = _cut_picture(image, path)
            if found is None:
                raise
            image, lacking, missing = found
        upright, hdr = _in_bt709(image, path)
        upright = _to_srgb(_turned(upright, image), path)
        if lacking is not None:
            upright = _filled(_rgb(upright, path), _turned(lacking, image))
        elif keep and _has_transparency(upright):
            upright = upright.convert("RGBA")
        elif not keep or upright.mode != "L":
            upright = _rgb(upright, path)
        return Picture(upright, hdr, missing)


def sixteen_bits(path: Path | str) -> tuple[int, bytes | None] | None:
    """The EXIF orientation of a whole PNG, TIFF or PPM of 16 bits a channel, of which Pillow keeps 8 if it is coloured.

    With it its ICC profile, if that is for RGB or grey as the picture is. None for other pictures, and where the file
    names other colours by code points, which are mapped to 8 bits.
    """
    with _opened(path) as image:
        tiles = getattr(image, "tile", None)
        decoder = str(tiles[0].args) if tiles else ""
        if image.mode == "CMYK" or not any(sign in decoder for sign in SIXTEEN_BIT_DECODERS):
            return None
        try:
            image.load()
        except OSError:
            return None
        if colours_to_map(*_code_points(image, path)) is not None:
            return None
        profile, kind = image.info.get("icc_profile"), COLOUR_SPACES.get(image.mode, "GRAY")
        with suppress(OSError, ImageCms.PyCMSError):  # a damaged one says nothing
            is_own = profile and ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space == kind
            return _exif(image, ExifTags.Base.Orientation, 1), profile if is_own else None
        return _exif(image, ExifTags.Base.Orientation, 1), None


def is_picture(path: Path | str) -> bool:
    """Whether the file begins as a picture of a known kind does.

    Raises:
        MediaError: no such file, a picture whose beginning is damaged, or one larger than the settings allow.
    """
    try:
        with _opened(path):
            return True
    except _NotAPicture:
        return False


def animation(path: Path | str) -> Iterator[tuple[Image.Image, int]]:
    """The frames of an animated GIF, PNG, WebP or AVIF as RGBA, and how long each is shown in milliseconds.

    It ends where no further frame can be decoded, which is logged. Of a picture that does not move there are none.

    Raises:
        MediaError: as `is_picture`, or not a picture.
    """
    with ExitStack() as stack:
        with _pillow(path):
            image = stack.enter_context(_open(path))
            frames = _count_frames(image) if image.format in ANIMATED else 1
            if frames > 1 and next(_filled_webp(path), None):
                _log.warning("%s is cut short and moves as far as frame %d.", path, frames)
        for index in range(frames if frames > 1 else 0):
            # not around the yield: the caller may read another picture before it takes the next frame
            try:
                with _pillow(path):
                    image.seek(index)
                    frame = image.convert("RGBA")  # decodes it, before which a WebP does not know its duration
            except MediaError as error:
                if index:
                    _log.warning("%s moves as far as frame %d of %d: %s", path, index, frames, error)
                    return
                raise
            yield frame, max(1, round(image.info.get("duration") or DEFAULT_DURATION))


def _count_frames(image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # noqa: BLE001 - see _pillow; a GIF is gone through, and the block behind this frame is cut
        return image.tell() + 2


def picture_texts(path: Path | str) -> tuple[dict[str, str], str]:
    """The text chunks of a PNG by name, and the description of any picture; what is damaged of them is left out.

    Raises:
        MediaError: as `is_picture`, or not a picture.
    """
    with _opened(path) as image:
        texts = {str(name): str(text) for name, text in getattr(image, "text", {}).items()}
        return texts, str(_exif(image, ExifTags.Base.ImageDescription, ""))


def write_picture(path: Path | str, image: Image.Image, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write PNG, JPEG or WebP, chosen by the suffix; whole or not at all. The same picture gives the same bytes.

    Args:
        image: mode RGB or L, or RGBA where the format has transparency (not JPEG).
        metadata: in PNG one text chunk per entry; in JPEG and WebP one JSON object in EXIF's ImageDescription.

    Raises:
        MediaError: another suffix or mode, a missing folder, or metadata that does not fit (64 KB in JPEG).
        DiskFull: there is no room.
    """
    path = Path(path)
    options = OPTIONS.get(path.suffix.lower())
    if options is None:
        raise MediaError(f"{path} does not end in {', '.join(OPTIONS)}. Choose one of these.")
    modes = ("RGB", "L") if options["format"] == "JPEG" else ("RGB", "L", "RGBA")
    if image.mode not in modes:
        raise MediaError(f"The picture for {path} has mode {image.mode}; {options['format']} takes {', '.join(modes)}.")
    clean = image.copy()
    clean.info = {}  # Pillow would write what the picture's source file said: its profile, its comment, its time
    memory = io.BytesIO()
    try:
        clean.save(memory, **options, **_metadata_options(options["format"], metadata or {}))
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be written as {options['format']}: {error}.") from error
    write_bytes_of_picture(path, memory.getvalue())


def write_bytes_of_picture(path: Path, data: bytes) -> None:
    """Write an encoded picture, whole or not at all; errors as of `write_picture`."""
    try:
        # written from memory, because Pillow's own writing loses the reason when the disk is full
        write_bytes(path, data)
    except OSError as error:
        raise MediaError(
            f"{path} cannot be written: {error.strerror}. Check the folder and its permissions."
        ) from error


def _with_loss_logged(picture: Picture, path: Path | str) -> Image.Image:
    if picture.hdr:
        _log.warning("%s is HDR (%s); its colours are mapped to SDR, sRGB.", path, picture.hdr)
    if picture.missing:
        _log.warning("%s is cut short or damaged: %s.", path, picture.missing)
    return picture.image


def _cut_picture(image: Image.Image, path: Path | str) -> tuple[Image.Image, Image.Image | None, str] | None:
    """What browsers show of a picture that is cut or damaged; None if no pixel of it can be decoded.

    It is decoded twice with different values in place of what is missing, so that the pixels that differ are those.

    Returns:
        The picture, a mask "1" that is white where it is missing, and what is missing in words. Where a damaged file
        has all its pixels, as a JPEG that lacks only its end marker has, there is no mask and nothing is missing.
    """
    kind, data = image.format, Path(path).read_bytes()
    with _set(ImageFile, "LOAD_TRUNCATED_IMAGES", True):
        if kind in ("JPEG", "MPO"):
            scans = _scans(data)
            if not scans.begun:
                return None
            data = data[: scans.end].rstrip(b"\xff")
            both = [_decoded(data + filling * 1024 + b"\xff\xd9", "JPEG") for filling in (b"\0", b"\x55")]
        elif kind == "WEBP" and (whole := _whole_frames(data)):
            return _decoded(whole, kind), None, f"the file has {len(data):,} of {_webp_bytes(data):,} bytes"
        elif kind == "WEBP":
            both = []
            for filled in _filled_webp(path):
                with suppress(OSError):
                    both.append(_decoded(filled, kind))
                if len(both) == 2:
                    break
            if len(both) < 2:
                return None
        elif kind in ("PNG", "GIF", "BMP", "TIFF", "PPM", "TGA", "PCX"):
            both = [_decoded(_opaque_gif(data), kind, over=value) for value in (0, 255)]
        else:
            return None
        first, second = (np.asarray(each).reshape(*each.size[::-1], -1) for each in both)
        missing = (first != second).any(axis=2)
        if kind in ("JPEG", "MPO", "WEBP"):  # the first pixel that differs begins the filling, and all after it is that
            missing |= np.logical_or.accumulate(missing.any(axis=1))[:, None]
        height = len(missing)
        rows = height - int(missing.any(axis=1).sum())
        shown = _decoded(data, kind) if kind == "GIF" else both[0]
        if image.info.get("progressive") and (scans.exact < scans.coefficients or missing.any()):
            said = f"{scans.exact} of {scans.coefficients} coefficients can be read exactly"
            return _decoded(data + b"\xff\xd9", "JPEG"), None, f"{said}, the last pass up to row {rows} of {height}"
        if not missing.any():
            return shown, None, ""
    if missing.all():
        return None
    return shown, Image.fromarray(missing), f"{rows} of {height} rows can be read"


class _Scans(NamedTuple):
    """Of a JPEG: where its last whole segment ends, in bytes; how many scans begin before; of the 64 coefficients of
    each component, how many have a scan with all their bits, and how many there are.
    """

    end: int
    begun: int
    exact: int
    coefficients: int


def _scans(data: bytes) -> _Scans:
    exact, count, components, place = set[tuple[int, int]](), 0, 1, 2
    while place + 1 < len(data):
        if data[place] != 0xFF or data[place + 1] in (0, 0xFF, *range(0xD0, 0xD8)):
            place += 1  # compressed data
            continue
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if place + max(4, 2 + length) > len(data):
            return _Scans(place, count, len(exact), 64 * components)
        if marker in (0xC0, 0xC1, 0xC2) and length >= 8:  # start of frame
            components = segment[5]
        elif marker == 0xDA and length >= 6:  # start of scan
            count += 1
            if not segment[-1] & 15:
                bands = range(segment[-3], min(63, segment[-2]) + 1)
                exact |= {(component, band) for component in segment[1:-3:2] for band in bands}
        place += 2 + length
    return _Scans(len(data), count, len(exact), 64 * components)


def _filled(picture: Image.Image, missing: Image.Image) -> Image.Image:
    """White for what is missing; between pixels that are there, as in an interlaced picture, the one before."""
    pixels, holes = np.array(picture), np.asarray(missing)
    for axis, index in ((1, np.arange(picture.width)), (0, np.arange(picture.height)[:, None])):
        before = np.maximum.accumulate(np.where(holes, -1, index), axis)
        after = np.flip(np.logical_or.accumulate(np.flip(~holes, axis), axis), axis)
        between = holes & (before >= 0) & after
        pixels = np.take_along_axis(pixels, np.where(between, before, index)[..., None], axis)
        holes = holes & ~between
    pixels[holes] = 255
    return Image.fromarray(pixels)


def _opaque_gif(data: bytes) -> bytes:
    """A GIF whose first frame has no transparent colour, with which Pillow would cover what is missing."""
    place = data.find(b"\x21\xf9\x04")
    if not data.startswith(b"GIF8") or not 0 <= place < len(data) - 4:
        return data
    return data[: place + 3] + bytes([data[place + 3] & 0xFE]) + data[place + 4 :]


def _filled_webp(path: Path | str) -> Iterator[bytes]:
    """A WebP that is shorter than it declares, filled up in several ways, since its decoder takes whole files only.

    It always takes zeros, which are the first, and some of the others. Of an animation its whole frames alone come, and
    nothing for any other file, and for one that lacks nearly everything.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        size, found = _webp_bytes(head), os.fstat(file.fileno()).st_size
        if head[:4] + head[8:] == b"RIFFWEBP" and found < size <= MOST_FILLING * found:
            data = head + file.read()
            if whole := _whole_frames(data):
                yield whole
                return
            yield data.ljust(size, b"\0")
            yield data.ljust(size, b"\x55")
            yield from ((data + bytes([byte])).ljust(size, b"\0") for byte in range(1, 256, 18))


def _webp_bytes(data: bytes) -> int:
    """How long a WebP declares to be."""
    return int.from_bytes(data[4:8], "little") + 8


def _whole_frames(data: bytes) -> bytes:
    """A WebP that was cut, up to the end of its last whole frame of animation; empty if it has none."""
    place = end = 12
    while end <= len(data) - 8:
        size = int.from_bytes(data[end + 4 : end + 8], "little")
        name, end = data[end : end + 4], end + 8 + size + size % 2
        if name == b"ANMF" and end <= len(data):
            place = end
    return b"RIFF" + (place - 8).to_bytes(4, "little") + data[8:place] if place > 12 else b""


def _decoded(data: bytes, kind: str, *, over: int | None = None) -> Image.Image:
    """A picture from memory; where `over` is given, pixels that are not in the file have this value in all bands."""
    image = Image.open(io.BytesIO(data), formats=[kind])
    if over is not None:
        bands = len(image.getbands())
        image.im = Image.new(image.mode, image.size, over if bands == 1 else (over,) * bands).im
    image.load()
    return image


def _turned(image: Image.Image, source: Image.Image) -> Image.Image:
    """The picture upright, by the EXIF orientation of `source`."""
    method = UPRIGHT.get(_exif(source, ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _exif(image: Image.Image, tag: ExifTags.Base, otherwise: Any) -> Any:
    """An entry of EXIF, or another value where there is none or EXIF is damaged."""
    try:
        return image.getexif().get(tag, otherwise)
    except Exception:  # noqa: BLE001 - Pillow's parser raises nearly every kind of exception on damaged data
        return otherwise


def _in_bt709(image: Image.Image, path: Path | str) -> tuple[Image.Image, str]:
    """The picture in the primaries of BT.709 if its file names others or HDR by code points, and which HDR that was."""
    transfer, primaries = _code_points(image, path)
    mapping = colours_to_map(transfer, primaries)
    if mapping is None or image.mode not in ("RGB", "RGBA") or (not mapping[0] and image.info.get("icc_profile")):
        return image, ""
    if image.format == "HEIF":  # the plug-in has only the upper 8 bits, too few for the dark half of PQ
        deep = np.asarray(pillow_heif.open_heif(path, convert_hdr_to_8bit=False))
        deep = deep if deep.dtype == np.uint16 else deep.astype(np.uint16) * 257
    else:
        deep = np.asarray(image).astype(np.uint16) * 257
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(deep[..., :3]), format="rgb48le")
    mapped = Image.fromarray(ToBT709(*image.size, *mapping)(frame))
    if image.mode == "RGBA":
        mapped.putalpha(image.getchannel("A"))
    return mapped, mapping[0]


def _code_points(image: Image.Image, path: Path | str) -> tuple[int, int]:
    """Transfer function and primaries that the file names by code points of ITU-T H.273; 2, unspecified, if none."""
    if image.format == "HEIF":
        named = image.info.get("nclx_profile") or {}
        return named.get("transfer_characteristics", 2), named.get("color_primaries", 2)
    with open(path, "rb") as file:
        head = file.read(CODE_POINTS_WITHIN)
    if image.format == "AVIF" and (place := head.find(b"colrnclx")) >= 0:
        primaries, transfer = struct.unpack_from(">HH", head.ljust(place + 12, b"\2"), place + 8)
        return transfer, primaries
    if image.format == "PNG" and (place := head.find(b"\0\0\0\4cICP")) >= 0:
        return head.ljust(place + 10, b"\2")[place + 9], head.ljust(place + 10, b"\2")[place + 8]
    return 2, 2


class _NotAPicture(MediaError):
    pass


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    with _pillow(path), _open(path) as image:
        yield image


def _open(path: Path | str) -> Image.Image:
    # The header alone is read leniently: a wrong checksum in a chunk that the picture does not need, a text that is too
    # long. For the pixels that setting would mean that a picture which was cut is filled up with black
    settings = read_settings()
    with _set(ImageFile, "LOAD_TRUNCATED_IMAGES", True):
        source = existing_file(path, settings)
        filled = next(_filled_webp(source), None)
        formats = [*FORMATS, *filter(None, [FORMATS_BY_NAME.get(source.suffix.lower())])]
        image = Image.open(io.BytesIO(filled) if filled else source, formats=formats)
    # by its name Pillow would map the file into memory, where it mixes up the rows of a TIFF that is to be turned, and
    # where the process dies if the file is cut meanwhile
    image.filename = ""
    width, height = image.size
    if width * height > settings.max_picture_pixels:
        image.close()
        raise MediaError(
            f"{path} has {width}×{height} pixels and the limit is {settings.max_picture_pixels:,}. "
            "Scale it down, or raise WANAVATAR_MAX_PICTURE_PIXELS."
        )
    return image


@contextmanager
def _pillow(path: Path | str) -> Iterator[None]:
    """Reading a picture by Pillow, one at a time: its limits are replaced by our own, which have messages of our own.

    Raises:
        MediaError: it is no picture, damaged, or may not be read.
    """
    try:
        with (
            _pillow_settings,
            _set(Image, "MAX_IMAGE_PIXELS", None),
            _set(PngImagePlugin, "MAX_TEXT_CHUNK", MAX_PNG_CHUNK),
        ):
            yield
    except LabError:
        raise
    except UnidentifiedImageError as error:
        raise _NotAPicture(
            f"{path} is not a picture that can be read. Give a PNG, JPEG, WebP, HEIC or TIFF file."
        ) from error
    except Exception as error:
        # of the system, and not of a decoder; EINVAL is a damaged place in the file that a decoder has sought
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise MediaError(f"{path} cannot be read: {error.strerror}. Check its permissions and its disk.") from error
        # Pillow's decoders raise nearly every kind of exception on damaged data; each of them means just that
        raise MediaError(f"{path} is damaged or cut short: {error}. Copy, download or export it again.") from error


@contextmanager
def _set(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _to_srgb(image: Image.Image, path: Path | str) -> Image.Image:
    embedded = image.info.get("icc_profile")
    if not embedded or image.mode not in COLOUR_SPACES:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
    except (OSError, ImageCms.PyCMSError) as error:
        _log.warning("The colour profile of %s is damaged (%s); its colours are taken for sRGB.", path, error)
        return image
    if profile.profile.xcolor_space != COLOUR_SPACES[image.mode]:
        return image  # a profile for another kind of picture, left behind by an editor, says nothing about this one
    if image.mode in ("RGBA", "LA"):
        alpha = image.getchannel("A")
        opaque = image.convert(image.mode[:-1])
        opaque.info["icc_profile"] = embedded
        opaque = _to_srgb(opaque, path).convert("RGB")
        opaque.putalpha(alpha)
        return opaque
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # it is None only when converting in place
    return converted


def _rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode in SIXTEEN_BIT or image.mode == "I":
        samples = np.asarray(image).astype(np.int64)
        if samples.min() < 0 or samples.max() > 65535:
            raise MediaError(
                f"{path} has samples of more than 16 bits, whose white is unknown. Save it with 8 or 16 bits."
            )
        return Image.fromarray(((samples + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise MediaError(f"{path} has floating-point samples, whose white is unknown. Save it with 8 or 16 bits.")
    if _has_transparency(image):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _metadata_options(kind: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    if not metadata:
        return {}
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        for name, text in metadata.items():
            texts.add_itxt(name, text)
        return {"pnginfo": texts}
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = json.dumps(dict(metadata))
    return {"exif": exif.tobytes()}

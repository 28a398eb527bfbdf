"""Read and write pictures through Pillow."""

import io
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from wanavatar_lab.errors import MediaError
from wanavatar_lab.files import write_bytes
from wanavatar_lab.media.container import existing_file
from wanavatar_lab.settings import read_settings

# What people have; others, such as EPS, which starts an interpreter, are refused.
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF"]
pillow_heif.register_heif_opener()
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
# in the arguments of Pillow's decoders: 16 bits a channel, of which it keeps 8 unless the picture is grey
SIXTEEN_BIT_DECODERS = (";16", "65535")
COLOUR_SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "L": "GRAY", "LA": "GRAY", "CMYK": "CMYK"}
OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95, "method": 4},
}
# bytes that a PNG's colour profile or one of its texts may unpack to, where Pillow allows 1 MB. Profiles of printers
# have up to 10 MB, and image generators write whole workflows as text; all texts together are held to 64 MB by Pillow.
MAX_PNG_CHUNK = 64 << 20
# Pillow keeps its limits and its strictness in module variables, which one reader at a time may change
_pillow_settings = threading.Lock()
# what each EXIF orientation asks of rows and columns, to show the picture upright
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda levels: np.rot90(levels, 2),
    4: np.flipud,
    5: lambda levels: levels.swapaxes(0, 1),
    6: lambda levels: np.rot90(levels, -1),
    7: lambda levels: np.rot90(levels, 2).swapaxes(0, 1),
    8: np.rot90,
}
_PNG_HEADER = 33  # bytes of a PNG's signature and its first chunk, after which others may be put


class Samples(NamedTuple):
    """An upright picture with all that a file holds of it: levels `[H, W, C]`, with C 1 for grey, 3 RGB, 4 RGBA.

    uint8 is in sRGB; uint16 in the space of `profile`, an ICC profile, or else in sRGB.
    """

    levels: NDArray[Any]
    profile: bytes | None = None


def read_picture(path: Path | str) -> Image.Image:
    """Read a picture as upright 8-bit RGB.

    EXIF orientation is applied; transparency is laid over white; 16 bits are scaled to 8; an embedded colour
    profile that fits the picture is converted to sRGB (CMYK without one by the plain formula); of an animation the
    first frame is taken.

    Raises:
        MediaError: no such file, not a picture, pixels that are damaged or missing, or larger than the settings allow
            (`max_picture_pixels`, `max_media_bytes`). What is damaged beside the pixels, such as a comment, is ignored.
    """
    with _opened(path) as image:
        return _rgb(_to_srgb(ImageOps.exif_transpose(_loaded(image, path))), path)


def read_samples(path: Path | str) -> Samples:
    """Read a picture as `read_picture` does, and keep its transparency, its 16 bits (PNG, TIFF, PPM), and grey as grey.

    Raises:
        MediaError: as `read_picture`.
    """
    with _opened(path) as image:
        tiles = getattr(image, "tile", [])
        decoder = str(tiles[0].args) if tiles else ""
        image = _loaded(image, path)
        if image.mode != "CMYK" and any(sign in decoder for sign in SIXTEEN_BIT_DECODERS):
            return _sixteen_bits(image, path)
        image = _to_srgb(ImageOps.exif_transpose(image))
        if _has_transparency(image):
            image = image.convert("RGBA")
        elif image.mode != "L":
            image = _rgb(image, path)
        return Samples(np.asarray(image).reshape(image.height, image.width, -1))


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


def is_animation(path: Path | str) -> bool:
    """Whether a picture has more than one frame; errors as of `is_picture`, and for what is no picture."""
    with _opened(path) as image:
        return int(getattr(image, "n_frames", 1)) > 1


def picture_texts(path: Path | str) -> tuple[dict[str, str], str]:
    """The text chunks of a PNG by name, and the description of any picture; what is damaged of them is left out.

    Raises:
        MediaError: as `is_picture`, or not a picture.
    """
    with _opened(path) as image:
        texts = {str(name): str(text) for name, text in getattr(image, "text", {}).items()}
        return texts, str(image.getexif().get(ExifTags.Base.ImageDescription, ""))


def write_picture(path: Path | str, image: Image.Image | Samples, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write PNG, JPEG or WebP, chosen by the suffix; whole or not at all. The same picture gives the same bytes.

    Args:
        image: mode RGB or L, or RGBA where the format has transparency (not JPEG); 16 bits in PNG only.
        metadata: in PNG one text chunk per entry; in JPEG and WebP one JSON object in EXIF's ImageDescription.

    Raises:
        MediaError: another suffix or mode, a missing folder, or metadata that does not fit (64 KB in JPEG).
        DiskFull: there is no room.
    """
    path = Path(path)
    options = OPTIONS.get(path.suffix.lower())
    if options is None:
        raise MediaError(f"{path} does not end in {', '.join(OPTIONS)}. Choose one of these.")
    kind = options["format"]
    if isinstance(image, Samples) and image.levels.dtype == np.uint16:
        if kind != "PNG":
            raise MediaError(f"The picture for {path} has 16 bits a channel; {kind} takes 8. Choose .png.")
        data = _sixteen_bit_png(image, metadata or {})
    else:
        if isinstance(image, Samples):
            levels = image.levels
            clean = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
        else:
            clean = image.copy()
            clean.info = {}  # Pillow would write what the source file said: its profile, its comment, its time
        modes = ("RGB", "L") if kind == "JPEG" else ("RGB", "L", "RGBA")
        if clean.mode not in modes:
            raise MediaError(f"The picture for {path} has mode {clean.mode}; {kind} takes {', '.join(modes)}.")
        memory = io.BytesIO()
        try:
            clean.save(memory, **options, **_metadata_options(kind, metadata or {}))
        except (OSError, ValueError) as error:
            raise MediaError(f"{path} cannot be written as {kind}: {error}.") from error
        data = memory.getvalue()
    try:
        # written from memory, because Pillow's own writing loses the reason when the disk is full
        write_bytes(path, data)
    except OSError as error:
        raise MediaError(
            f"{path} cannot be written: {error.strerror}. Check the folder and its permissions."
        ) from error


def _loaded(image: Image.Image, path: Path | str) -> Image.Image:
    try:
        image.load()
    except OSError:
        completed = _with_end_marker(image, path)
        if completed is None:
            raise
        return completed
    return image


def _with_end_marker(image: Image.Image, path: Path | str) -> Image.Image | None:
    """A JPEG that has all its pixels and lacks its end, as browsers show it; None if it lacks pixels too.

    What follows the last pixel is ignored. Where pixels are missing it is taken for them, so two fillings differ.
    """
    if image.format != "JPEG":
        return None
    data = Path(path).read_bytes().rstrip(b"\xff")
    first, second = (
        Image.open(io.BytesIO(data + filling * 1024 + b"\xff\xd9"), formats=["JPEG"]) for filling in (b"\0", b"\x55")
    )
    return first if first.tobytes() == second.tobytes() else None


class _NotAPicture(MediaError):
    pass


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    settings = read_settings()
    try:
        with _pillow_settings, ExitStack() as stack:
            # Pillow's limits are replaced by our own, which come with our own messages. The header alone is read
            # leniently: a wrong checksum in a chunk that the picture does not need, a text that is too long. For the
            # pixels that setting would mean that a picture which was cut is filled up with black
            stack.enter_context(_set(Image, "MAX_IMAGE_PIXELS", None))
            stack.enter_context(_set(PngImagePlugin, "MAX_TEXT_CHUNK", MAX_PNG_CHUNK))
            with _set(ImageFile, "LOAD_TRUNCATED_IMAGES", True):
                image = stack.enter_context(Image.open(existing_file(path, settings), formats=FORMATS))
            width, height = image.size
            if width * height > settings.max_picture_pixels:
                raise MediaError(
                    f"{path} has {width}×{height} pixels and the limit is {settings.max_picture_pixels:,}. "
                    "Scale it down, or raise WANAVATAR_MAX_PICTURE_PIXELS."
                )
            yield image
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise _NotAPicture(
            f"{path} is not a picture that can be read. Give a PNG, JPEG, WebP, HEIC or TIFF file."
        ) from error
    except Exception as error:
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


def _to_srgb(image: Image.Image) -> Image.Image:
    embedded = image.info.get("icc_profile")
    if not embedded or image.mode not in COLOUR_SPACES:
        return image
    profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
    if profile.profile.xcolor_space != COLOUR_SPACES[image.mode]:
        return image  # a profile for another kind of picture, left behind by an editor, says nothing about this one
    if image.mode in ("RGBA", "LA"):
        alpha = image.getchannel("A")
        opaque = image.convert(image.mode[:-1])
        opaque.info["icc_profile"] = embedded
        opaque = _to_srgb(opaque).convert("RGB")
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


def _sixteen_bits(image: Image.Image, path: Path | str) -> Samples:
    """The samples of a file that `image`, its 8 bits, shows to be whole. OpenCV reads it, as Real-ESRGAN's program."""
    levels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None or levels.dtype != np.uint16 or levels.shape[:2] != image.size[::-1]:
        raise MediaError(f"{path} has 16 bits a channel in a form that cannot be read. Save it as PNG.")
    levels = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1), np.asarray)(
        _swapped(np.atleast_3d(levels))
    )
    profile = image.info.get("icc_profile")
    kind = "GRAY" if levels.shape[2] == 1 else "RGB "
    if profile and ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space != kind:
        profile = None  # as `_to_srgb`
    return Samples(np.ascontiguousarray(levels), profile)


def _sixteen_bit_png(picture: Samples, metadata: Mapping[str, str]) -> bytes:
    """OpenCV's PNG, with the profile and one text chunk per entry."""
    data = cv2.imencode(".png", _swapped(picture.levels))[1].tobytes()
    chunks = io.BytesIO()
    if picture.profile:
        PngImagePlugin.putchunk(chunks, b"iCCP", b"ICC Profile\0\0", zlib.compress(picture.profile))
    for name, text in metadata.items():
        PngImagePlugin.putchunk(chunks, b"iTXt", name.encode("latin-1"), b"\0\0\0\0\0", text.encode())
    return data[:_PNG_HEADER] + chunks.getvalue() + data[_PNG_HEADER:]


def _swapped(levels: NDArray[Any]) -> NDArray[Any]:
    """RGB as BGR, OpenCV's order, or back; grey and transparency stay."""
    return levels if levels.shape[2] == 1 else levels[:, :, [2, 1, 0, 3][: levels.shape[2]]]


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

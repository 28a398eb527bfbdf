"""Read and write pictures through Pillow."""

import io
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from wanavatar_lab.errors import MediaError
from wanavatar_lab.files import write_bytes
from wanavatar_lab.media.container import existing_file
from wanavatar_lab.settings import read_settings

# What people have; others, such as EPS, which starts an interpreter, are refused.
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF"]
pillow_heif.register_heif_opener()
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
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
        try:
            image.load()
        except OSError:
            completed = _with_end_marker(image, path)
            if completed is None:
                raise
            image = completed
        return _rgb(_to_srgb(ImageOps.exif_transpose(image)), path)


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


def picture_texts(path: Path | str) -> tuple[dict[str, str], str]:
    """The text chunks of a PNG by name, and the description of any picture; what is damaged of them is left out.

    Raises:
        MediaError: as `is_picture`, or not a picture.
    """
    with _opened(path) as image:
        texts = {str(name): str(text) for name, text in getattr(image, "text", {}).items()}
        return texts, str(image.getexif().get(ExifTags.Base.ImageDescription, ""))


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
    try:
        # written from memory, because Pillow's own writing loses the reason when the disk is full
        write_bytes(path, memory.getvalue())
    except OSError as error:
        raise MediaError(
            f"{path} cannot be written: {error.strerror}. Check the folder and its permissions."
        ) from error


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
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


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

"""Pictures with all that their files hold: transparency, 16 bits a channel, and grey as grey.

Pillow has no mode for 16-bit colour. OpenCV reads and writes it, as for Real-ESRGAN's own program.
"""

import io
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.pictures import (
    read_kept_picture,
    sixteen_bits,
    write_bytes_of_picture,
    write_picture,
)

# what each EXIF orientation asks of rows and columns, to show the picture upright
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda levels: np.rot90(levels, 2),
    4: np.flipud,
    5: lambda levels: levels.swapaxes(0, 1),
    6: lambda levels: np.rot90(levels, -1),
    7: lambda levels: np.rot90(levels, 2).swapaxes(0, 1),
    8: np.rot90,
}
PNG_HEADER = 33  # bytes of a PNG's signature and its first chunk, after which others may be put


class Samples(NamedTuple):
    """An upright picture: levels `[H, W, C]` in uint8 or uint16, with C 1 for grey, 3 for RGB, 4 for RGBA.

    uint8 is in sRGB; uint16 in the space of `profile`, an ICC profile, or else in sRGB.
    """

    levels: NDArray[Any]
    profile: bytes | None = None


def read_samples(path: Path | str) -> Samples:
    """Read a picture as `read_picture` does, but with its transparency, its 16 bits (PNG, TIFF, PPM), and grey as grey.

    Raises:
        MediaError: as `read_picture`.
    """
    if facts := sixteen_bits(path):
        orientation, profile = facts
        levels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if levels is not None and levels.dtype == np.uint16:
            upright = UPRIGHT.get(orientation, np.asarray)(_swapped(np.atleast_3d(levels)))
            return Samples(np.ascontiguousarray(upright), profile)
    picture = read_kept_picture(path)
    return Samples(np.asarray(picture).reshape(picture.height, picture.width, -1))


def write_samples(path: Path | str, picture: Samples, *, metadata: Mapping[str, str] | None = None) -> None:
    """As `write_picture`, in PNG of as many bits.

    Raises:
        MediaError: another suffix, or a missing folder.
        DiskFull: there is no room.
    """
    levels = picture.levels
    if Path(path).suffix.lower() != ".png":
        raise MediaError(f"{path} does not end in .png. Choose that.")
    if levels.dtype == np.uint8:
        write_picture(path, Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels), metadata=metadata)
        return
    chunks = io.BytesIO()
    if picture.profile:
        PngImagePlugin.putchunk(chunks, b"iCCP", b"ICC Profile\0\0", zlib.compress(picture.profile))
    for name, text in (metadata or {}).items():
        PngImagePlugin.putchunk(chunks, b"iTXt", name.encode("latin-1"), b"\0\0\0\0\0", text.encode())
    data = cv2.imencode(".png", _swapped(levels))[1].tobytes()
    write_bytes_of_picture(Path(path), data[:PNG_HEADER] + chunks.getvalue() + data[PNG_HEADER:])


def _swapped(levels: NDArray[Any]) -> NDArray[Any]:
    """RGB as BGR, OpenCV's order, or back; grey and transparency stay."""
    return levels if levels.shape[2] == 1 else levels[:, :, [2, 1, 0, 3][: levels.shape[2]]]

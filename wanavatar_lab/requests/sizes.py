"""Width and height of pictures and videos: how they are written, and how `auto` chooses them.

A size is always width × height. `720x1280` is a portrait video, `1280x720` a landscape one.
"""

import math
import re
from fractions import Fraction

from wanavatar_lab.profiles import SIZE_MULTIPLE, Profile
from wanavatar_lab.requests.request import refused

SMALLEST_SIDE = 64
LARGEST_SIDE = 2048
NAMED_AREAS = {"480p": 480 * 832, "720p": 720 * 1280}
RESOLUTION_ALLOWED = (
    f"'auto', '480p', '720p', or width x height such as '720x1280', each from {SMALLEST_SIDE} to {LARGEST_SIDE} "
    f"in multiples of {SIZE_MULTIPLE}"
)

_WRITTEN = re.compile(r"\s*([0-9]{1,6})\s*[xX×*]\s*([0-9]{1,6})\s*")


def read_resolution(text: str) -> str:
    """A resolution in its one spelling: `auto`, `480p`, `720p` or `WIDTHxHEIGHT`.

    Raises:
        PydanticCustomError: it is none of these, or a side is not allowed; the text has the nearest allowed size.
    """
    word = text.strip().lower()
    if word == "auto" or word in NAMED_AREAS:
        return word
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise refused(f"must be {RESOLUTION_ALLOWED}")
    width, height = int(written[1]), int(written[2])
    nearest = [_clamped((side + SIZE_MULTIPLE // 2) // SIZE_MULTIPLE * SIZE_MULTIPLE) for side in (width, height)]
    if nearest != [width, height]:
        raise refused(f"must be {RESOLUTION_ALLOWED}; the nearest is '{nearest[0]}x{nearest[1]}'")
    return f"{width}x{height}"


def video_size(resolution: str, picture: tuple[int, int], profile: Profile, stage: str) -> tuple[int, int]:
    """Width and height of a video in pixels.

    Args:
        resolution: as `read_resolution` gives it.
        picture: width and height of the reference picture, whose shape `auto`, `480p` and `720p` keep.
        profile: has the area of `auto`, and the multiple of the sides.
        stage: which makes the video.
    """
    if resolution == "auto" or resolution in NAMED_AREAS:
        multiple = profile.size_multiples.get(stage, SIZE_MULTIPLE)
        return fit_into(NAMED_AREAS.get(resolution, profile.auto_area), picture, multiple)
    width, height = resolution.split("x")
    return int(width), int(height)


def fit_into(area: int, picture: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The size of a frame of at most `area` pixels that holds the picture at the largest scale.

    The picture's sides are scaled and then rounded up to multiples, as in `get_size_less_than_area` of
    wan/speech2video.py (Wan2.2, commit 42bf4cf); that tries a hundred scales, none of which enlarges a picture.

    Args:
        area: pixels.
        picture: width and height of the picture, whatever its size.
        multiple: of both sides.

    Returns:
        Width and height. A picture so narrow that a side would leave the allowed range gets that range's end.
    """
    picture_width, picture_height = picture
    fitting: list[tuple[Fraction, int, int]] = []
    for widest in range(SMALLEST_SIDE, min(LARGEST_SIDE, area // SMALLEST_SIDE) + 1, multiple):
        highest = min(area // widest // multiple * multiple, LARGEST_SIDE)
        scale = min(Fraction(widest, picture_width), Fraction(highest, picture_height))
        width, height = (math.ceil(side * scale / multiple) * multiple for side in picture)
        fitting.append((scale, max(width, SMALLEST_SIDE), max(height, SMALLEST_SIDE)))
    _, width, height = max(fitting)
    return width, height


def cut_off(picture: tuple[int, int], size: tuple[int, int]) -> float:
    """The share of a picture, 0 to 1, that is outside a frame which it covers, both given as width and height."""
    stretch = picture[0] * size[1] / (picture[1] * size[0])
    return 1 - min(stretch, 1 / stretch)


def _clamped(side: int) -> int:
    return min(max(side, SMALLEST_SIDE), LARGEST_SIDE)

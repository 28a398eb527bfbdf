"""Width and height of pictures and videos: how they are written, and how `auto` chooses them.

A size is always width × height. `720x1280` is a portrait video, `1280x720` a landscape one.
"""

import itertools
import math
import re

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


def video_size(resolution: str, picture: tuple[int, int], profile: Profile) -> tuple[int, int]:
    """Width and height of a video in pixels.

    Args:
        resolution: as `read_resolution` gives it.
        picture: width and height of the reference picture, whose shape `auto`, `480p` and `720p` keep.
        profile: has the area of `auto`.
    """
    if resolution == "auto" or resolution in NAMED_AREAS:
        return fit_into(NAMED_AREAS.get(resolution, profile.auto_area), picture)
    width, height = resolution.split("x")
    return int(width), int(height)


def fit_into(area: int, picture: tuple[int, int]) -> tuple[int, int]:
    """The size of at most `area` pixels that is close to the picture's shape and uses most of the area.

    Args:
        area: pixels.
        picture: width and height of the picture, whatever its size.

    Returns:
        Width and height, multiples of `SIZE_MULTIPLE`. A picture so narrow that a side would leave the allowed range
        gets that range's end.
    """
    picture_width, picture_height = picture
    widths = _around(math.isqrt(area * picture_width // picture_height))
    heights = _around(math.isqrt(area * picture_height // picture_width))
    choices = list(itertools.product(widths, heights))
    # none is within the area only for a picture so narrow that its short side was raised to the smallest one
    within = [size for size in choices if size[0] * size[1] <= area] or [min(choices)]

    def cost(size: tuple[int, int]) -> float:
        # an aspect ratio off by 1 % costs as much as 2 % of the area left unused: a wrong shape is seen, a few pixels
        # less are not
        width, height = size
        distortion = abs(math.log(width * picture_height / (height * picture_width)))
        return distortion + 0.5 * math.log(area / (width * height))

    return min(within, key=cost)


def _around(side: int) -> list[int]:
    """The three multiples nearest to `side`, within the allowed range."""
    below = side // SIZE_MULTIPLE * SIZE_MULTIPLE
    return sorted({_clamped(below + offset) for offset in (-SIZE_MULTIPLE, 0, SIZE_MULTIPLE)})


def _clamped(side: int) -> int:
    return min(max(side, SMALLEST_SIDE), LARGEST_SIDE)

"""upscale: a picture at twice its width and height."""

from typing import Annotated, ClassVar

from pydantic import field_validator

from wanavatar_lab.requests.field_spec import Words, spec, translated
from wanavatar_lab.requests.request import Request, refused

SMALLEST_TILE = 32
LARGEST_TILE = 2048
WEIGHTS_SUFFIXES = (".safetensors", ".pth")
_TILE_ALLOWED = f"0, or an integer from {SMALLEST_TILE} to {LARGEST_TILE}"
_WEIGHTS_ALLOWED = f"the path of an x2 RRDBNet file that ends in {' or '.join(WEIGHTS_SUFFIXES)}"


class Upscale(Request):
    """A picture enlarged twofold, with Real-ESRGAN."""

    stage: ClassVar[str] = "upscale"
    labels: ClassVar[Words] = translated("Upscale")
    help: ClassVar[Words] = translated("Make a picture twice as wide and high.")
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"

    image: Annotated[str, spec("Picture", widget="picture")]
    """The picture to enlarge."""
    tile: Annotated[
        int, spec("Tile size", unit="px", group="advanced", ge=0, le=LARGEST_TILE, allowed=_TILE_ALLOWED)
    ] = 512
    """Large pictures are processed in tiles of this size to save memory. 0 processes them whole."""
    weights: Annotated[
        str | None, spec("Weights", widget="weights", group="advanced", allowed=f"{_WEIGHTS_ALLOWED}, or empty")
    ] = None
    """Your own weights for RRDBNet x2 (Real-ESRGAN); empty uses those of the profile."""

    @field_validator("tile")
    @classmethod
    def _large_enough(cls, tile: int) -> int:
        if 0 < tile < SMALLEST_TILE:
            raise refused(f"must be {_TILE_ALLOWED}")
        return tile

    @field_validator("weights")
    @classmethod
    def _weights_file(cls, weights: str | None) -> str | None:
        if weights is not None and not weights.lower().endswith(WEIGHTS_SUFFIXES):
            raise refused(f"must be {_WEIGHTS_ALLOWED}, or empty")
        return weights

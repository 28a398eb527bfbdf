"""upscale: a picture becomes twice as wide and high."""

from typing import Annotated, ClassVar

from pydantic import field_validator

from wanavatar_lab.requests.field_spec import Words, spec, translated
from wanavatar_lab.requests.request import Request, refused

SMALLEST_TILE = 32
LARGEST_TILE = 2048
WEIGHTS_SUFFIXES = (".safetensors", ".pth")


class Upscale(Request):
    """A picture enlarged twofold, with Real-ESRGAN."""

    stage: ClassVar[str] = "upscale"
    labels: ClassVar[Words] = translated("Upscale")
    help: ClassVar[Words] = translated("Make a picture twice as wide and high.")
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"

    image: Annotated[
        str,
        spec(
            widget="picture",
            label="Picture",
            help="The picture to enlarge.",
        ),
    ]
    tile: Annotated[
        int,
        spec(
            widget="int",
            unit="px",
            group="advanced",
            ge=0,
            le=LARGEST_TILE,
            allowed=f"0, or an integer from {SMALLEST_TILE} to {LARGEST_TILE}",
            label="Tile size",
            help="Large pictures are worked on in tiles of this size to save memory. 0 takes them whole.",
        ),
    ] = 512
    weights: Annotated[
        str | None,
        spec(
            widget="weights",
            group="advanced",
            allowed="the path of an x2 RRDBNet file (.safetensors or .pth), or empty",
            label="Weights",
            help="A weights file of your own, of any x2 RRDBNet; empty takes the one of the models above.",
        ),
    ] = None

    @field_validator("tile")
    @classmethod
    def _large_enough(cls, tile: int) -> int:
        if 0 < tile < SMALLEST_TILE:
            raise refused(f"must be 0, or an integer from {SMALLEST_TILE} to {LARGEST_TILE}")
        return tile

    @field_validator("weights")
    @classmethod
    def _weights_file(cls, weights: str | None) -> str | None:
        if weights is not None and not weights.lower().endswith(WEIGHTS_SUFFIXES):
            raise refused("must be the path of an x2 RRDBNet file that ends in .safetensors or .pth")
        return weights

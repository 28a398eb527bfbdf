"""upscale: a picture becomes twice as wide and high."""

from typing import Annotated, ClassVar

from pydantic import field_validator

from wanavatar_lab.requests.field_spec import Words, spec
from wanavatar_lab.requests.request import Request, refused

SMALLEST_TILE = 32
LARGEST_TILE = 2048
WEIGHTS_SUFFIXES = (".safetensors", ".pth")


class Upscale(Request):
    """A picture enlarged twofold, with Real-ESRGAN."""

    stage: ClassVar[str] = "upscale"
    labels: ClassVar[Words] = {"en": "Upscale", "ko": "업스케일", "zh": "图片放大"}
    help: ClassVar[Words] = {
        "en": "Make a picture twice as wide and high.",
        "ko": "이미지의 가로와 세로를 두 배로 키웁니다.",
        "zh": "将图片的宽和高放大到两倍。",
    }
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"

    image: Annotated[
        str,
        spec(
            widget="picture",
            en=("Picture", "The picture to enlarge."),
            ko=("이미지", "확대할 이미지입니다."),
            zh=("图片", "要放大的图片。"),
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
            allowed=f"0, or a whole number from {SMALLEST_TILE} to {LARGEST_TILE}",
            en=("Tile size", "Large pictures are worked on in tiles of this size to save memory. 0 takes them whole."),
            ko=(
                "타일 크기",
                "메모리를 아끼도록 이미지를 이 크기의 조각으로 나누어 처리합니다. 0이면 통째로 처리합니다.",
            ),
            zh=("分块大小", "大图按此大小分块处理以节省显存；0 表示整张处理。"),
        ),
    ] = 512
    weights: Annotated[
        str | None,
        spec(
            widget="weights",
            group="advanced",
            allowed="the path of an x2 RRDBNet file (.safetensors or .pth), or leave it empty",
            en=("Weights", "A weights file of your own, of any x2 RRDBNet; empty takes the one of the models above."),
            ko=("가중치", "x2 RRDBNet이면 어떤 가중치 파일이든 쓸 수 있습니다. 비워 두면 모델 구성의 것을 씁니다."),
            zh=("权重文件", "任意 x2 RRDBNet 的权重文件；留空则使用所选模型规格自带的。"),
        ),
    ] = None

    @field_validator("tile")
    @classmethod
    def _large_enough(cls, tile: int) -> int:
        if 0 < tile < SMALLEST_TILE:
            raise refused(f"give 0, or a whole number from {SMALLEST_TILE} to {LARGEST_TILE}")
        return tile

    @field_validator("weights")
    @classmethod
    def _weights_file(cls, weights: str | None) -> str | None:
        if weights is not None and not weights.lower().endswith(WEIGHTS_SUFFIXES):
            raise refused("give the path of an x2 RRDBNet file that ends in .safetensors or .pth")
        return weights

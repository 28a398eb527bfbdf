"""text_to_image: a sentence becomes a picture."""

from typing import Annotated, ClassVar, Literal

from wanavatar_lab.profiles import SIZE_MULTIPLE
from wanavatar_lab.requests.field_spec import Words, spec
from wanavatar_lab.requests.fields import LONGEST_PROMPT, GuidanceScale, ImageLoras, Seed
from wanavatar_lab.requests.request import Request
from wanavatar_lab.requests.sizes import LARGEST_SIDE, SMALLEST_SIDE


class TextToImage(Request):
    """A picture from a prompt, with FLUX.2-klein; enlarged twofold if `upscale`."""

    stage: ClassVar[str] = "text_to_image"
    labels: ClassVar[Words] = {"en": "Text to image", "ko": "텍스트로 이미지 만들기", "zh": "文生图"}
    help: ClassVar[Words] = {
        "en": "Make a picture from a sentence.",
        "ko": "문장으로 이미지를 만듭니다.",
        "zh": "用一句话生成图片。",
    }
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"

    prompt: Annotated[
        str,
        spec(
            widget="textarea",
            min_length=1,
            max_length=LONGEST_PROMPT,
            allowed=f"text of 1 to {LONGEST_PROMPT} characters",
            en=("Prompt", "What the picture shows. Whole sentences work best."),
            ko=("프롬프트", "이미지에 담길 내용을 적습니다. 완전한 문장일수록 잘 나옵니다."),
            zh=("提示词", "描述画面内容，写成完整的句子效果最好。"),
        ),
    ]
    aspect: Annotated[
        Literal["portrait", "landscape", "square"],
        spec(
            widget="select",
            options={
                "portrait": {"en": "Portrait", "ko": "세로", "zh": "竖版"},
                "landscape": {"en": "Landscape", "ko": "가로", "zh": "横版"},
                "square": {"en": "Square", "ko": "정사각형", "zh": "方形"},
            },
            en=("Aspect", "Shape of the picture. A width and height of your own come before it."),
            ko=("화면 비율", "이미지의 모양입니다. 너비와 높이를 직접 정하면 그 값이 우선합니다."),
            zh=("画面比例", "图片的形状。若自行填写宽度和高度，则以其为准。"),
        ),
    ] = "portrait"
    width: Annotated[
        int | None,
        spec(
            widget="int",
            unit="px",
            group="advanced",
            ge=SMALLEST_SIDE,
            le=LARGEST_SIDE,
            step=SIZE_MULTIPLE,
            en=("Width", "Leave it empty to go by the aspect; otherwise give the height too."),
            ko=("너비", "비워 두면 화면 비율을 따르고, 직접 정할 때는 높이도 함께 적습니다."),
            zh=("宽度", "留空则按画面比例；填写时须同时填写高度。"),
        ),
    ] = None
    height: Annotated[
        int | None,
        spec(
            widget="int",
            unit="px",
            group="advanced",
            ge=SMALLEST_SIDE,
            le=LARGEST_SIDE,
            step=SIZE_MULTIPLE,
            en=("Height", "Leave it empty to go by the aspect; otherwise give the width too."),
            ko=("높이", "비워 두면 화면 비율을 따르고, 직접 정할 때는 너비도 함께 적습니다."),
            zh=("高度", "留空则按画面比例；填写时须同时填写宽度。"),
        ),
    ] = None
    num_inference_steps: Annotated[
        int,
        spec(
            widget="int",
            unit="steps",
            ge=1,
            le=12,
            en=("Steps", "Denoising steps. The model was distilled for 4."),
            ko=("스텝 수", "노이즈를 제거하는 단계 수입니다. 이 모델은 4스텝에 맞춰 증류되었습니다."),
            zh=("步数", "去噪的步数。该模型按 4 步蒸馏而成。"),
        ),
    ] = 4
    guidance_scale: GuidanceScale = 1.0
    seed: Seed = -1
    upscale: Annotated[
        bool,
        spec(
            widget="checkbox",
            en=("Upscale twofold", "Also make the picture twice as wide and high with Real-ESRGAN."),
            ko=("2배 업스케일", "Real-ESRGAN으로 가로세로가 두 배인 이미지도 함께 만듭니다."),
            zh=("放大 2 倍", "另用 Real-ESRGAN 生成宽高各两倍的图片。"),
        ),
    ] = True
    loras: ImageLoras = ()

    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels, before upscaling."""
        if self.width is not None and self.height is not None:
            return self.width, self.height
        return self.the_profile().aspects[self.aspect]

    def _conflicts(self) -> list[tuple[str, str]]:
        if (self.width is None) == (self.height is None):
            return []
        missing, given = ("height", "width") if self.height is None else ("width", "height")
        return [(missing, f"is missing beside {given} {getattr(self, given)}; give both, or neither to use the aspect")]

"""Fields that more than one stage has."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.requests.loras import MOST_LORAS, ImageLoraChoice, LoraChoice, hold_adapters, read_adapters
from wanavatar_lab.requests.sizes import RESOLUTION_ALLOWED, read_resolution

LONGEST_PROMPT = 10_000
LARGEST_SEED = 2**32 - 1

NegativePrompt = Annotated[
    str,
    spec(
        widget="textarea",
        group="advanced",
        max_length=LONGEST_PROMPT,
        en=("Negative prompt", "What should not appear. The default is the text published with the model."),
        ko=("네거티브 프롬프트", "나타나지 않았으면 하는 것을 적습니다. 기본값은 모델과 함께 공개된 문구입니다."),
        zh=("反向提示词", "不希望出现的内容。默认值是随模型一同公布的词句。"),
    ),
]

Resolution = Annotated[
    str,
    AfterValidator(read_resolution),
    spec(
        widget="size",
        unit="px",
        allowed=RESOLUTION_ALLOWED,
        en=(
            "Resolution",
            "Width x height of the video: 480x832 is faster, 720x1280 sharper. auto, 480p and 720p keep the shape "
            "of the picture, at the profile's usual area or at the one named.",
        ),
        ko=(
            "해상도",
            "영상의 너비x높이입니다. 480x832는 더 빠르고 720x1280은 더 선명합니다. auto, 480p, 720p는 이미지의 비율을 "
            "따르며, auto는 모델 구성의 기본 넓이를, 나머지는 이름대로의 넓이를 씁니다.",
        ),
        zh=(
            "分辨率",
            "视频的宽x高：480x832 更快，720x1280 更清晰。auto、480p、720p 沿用图片的比例，"
            "面积分别取模型规格的默认值或所选的值。",
        ),
    ),
]

VideoSteps = Annotated[
    int,
    spec(
        widget="int",
        unit="steps",
        ge=1,
        le=100,
        en=("Steps", "Denoising steps. More steps take longer and usually give finer results."),
        ko=("스텝 수", "노이즈를 제거하는 단계 수입니다. 많을수록 오래 걸리지만 대체로 더 정교합니다."),
        zh=("步数", "去噪的步数。步数越多耗时越长，结果通常也越精细。"),
    ),
]

GuidanceScale = Annotated[
    float,
    spec(
        widget="float",
        ge=1.0,
        le=20.0,
        en=("Guidance scale", "How closely the result follows the prompt. 1 turns guidance off, which is faster."),
        ko=(
            "가이던스 스케일",
            "결과가 프롬프트를 얼마나 충실히 따를지 정합니다. 1이면 가이던스를 쓰지 않아 더 빠릅니다.",
        ),
        zh=("引导强度", "结果贴合提示词的程度。设为 1 时不使用引导，速度更快。"),
    ),
]

Seed = Annotated[
    int,
    spec(
        widget="seed",
        ge=-1,
        le=LARGEST_SEED,
        allowed=f"a whole number from 0 to {LARGEST_SEED}, or -1 to draw one",
        en=("Seed", "The same seed and settings give the same result. -1 draws a new one and notes it with the run."),
        ko=("시드", "시드와 설정이 같으면 결과도 같습니다. -1이면 새로 뽑아 실행 기록에 남깁니다."),
        zh=("随机种子", "种子和设置相同，结果就相同。-1 表示随机抽取，并写入运行记录。"),
    ),
]

Offload = Annotated[
    Literal["auto", "none", "model", "group", "fp8"],
    spec(
        widget="select",
        group="advanced",
        options={
            "auto": {"en": "Automatic", "ko": "자동", "zh": "自动"},
            "none": {"en": "Off: all on the GPU", "ko": "끄기: 모두 GPU에 둠", "zh": "关闭：全部留在 GPU"},
            "model": {"en": "Model by model", "ko": "모델 단위", "zh": "逐个模型"},
            "group": {"en": "Layer by layer", "ko": "레이어 단위", "zh": "逐层"},
            "fp8": {"en": "8-bit weights", "ko": "8비트 가중치", "zh": "8 位权重"},
        },
        en=(
            "Offload",
            "Keeps models in main memory until they are needed, or stores them in 8 bits, a little less exact, so that "
            "less GPU memory is enough.",
        ),
        ko=(
            "오프로드",
            "필요할 때까지 모델을 시스템 메모리에 두거나, 조금 덜 정확한 8비트로 저장해 GPU 메모리를 아낍니다.",
        ),
        zh=("模型卸载", "模型在用到之前留在内存中，或以精度略低的 8 位保存，从而节省显存。"),
    ),
]

VideoLoras = Annotated[
    tuple[LoraChoice, ...],
    BeforeValidator(read_adapters),
    spec(
        widget="loras",
        group="advanced",
        max_length=MOST_LORAS,
        allowed=f"up to {MOST_LORAS} LoRAs, each a name with high_weight and low_weight from 0 to 2",
        en=("LoRAs", "Adapters for a person, a motion or a camera move. What is not named here is not applied."),
        ko=("LoRA 어댑터", "인물, 동작, 카메라 움직임을 위한 어댑터입니다. 여기에 없는 것은 적용되지 않습니다."),
        zh=("LoRA 适配器", "用于人物、动作或运镜的适配器。未列出的不会生效。"),
    ),
    AfterValidator(hold_adapters),
]

ImageLoras = Annotated[
    tuple[ImageLoraChoice, ...],
    BeforeValidator(read_adapters),
    spec(
        widget="loras",
        group="advanced",
        max_length=MOST_LORAS,
        allowed=f"up to {MOST_LORAS} LoRAs, each a name with a weight from 0 to 2",
        en=("LoRAs", "Adapters for a style or a person. What is not named here is not applied."),
        ko=("LoRA 어댑터", "화풍이나 인물을 위한 어댑터입니다. 여기에 없는 것은 적용되지 않습니다."),
        zh=("LoRA 适配器", "用于画风或人物的适配器。未列出的不会生效。"),
    ),
    AfterValidator(hold_adapters),
]

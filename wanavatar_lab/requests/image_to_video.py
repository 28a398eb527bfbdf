"""image_to_video: a picture starts to move."""

import math
from typing import Annotated, ClassVar

from wanavatar_lab.requests.field_spec import Words, spec
from wanavatar_lab.requests.fields import (
    LONGEST_PROMPT,
    GuidanceScale,
    NegativePrompt,
    Offload,
    Resolution,
    Seed,
    VideoLoras,
    VideoSteps,
)
from wanavatar_lab.requests.request import Request
from wanavatar_lab.requests.sizes import video_size

# published with Wan2.2 as the default of its picture and text to video models
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


class ImageToVideo(Request):
    """A clip at 16 frames per second that starts with the picture, with Wan2.2-I2V's two experts."""

    stage: ClassVar[str] = "image_to_video"
    labels: ClassVar[Words] = {"en": "Image to video", "ko": "이미지로 영상 만들기", "zh": "图生视频"}
    help: ClassVar[Words] = {
        "en": "Make a clip that starts with a picture.",
        "ko": "이미지에서 시작하는 영상을 만듭니다.",
        "zh": "让图片动起来，生成一段视频。",
    }
    artifact: ClassVar[str] = "video"
    suffix: ClassVar[str] = ".mp4"

    image: Annotated[
        str,
        spec(
            widget="picture",
            en=("Picture", "The first frame of the clip."),
            ko=("이미지", "영상의 첫 프레임이 될 이미지입니다."),
            zh=("图片", "作为视频第一帧的图片。"),
        ),
    ]
    prompt: Annotated[
        str,
        spec(
            widget="textarea",
            max_length=LONGEST_PROMPT,
            en=("Prompt", "What moves, and how: the person, the camera, the light."),
            ko=("프롬프트", "인물, 카메라, 빛이 어떻게 움직이는지 적습니다."),
            zh=("提示词", "描述什么在动、怎么动：人物、镜头、光线。"),
        ),
    ] = ""
    negative_prompt: NegativePrompt = NEGATIVE_PROMPT
    resolution: Resolution = "auto"
    frame_num: Annotated[
        int,
        spec(
            widget="int",
            unit="frames",
            ge=5,
            le=961,
            step=4,
            en=("Frames", "Length of the clip at 16 frames per second; always 4n + 1, and 81 is 5 seconds."),
            ko=("프레임 수", "초당 16프레임일 때의 영상 길이입니다. 4n + 1만 되며, 81이면 5초입니다."),
            zh=("帧数", "按每秒 16 帧计的视频长度，须为 4n + 1；81 帧为 5 秒。"),
        ),
    ] = 81
    segment_frames: Annotated[
        int,
        spec(
            widget="int",
            unit="frames",
            group="advanced",
            ge=5,
            le=161,
            step=4,
            en=(
                "Frames per segment",
                "A longer clip is made piece by piece, each going on from the last frame of the one before; always "
                "4n + 1. The default is the length that the model was made for.",
            ),
            ko=(
                "구간당 프레임 수",
                "이보다 긴 영상은 구간으로 나누어 만들며, 각 구간은 앞 구간의 마지막 프레임에서 이어집니다. 4n + 1만 "
                "되며, 기본값은 모델이 학습한 길이입니다.",
            ),
            zh=(
                "每段帧数",
                "更长的视频会分段生成，每段从上一段的最后一帧接着往下；须为 4n + 1。默认值是模型训练时的长度。",
            ),
        ),
    ] = 81
    num_inference_steps: VideoSteps = 40
    guidance_scale: GuidanceScale = 5.0
    guidance_scale_2: Annotated[
        float | None,
        spec(
            widget="float",
            group="advanced",
            ge=1.0,
            le=20.0,
            en=("Guidance scale, low noise", "Guidance of the low-noise expert; empty takes the same as above."),
            ko=("저노이즈 가이던스 스케일", "저노이즈 전문가 모델의 가이던스입니다. 비워 두면 위와 같은 값을 씁니다."),
            zh=("低噪声引导强度", "低噪声专家模型的引导强度；留空则与上面相同。"),
        ),
    ] = None
    flow_shift: Annotated[
        float,
        spec(
            widget="float",
            group="advanced",
            ge=0.1,
            le=20.0,
            en=("Flow shift", "A larger value spends more of the steps on high noise, which suits larger pictures."),
            ko=("플로 시프트", "값이 클수록 노이즈가 많은 구간에 스텝을 더 씁니다. 해상도가 높을 때 알맞습니다."),
            zh=("流偏移（shift）", "数值越大，用于高噪声阶段的步数越多，适合较高的分辨率。"),
        ),
    ] = 5.0
    seed: Seed = -1
    offload: Offload = "auto"
    loras: VideoLoras = ()

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the video in pixels, for a picture of this width and height."""
        return video_size(self.resolution, picture, self.the_profile())

    def segments(self) -> tuple[int, ...]:
        """Frames of each segment, 4n + 1: as few as `segment_frames` allows, and about equally long.

        Each but the first begins with the last frame of the one before, which counts once in the clip: a short rest
        would be far from what the model was made for.
        """
        groups, most = (self.frame_num - 1) // 4, (self.segment_frames - 1) // 4
        count = math.ceil(groups / most)
        each, longer = divmod(groups, count)
        return tuple(4 * (each + (index < longer)) + 1 for index in range(count))

    def low_noise_guidance_scale(self) -> float:
        """The guidance of the low-noise expert: `guidance_scale_2`, or the same as the other."""
        return self.guidance_scale if self.guidance_scale_2 is None else self.guidance_scale_2

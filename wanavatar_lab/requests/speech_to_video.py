"""speech_to_video: a picture speaks what a recording says."""

from typing import Annotated, ClassVar, Literal

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
from wanavatar_lab.requests.sizes import NAMED_AREAS, video_size

LONGEST_AUDIO = 86_400.0  # seconds; what is really read is limited by the settings

# published with Wan2.2-S2V as its default
NEGATIVE_PROMPT = (
    "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，字幕，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)


class SpeechToVideo(Request):
    """A talking clip at 16 frames per second from a picture and a voice, with Wan2.2-S2V, of any length."""

    stage: ClassVar[str] = "speech_to_video"
    labels: ClassVar[Words] = {"en": "Speech to video", "ko": "음성으로 말하는 영상 만들기", "zh": "语音生成视频"}
    help: ClassVar[Words] = {
        "en": "Make the person in a picture speak a recording, lips in sync.",
        "ko": "이미지 속 인물이 녹음된 음성을 입 모양에 맞춰 말하게 합니다.",
        "zh": "让图片中的人物按录音说话，口型同步。",
    }
    artifact: ClassVar[str] = "talking"
    suffix: ClassVar[str] = ".mp4"

    image: Annotated[
        str,
        spec(
            widget="picture",
            en=("Picture", "The person who speaks; the face should be seen clearly."),
            ko=("이미지", "말할 인물의 이미지입니다. 얼굴이 또렷하게 보여야 합니다."),
            zh=("图片", "说话人物的图片，面部应清晰可见。"),
        ),
    ]
    audio: Annotated[
        str,
        spec(
            widget="audio",
            en=("Voice", "The recording that is spoken, from any sound or video file."),
            ko=("음성", "인물이 말할 음성입니다. 소리나 영상 파일이면 됩니다."),
            zh=("语音", "人物要说的录音，可以是音频或视频文件。"),
        ),
    ]
    audio_start: Annotated[
        float,
        spec(
            widget="float",
            unit="s",
            group="advanced",
            ge=0.0,
            le=LONGEST_AUDIO,
            en=("Voice from", "Where in the recording the clip starts."),
            ko=("음성 시작", "음성의 어느 지점부터 쓸지 정합니다."),
            zh=("语音起点", "从录音的哪一处开始。"),
        ),
    ] = 0.0
    audio_duration: Annotated[
        float | None,
        spec(
            widget="float",
            unit="s",
            group="advanced",
            gt=0.0,
            le=LONGEST_AUDIO,
            en=("Voice length", "How much of the recording is used; empty goes to its end."),
            ko=("음성 길이", "음성을 얼마나 쓸지 정합니다. 비워 두면 끝까지 씁니다."),
            zh=("语音时长", "使用多长的录音；留空则用到结尾。"),
        ),
    ] = None
    prompt: Annotated[
        str,
        spec(
            widget="textarea",
            max_length=LONGEST_PROMPT,
            en=("Prompt", "How the person speaks and moves, and what the scene is like."),
            ko=("프롬프트", "인물이 어떻게 말하고 움직이는지, 어떤 장면인지 적습니다."),
            zh=("提示词", "描述人物说话的神态动作和所处的场景。"),
        ),
    ] = "A person speaks to the camera with natural expressions."
    negative_prompt: NegativePrompt = NEGATIVE_PROMPT
    resolution: Resolution = "720x1280"
    num_inference_steps: VideoSteps = 25
    frames_per_segment: Annotated[
        int,
        spec(
            widget="int",
            unit="frames",
            group="advanced",
            ge=4,
            le=160,
            step=4,
            en=(
                "Frames per segment",
                "Long speech is made piece by piece, this many frames at a time; 80 is 5 seconds.",
            ),
            ko=("구간당 프레임 수", "긴 음성은 이 프레임 수만큼씩 나누어 이어 만듭니다. 80이면 5초입니다."),
            zh=("每段帧数", "较长的语音会分段生成，每段为此帧数；80 帧为 5 秒。"),
        ),
    ] = 80
    num_segments: Annotated[
        int,
        spec(
            widget="int",
            unit="segments",
            group="advanced",
            ge=0,
            le=1000,
            en=("Segments", "How many pieces to make at most; 0 makes as many as the voice needs."),
            ko=("구간 수", "최대 몇 구간을 만들지 정합니다. 0이면 음성 길이에 맞춥니다."),
            zh=("段数", "最多生成多少段；0 表示按语音长度决定。"),
        ),
    ] = 0
    guidance_scale: GuidanceScale = 5.5
    flow_shift: Annotated[
        float | None,
        spec(
            widget="float",
            group="advanced",
            ge=0.1,
            le=20.0,
            en=(
                "Flow shift",
                "A larger value spends more of the steps on high noise. Empty takes 3 at 480p, 5 at 720p.",
            ),
            ko=(
                "플로 시프트",
                "값이 클수록 노이즈가 많은 구간에 스텝을 더 씁니다. 비워 두면 480p는 3, 720p는 5를 씁니다.",
            ),
            zh=("流偏移（shift）", "数值越大，用于高噪声阶段的步数越多。留空时 480p 取 3，720p 取 5。"),
        ),
    ] = None
    seed: Seed = -1
    pose_video: Annotated[
        str | None,
        spec(
            widget="video",
            group="advanced",
            en=("Pose video", "A video of poses that the person follows; optional."),
            ko=("포즈 영상", "인물이 따라 할 포즈 영상입니다. 없어도 됩니다."),
            zh=("姿态视频", "人物要跟随的姿态视频，可不填。"),
        ),
    ] = None
    start_from_image: Annotated[
        bool,
        spec(
            widget="checkbox",
            group="advanced",
            en=("Start from the picture", "The clip begins with the picture itself, not only with the same person."),
            ko=("이미지에서 시작", "같은 인물로 새 장면을 시작하는 대신 이미지 그대로 영상을 시작합니다."),
            zh=("从图片开始", "视频以该图片本身为开头，而不只是沿用其中的人物。"),
        ),
    ] = False
    step_cache: Annotated[
        Literal["off", "first_block"],
        spec(
            widget="select",
            group="advanced",
            options={
                "off": {"en": "Off", "ko": "끄기", "zh": "关闭"},
                "first_block": {"en": "First block cache", "ko": "첫 블록 캐시", "zh": "首块缓存"},
            },
            en=("Step cache", "Skips the work of steps in which little changes: faster, and a little less exact."),
            ko=("스텝 캐시", "변화가 적은 스텝의 계산을 건너뜁니다. 빨라지는 대신 조금 덜 정확합니다."),
            zh=("步骤缓存", "跳过变化很小的步骤的计算：更快，但略欠精确。"),
        ),
    ] = "off"
    step_cache_threshold: Annotated[
        float,
        spec(
            widget="float",
            group="advanced",
            gt=0.0,
            le=1.0,
            en=("Step cache threshold", "How large a change still counts as little. A larger value skips more steps."),
            ko=("스텝 캐시 임계값", "어느 정도까지를 적은 변화로 볼지 정합니다. 클수록 더 많이 건너뜁니다."),
            zh=("步骤缓存阈值", "多大的变化仍算很小。数值越大，跳过的步骤越多。"),
        ),
    ] = 0.05
    offload: Offload = "auto"
    loras: VideoLoras = ()
    lora_schedule: Annotated[
        Literal["noise", "progress"],
        spec(
            widget="select",
            group="advanced",
            options={
                "noise": {"en": "By noise", "ko": "노이즈 기준", "zh": "按噪声"},
                "progress": {"en": "By progress", "ko": "진행도 기준", "zh": "按进度"},
            },
            en=(
                "LoRA schedule",
                "When the high-noise weight gives way to the low-noise one: at noise level 0.9, as between the two "
                "experts of image to video, or gradually from 40% to 60% of the steps.",
            ),
            ko=(
                "LoRA 전환 방식",
                "고노이즈 가중치에서 저노이즈 가중치로 넘어가는 시점입니다. 이미지로 영상 만들기의 두 전문가 모델처럼 "
                "노이즈 0.9에서 바꾸거나, 스텝의 40~60%에서 서서히 바꿉니다.",
            ),
            zh=(
                "LoRA 切换方式",
                "何时从高噪声权重转为低噪声权重：像图生视频的两个专家模型那样在噪声 0.9 处切换，"
                "或在 40% 到 60% 的步数之间逐渐过渡。",
            ),
        ),
    ] = "noise"

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the video in pixels, for a picture of this width and height."""
        return video_size(self.resolution, picture, self.the_profile())

    def flow_shift_at(self, width: int, height: int) -> float:
        """The flow shift for a video of this size: the one asked for, or 3.0 up to about 480p and 5.0 above."""
        if self.flow_shift is not None:
            return self.flow_shift
        # a tenth more, so that a shape that does not divide evenly still counts as 480p
        return 3.0 if width * height <= 1.1 * NAMED_AREAS["480p"] else 5.0

"""image_to_video: a clip whose first frame is a picture."""

import math
from typing import Annotated, ClassVar

from wanavatar_lab.requests.field_spec import Words, spec, translated
from wanavatar_lab.requests.fields import (
    LONGEST_PROMPT,
    Attention,
    GuidanceScale,
    NegativePrompt,
    Offload,
    Quantization,
    Resolution,
    SampleSolver,
    Seed,
    Speed,
    TeacacheThresh,
    UseTeacache,
    VideoLoras,
    VideoSteps,
    quantization_conflicts,
    step_saving_conflicts,
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
    labels: ClassVar[Words] = translated("Image to video")
    help: ClassVar[Words] = translated("Make a clip that starts with a picture.")
    artifact: ClassVar[str] = "video"
    suffix: ClassVar[str] = ".mp4"

    image: Annotated[str, spec("Picture", widget="picture")]
    """The first frame of the clip."""
    last_image: Annotated[str | None, spec("Last frame", widget="picture", group="advanced")] = None
    """A picture that the clip ends with; optional. The pocket models were not trained for it."""
    prompt: Annotated[str, spec("Prompt", widget="textarea", max_length=LONGEST_PROMPT)] = ""
    """What moves, and how: the person, the camera, the light."""
    negative_prompt: NegativePrompt = NEGATIVE_PROMPT
    resolution: Resolution = "auto"
    frame_num: Annotated[int, spec("Frames", unit="frames", ge=5, le=961, step=4)] = 81
    """Length of the clip at 16 frames per second; always 4n + 1, and 81 is 5 seconds."""
    segment_frames: Annotated[
        int, spec("Frames per segment", unit="frames", group="advanced", ge=5, le=161, step=4)
    ] = 81
    """A longer clip is made in segments of at most this many frames, each starting with the last frame of the one
    before; always 4n + 1. The default is the length that the model was trained for."""
    num_inference_steps: VideoSteps = 40
    speed: Speed = "exact"
    sample_solver: SampleSolver = "unipc"
    guidance_scale: GuidanceScale = 5.0
    guidance_scale_2: Annotated[float | None, spec("Guidance scale, low noise", group="advanced", ge=1.0, le=20.0)] = (
        None
    )
    """Guidance scale of the low-noise expert. Automatic uses that of the high-noise expert."""
    flow_shift: Annotated[float, spec("Flow shift", group="advanced", ge=0.1, le=20.0)] = 5.0
    """A larger value spends more of the steps on high noise, which suits higher resolutions."""
    seed: Seed = -1
    use_teacache: UseTeacache = False
    teacache_thresh: TeacacheThresh = 0.15
    offload: Offload = "auto"
    attention: Attention = "auto"
    quantization: Quantization = "none"
    loras: VideoLoras = ()

    def _conflicts(self) -> list[tuple[str, str]]:
        return step_saving_conflicts(self) + quantization_conflicts(self)

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the video in pixels, for a picture of this width and height."""
        return video_size(self.resolution, picture, self.the_profile(), self.stage)

    def segments(self) -> tuple[int, ...]:
        """Frames of each segment, 4n + 1: as few segments as `segment_frames` allows, and about equally long.

        Each but the first begins with the last frame of the one before, which the clip has once. Equal lengths avoid
        a short last segment, far from the length that the model was trained for.
        """
        groups, most = (self.frame_num - 1) // 4, (self.segment_frames - 1) // 4
        count = math.ceil(groups / most)
        each, longer = divmod(groups, count)
        return tuple(4 * (each + (index < longer)) + 1 for index in range(count))

    def low_noise_guidance_scale(self) -> float:
        """The guidance of the low-noise expert: `guidance_scale_2`, or `guidance_scale` if it is empty."""
        return self.guidance_scale if self.guidance_scale_2 is None else self.guidance_scale_2

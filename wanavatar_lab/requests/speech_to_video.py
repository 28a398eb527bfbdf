"""speech_to_video: a clip in which the person of a picture speaks a recording."""

from typing import Annotated, ClassVar, Literal

from wanavatar_lab.requests.field_spec import Words, spec, translated
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

LONGEST_AUDIO = 86_400.0  # seconds: a day; `settings` limits how much of it is read

_MASK_ALLOWED = "the path of a video or picture, white where the clip is regenerated, or empty"
# both published with Wan2.2-S2V as its defaults (wan/configs/wan_s2v_14B.py, commit 42bf4cf)
FLOW_SHIFT = 3.0
NEGATIVE_PROMPT = (
    "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，字幕，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)


class SpeechToVideo(Request):
    """A talking clip at 16 frames per second from a picture and a voice, with Wan2.2-S2V, of any length."""

    stage: ClassVar[str] = "speech_to_video"
    labels: ClassVar[Words] = translated("Speech to video")
    help: ClassVar[Words] = translated("Make the person in a picture speak a recording, lips in sync.")
    artifact: ClassVar[str] = "talking"
    suffix: ClassVar[str] = ".mp4"

    image: Annotated[str, spec("Picture", widget="picture")]
    """The person who speaks, with the face clearly visible."""
    audio: Annotated[str, spec("Voice", widget="audio")]
    """What the person says: any sound or video file."""
    audio_start: Annotated[float, spec("Voice from", unit="s", group="advanced", ge=0.0, le=LONGEST_AUDIO)] = 0.0
    """Start in the recording."""
    audio_duration: Annotated[
        float | None, spec("Voice length", unit="s", group="advanced", gt=0.0, le=LONGEST_AUDIO)
    ] = None
    """How much of the recording is used. Automatic goes to its end."""
    prompt: Annotated[str, spec("Prompt", widget="textarea", max_length=LONGEST_PROMPT)] = (
        "A person speaks to the camera with natural expressions."
    )
    """How the person speaks and moves, and what the scene is like."""
    negative_prompt: NegativePrompt = NEGATIVE_PROMPT
    resolution: Resolution = "720x1280"
    num_inference_steps: VideoSteps = 25
    frames_per_segment: Annotated[
        int, spec("Frames per segment", unit="frames", group="advanced", ge=4, le=160, step=4)
    ] = 80
    """Long speech is made in segments of this many frames; 80 is 5 seconds."""
    num_segments: Annotated[int, spec("Maximum segments", unit="segments", group="advanced", ge=0, le=1000)] = 0
    """At most this many segments; 0 makes as many as the voice needs."""
    guidance_scale: GuidanceScale = 5.5
    flow_shift: Annotated[float | None, spec("Flow shift", group="advanced", ge=0.1, le=20.0)] = None
    """A larger value spends more of the steps on high noise. Automatic is 3, at every size."""
    seed: Seed = -1
    pose_video: Annotated[str | None, spec("Pose video", widget="video", group="advanced")] = None
    """A video of poses that the person follows; optional."""
    inpaint_video: Annotated[str | None, spec("Video to inpaint", widget="video", group="advanced")] = None
    """Its masked part is regenerated; needs a LoRA that was trained for inpainting."""
    inpaint_mask: Annotated[
        str | None, spec("Inpaint mask", widget="video", group="advanced", allowed=_MASK_ALLOWED)
    ] = None
    """A video or picture: white is regenerated, black is kept."""
    start_from_image: Annotated[bool, spec("Start from the picture", group="advanced")] = False
    """The clip begins with the picture itself; otherwise the picture is only a reference for the person."""
    step_cache: Annotated[
        Literal["off", "first_block"],
        spec("Step cache", group="advanced", options={"off": "Off", "first_block": "First block cache"}),
    ] = "off"
    """Skips the computation of steps in which little changes: faster, slightly less exact."""
    step_cache_threshold: Annotated[float, spec("Step cache threshold", group="advanced", gt=0.0, le=1.0)] = 0.05
    """A step that changes less than this is skipped. A larger value skips more steps."""
    offload: Offload = "auto"
    loras: VideoLoras = ()
    lora_schedule: Annotated[
        Literal["noise", "progress"],
        spec("LoRA schedule", group="advanced", options={"noise": "By noise", "progress": "By progress"}),
    ] = "noise"
    """When LoRAs change to their low-noise weight: at noise level 0.9, as between the two experts of image to video, or
    gradually from 40% to 60% of the steps."""

    def _conflicts(self) -> list[tuple[str, str]]:
        if (self.inpaint_video is None) == (self.inpaint_mask is None):
            return []
        missing, given = ("inpaint_video", "inpaint_mask") if self.inpaint_mask else ("inpaint_mask", "inpaint_video")
        return [(missing, f"is required with {given}; give both, or neither")]

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the video in pixels, for a picture of this width and height."""
        return video_size(self.resolution, picture, self.the_profile())

    def the_flow_shift(self) -> float:
        """The flow shift: the requested one, or the published one."""
        return FLOW_SHIFT if self.flow_shift is None else self.flow_shift

"""speech_to_video: a clip in which the person of a picture speaks a recording."""

import math
import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from wanavatar_lab.errors import MediaError, RequestError
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
from wanavatar_lab.requests.request import Request, must_be
from wanavatar_lab.requests.sizes import video_size

if TYPE_CHECKING:  # clients that only submit do without
    from PIL.Image import Image

LONGEST_AUDIO = 86_400.0  # seconds: a day; `settings` limits how much of it is read
# what the audio encoder takes, and the receptive field of one of its feature frames: 25 ms
AUDIO_RATE, LEAST_SAMPLES = 16_000, 400

_MASK_ALLOWED = "the path of a video or picture, white where the clip is regenerated, or empty"
_BOX_ALLOWED = "left, top, width and height of a part of the picture in pixels, such as 0,0,512,512, or empty"
_BOX = re.compile(r"\s*(\d{1,6})\s*[,;]\s*(\d{1,6})\s*[,;]\s*([1-9]\d{0,5})\s*[,;]\s*([1-9]\d{0,5})\s*")
# both published with Wan2.2-S2V as its defaults (wan/configs/wan_s2v_14B.py, commit 42bf4cf)
FLOW_SHIFT = 3.0
NEGATIVE_PROMPT = (
    "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，字幕，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)


class SpeechToVideo(Request):
    """A talking clip at 16 frames per second from a picture or a video and a voice, with Wan2.2-S2V, of any length."""

    stage: ClassVar[str] = "speech_to_video"
    labels: ClassVar[Words] = translated("Speech to video")
    help: ClassVar[Words] = translated("Make the person in a picture or a video speak a recording, lips in sync.")
    artifact: ClassVar[str] = "talking"
    suffix: ClassVar[str] = ".mp4"

    image: Annotated[str | None, spec("Picture", widget="picture")] = None
    """The person who speaks, with the face clearly visible. With a video too, the picture only says how the face
    looks."""
    video: Annotated[str | None, spec("Video to dub", widget="video")] = None
    """A recording of the person instead of a picture: the face is made anew to the voice, and all else stays as it was
    recorded, at 16 frames per second."""
    length_by: Annotated[
        Literal["voice", "video"],
        spec("Length by", group="advanced", options={"voice": "The voice", "video": "The video"}),
    ] = "voice"
    """Of a dubbed video: as long as the voice, played to and fro where the voice is longer; or as long as the video,
    with silence after a shorter voice."""
    image_box: Annotated[str | None, spec("Part of the picture", group="advanced", allowed=_BOX_ALLOWED)] = None
    """Left, top, width and height in pixels, such as 0,0,512,512; the rest is cut away. Of several people in the
    picture it chooses who speaks; of a video without a picture nothing is cut, and the face in this part speaks."""
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
    resolution: Resolution = "auto"
    num_inference_steps: VideoSteps = 25
    speed: Speed = "exact"
    sample_solver: SampleSolver = "unipc"
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
    pose_start: Annotated[float, spec("Pose from", group="advanced", ge=0.0, le=1.0)] = 0.0
    """The pose video is followed from this share of the steps on; 0 is the first step."""
    pose_end: Annotated[float, spec("Pose until", group="advanced", ge=0.0, le=1.0)] = 1.0
    """The pose video is followed up to this share of the steps; 1 is the last step."""
    inpaint_video: Annotated[str | None, spec("Video to inpaint", widget="video", group="advanced")] = None
    """Its masked part is regenerated; needs a LoRA that was trained for inpainting."""
    inpaint_mask: Annotated[
        str | None, spec("Inpaint mask", widget="video", group="advanced", allowed=_MASK_ALLOWED)
    ] = None
    """A video or picture: white is regenerated, black is kept. With a video to dub it replaces the face that is found,
    such as that of an animal."""
    start_from_image: Annotated[bool, spec("Start from the picture", group="advanced")] = False
    """The clip begins with the picture itself; otherwise the picture is only a reference for the person."""
    lead_in: Annotated[bool, spec("Lead-in", group="advanced")] = True
    """The model hears 0.19 s of silence before the voice, whose frames are cut off. Otherwise the first frame is held
    for so long. Without effect on a clip that starts from the picture; a video is always dubbed with it."""
    use_teacache: UseTeacache = False
    teacache_thresh: TeacacheThresh = 0.15
    step_cache: Annotated[
        Literal["off", "first_block"],
        spec("Step cache", group="advanced", options={"off": "Off", "first_block": "First block cache"}),
    ] = "off"
    """Skips the computation of steps in which little changes: faster, slightly less exact."""
    step_cache_threshold: Annotated[float, spec("Step cache threshold", group="advanced", gt=0.0, le=1.0)] = 0.05
    """A step that changes less than this is skipped. A larger value skips more steps."""
    offload: Offload = "auto"
    attention: Attention = "auto"
    quantization: Quantization = "none"
    loras: VideoLoras = ()
    lora_schedule: Annotated[
        Literal["noise", "progress"],
        spec("LoRA schedule", group="advanced", options={"noise": "By noise", "progress": "By progress"}),
    ] = "noise"
    """When LoRAs change to their low-noise weight: at noise level 0.9, as between the two experts of image to video, or
    gradually from 40% to 60% of the steps."""

    def _conflicts(self) -> list[tuple[str, str]]:
        problems = step_saving_conflicts(self) + quantization_conflicts(self)
        if self.image_box is not None and not _BOX.fullmatch(self.image_box):
            problems.append(("image_box", must_be(_BOX_ALLOWED, self.image_box)))
        if self.pose_start >= self.pose_end:
            problems.append(("pose_start", must_be(f"below pose_end, which is {self.pose_end:g}", self.pose_start)))
        if self.video is None and self.image is None:
            problems.append(("image", "is required, unless a video is given: the path of a picture file"))
        if self.video is not None and self.inpaint_video is not None:
            problems.append(("inpaint_video", "is not used with video; empty one of the two"))
        if self.video is not None and self.start_from_image:
            problems.append(("start_from_image", "is not used with video; switch it off"))
        if self.video is None and (self.inpaint_video is None) != (self.inpaint_mask is None):
            missing, given = "inpaint_mask", "inpaint_video"
            if self.inpaint_mask is not None:
                missing, given = given, missing
            problems.append((missing, f"is required with {given}; give both, or neither"))
        return problems

    def check_inputs(self) -> None:
        """Check the input files, and that there is enough sound to speak: the beginning of it is read.

        Raises:
            RequestError: also for sound that cannot be read, or of less than 25 ms, and a box outside the picture.
        """
        from wanavatar_lab.media import read_audio  # a good part of a second, which a form need not wait for

        super().check_inputs()
        least = LEAST_SAMPLES / AUDIO_RATE
        duration = min(self.audio_duration or math.inf, 2 * least)
        try:
            found = len(read_audio(self.audio, rate=AUDIO_RATE, start=self.audio_start, duration=duration).samples)
        except MediaError as error:
            raise RequestError([("audio", str(error))]) from error
        if found < LEAST_SAMPLES:
            problem = (
                f"{self.audio} has {found / AUDIO_RATE:.3f} s of sound to speak from {self.audio_start:g} s on, and at "
                f"least {least:g} s are needed. Change audio_start or audio_duration, or the file."
            )
            raise RequestError([("audio", problem)])
        for name, read in (("video", self._video_size), ("image", self.read_image)):
            if getattr(self, name) is None or (name == "image" and self.image_box is None):
                continue
            try:
                read()
            except MediaError as error:
                raise RequestError([(name, str(error))]) from error

    def read_image(self) -> "Image":
        """The picture, or the part of it that `image_box` names; only where `image` is given.

        Raises:
            MediaError: it cannot be read.
            RequestError: the box is not within it.
        """
        from wanavatar_lab.media import read_picture

        picture = read_picture(str(self.image))
        box = self._box_within("the picture", picture.size)
        return picture if box is None else picture.crop(box)

    def source_size(self) -> tuple[int, int]:
        """Width and height of what the clip's shape follows: of the video to dub, else of the picture."""
        return self.read_image().size if self.video is None else self._video_size()

    def box(self) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom of `image_box`; None without one."""
        if self.image_box is None:
            return None
        left, top, width, height = map(int, _BOX.fullmatch(self.image_box).groups())  # type: ignore[union-attr]
        return left, top, left + width, top + height

    def _box_within(self, what: str, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        box = self.box()
        if box is not None and (box[2] > size[0] or box[3] > size[1]):
            within = f"within {what}, which has {size[0]}x{size[1]} pixels"
            raise RequestError([("image_box", must_be(within, self.image_box))])
        return box

    def _video_size(self) -> tuple[int, int]:
        from wanavatar_lab.media import probe

        info = probe(str(self.video))
        if info.width is None or info.height is None or info.frames is None:
            what = "a sound" if info.width is None else "a picture"
            raise MediaError(f"{self.video} is {what}. Give a video of the person who speaks.")
        if self.image is None:
            self._box_within("the video", (info.width, info.height))
        return info.width, info.height

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the video in pixels, for a picture of this width and height."""
        return video_size(self.resolution, picture, self.the_profile(), self.stage)

    def the_flow_shift(self) -> float:
        """The flow shift: the requested one, or the published one."""
        return FLOW_SHIFT if self.flow_shift is None else self.flow_shift

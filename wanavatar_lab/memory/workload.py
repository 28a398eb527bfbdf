"""The sizes of a request that memory and time depend on."""

from dataclasses import dataclass

from wanavatar_lab.errors import RequestError
from wanavatar_lab.memory.components import PARTS
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, ImageToVideo, Request, SpeechToVideo, TextToSpeech, fields_of
from wanavatar_lab.requests.request import must_be

TEXT_TOKENS = 512  # the length to which both text encoders pad
LATENT_FRAMES = 4  # pixel frames of a latent frame
TOKEN_SIDE = 16  # pixels of a token: stride 8 of the autoencoder times patch size 2

PORTRAIT = (720, 1280)  # the shape that is planned for where only a picture would decide it
# the field of each video stage with the frames of a clip, or of a segment
_FRAMES = {"image_to_video": "frame_num", "speech_to_video": "frames_per_segment"}


@dataclass(frozen=True)
class Workload:
    """What a stage has to compute for a request.

    Attributes:
        stage: which.
        width, height: pixels of the result; of a tile for upscale; 0 for speech.
        frames: of the clip, or of a segment; 1 for a picture.
        steps: denoising steps of the clip or segment.
        passes: forward passes per step: 2 with guidance.
        segments: how many of these make up the clip, one after the other; 1 where the request does not say it.
    """

    stage: str
    width: int
    height: int
    frames: int = 1
    steps: int = 1
    passes: int = 1
    segments: int = 1

    @property
    def video_tokens(self) -> int:
        """Tokens of the latents that are denoised."""
        # image to video encodes the first frame by itself, speech to video has it in the motion latents
        latents = self.frames // LATENT_FRAMES if self.stage == "speech_to_video" else -(-self.frames // LATENT_FRAMES)
        return latents * (self.height // TOKEN_SIDE) * (self.width // TOKEN_SIDE)

    @property
    def tokens(self) -> int:
        """Length of the transformer's sequence; 0 for upscale and speech."""
        rows, columns = self.height // TOKEN_SIDE, self.width // TOKEN_SIDE
        if self.stage == "text_to_image":
            return self.video_tokens + TEXT_TOKENS
        if self.stage == "image_to_video":
            return self.video_tokens
        if self.stage == "speech_to_video":
            # the motion latents come in patches of three sizes, coarser for older frames: see `s2v.transformer`
            motion = rows * columns + (rows // 2) * (columns // 2) + 4 * (rows // 4) * (columns // 4)
            return self.video_tokens + rows * columns + motion  # and one reference picture
        return 0

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.width * self.height * self.frames


def workload_of(request: Request, size: tuple[int, int]) -> Workload:
    """The workload of a request.

    Args:
        request: of a stage that comes with the package.
        size: width and height in pixels of the result; of the picture for upscale; 0 for speech.
    """
    tile = getattr(request, "tile", 0)
    width, height = (min(tile, side) if tile else side for side in size)
    # segments run one after the other, so that only the longest one has to fit
    segments: tuple[int, ...] = (1,)
    if isinstance(request, ImageToVideo):
        segments = request.segments()
    elif isinstance(request, SpeechToVideo):
        segments = (request.frames_per_segment,)
    guidance = max(getattr(request, name, None) or 1.0 for name in ("guidance_scale", "guidance_scale_2"))
    return Workload(
        stage=request.stage,
        width=width,
        height=height,
        frames=max(segments),
        steps=getattr(request, "num_inference_steps", 1),
        # guidance is distilled into FLUX.2-klein, which makes one pass
        passes=2 if request.stage in _FRAMES and guidance > 1 else 1,
        segments=len(segments),
    )


def usual_workload(stage: str, profile: str, resolution: str | None = None, frames: int | None = None) -> Workload:
    """The workload of a request of a given size, everything else at its default.

    Args:
        stage, profile: which; see `request_stages` for the stages.
        resolution: as in a request; None for its default. A size that follows the picture's shape counts as portrait.
        frames: of the clip or segment; None for the default.

    Raises:
        RequestError: there is no such stage or profile, or a value is not allowed.
    """
    if stage not in PARTS:
        raise RequestError([("stage", f"{stage!r} cannot be planned; give {', '.join(PARTS)}")])
    if profile not in PROFILES:
        raise RequestError([("profile", f"{profile!r} is not a profile; give {' or '.join(PROFILES)}")])
    views = fields_of(STAGE_REQUESTS[stage])
    values: dict[str, object] = {"profile": profile}
    # a request needs its files by name; nothing opens them here
    values |= {name: "planned" for name, view in views.items() if view.required or name == "image"}
    if frames is not None:
        if stage not in _FRAMES:
            raise RequestError([("frames", f"{frames} does not apply to {stage}, which makes no video")])
        values[_FRAMES[stage]] = frames
    if resolution is not None and "resolution" in views:
        values["resolution"] = resolution
    elif resolution is not None:
        width, times, height = resolution.lower().partition("x")
        if "width" not in views or not times:
            problem = must_be("width x height such as 720x1280", resolution)
            if "width" not in views:
                which = "makes speech" if stage == "text_to_speech" else "takes pictures of any size in tiles"
                problem = f"{resolution!r} does not apply to {stage}, which {which}"
            raise RequestError([("resolution", problem)])
        values |= {"width": width, "height": height}
    request = STAGE_REQUESTS[stage](**values)
    return workload_of(request, _planned_size(request))


def _planned_size(request: Request) -> tuple[int, int]:
    """The width and height of a result whose input picture is not known."""
    if isinstance(request, ImageToVideo | SpeechToVideo):
        return request.size(PORTRAIT)
    if isinstance(request, TextToSpeech):
        return 0, 0
    size = getattr(request, "size", None)
    return PORTRAIT if size is None else size()

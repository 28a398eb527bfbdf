"""What a request asks of its stage, in the sizes that memory and time depend on."""

from wanavatar_lab.errors import RequestError
from wanavatar_lab.memory.activations import Workload
from wanavatar_lab.memory.components import PARTS
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, ImageToVideo, Request, fields_of
from wanavatar_lab.requests.sizes import NAMED_AREAS, fit_into

PORTRAIT = (720, 1280)  # the shape that is planned with where a picture would say it

# the field of each stage that says how many frames are made, of a clip or at a time
_FRAMES = {"image_to_video": "frame_num", "speech_to_video": "frames_per_segment"}


def workload_of(request: Request, size: tuple[int, int]) -> Workload:
    """The work of a request.

    Args:
        request: of a stage that comes with the package.
        size: width and height in pixels of what is made; of the picture for upscale.
    """
    stage = request.stage
    width, height = size
    if stage == "upscale":
        tile = getattr(request, "tile", 0)
        width, height = (min(tile, side) if tile else side for side in size)
    guidance = [getattr(request, name, None) or 1.0 for name in ("guidance_scale", "guidance_scale_2")]
    # a segment of a clip lies on the GPU at a time, not the clip
    segments = (
        request.segments() if isinstance(request, ImageToVideo) else (getattr(request, _FRAMES.get(stage, ""), 1),)
    )
    guided = stage in _FRAMES and max(guidance) > 1
    return Workload(
        stage=stage,
        width=width,
        height=height,
        frames=max(segments),
        steps=getattr(request, "num_inference_steps", 1),
        passes=2 if guided else 1,
        segments=len(segments),
    )


def usual_workload(stage: str, profile: str, resolution: str | None = None, frames: int | None = None) -> Workload:
    """The work of a request of which only the size is known, everything else as it is by default.

    Args:
        stage, profile: which; see `request_stages` for the stages.
        resolution: as in a request; None for its default. What follows a picture's shape counts as portrait.
        frames: of the clip or segment; None for the default.

    Raises:
        RequestError: there is no such stage or profile, or a value is not allowed.
    """
    _check(stage, profile)
    views = fields_of(STAGE_REQUESTS[stage])
    values: dict[str, object] = {"profile": profile}
    # files are not looked at, and a request without them cannot be made
    values |= {name: "planned" for name, view in views.items() if view.required}
    if frames is not None:
        if stage not in _FRAMES:
            raise RequestError([("frames", f"{frames} does not apply to {stage}, which makes no video")])
        values[_FRAMES[stage]] = frames
    if "resolution" in views:
        if resolution is not None:
            values["resolution"] = resolution
    elif resolution is not None:
        values |= _sides(stage, resolution, "width" in views)
    request = STAGE_REQUESTS[stage](**values)
    return workload_of(request, _size(request))


def _check(stage: str, profile: str) -> None:
    if stage not in PARTS:
        raise RequestError([("stage", f"{stage!r} cannot be planned; give {', '.join(PARTS)}")])
    if profile not in PROFILES:
        raise RequestError([("profile", f"{profile!r} is not a profile; give {' or '.join(PROFILES)}")])


def _sides(stage: str, resolution: str, sized: bool) -> dict[str, object]:
    width, times, height = resolution.lower().partition("x")
    if not sized or not times:
        allowed = "width x height such as 720x1280" if sized else "none: it takes pictures of any size in tiles"
        raise RequestError([("resolution", f"{resolution!r} is not allowed for {stage}; give {allowed}")])
    return {"width": width, "height": height}


def _size(request: Request) -> tuple[int, int]:
    written = getattr(request, "resolution", None)
    if written is None:
        size = getattr(request, "size", None)
        return size() if size is not None else PORTRAIT
    if "x" in written:
        width, height = written.split("x")
        return int(width), int(height)
    profile = request.the_profile()
    return fit_into(NAMED_AREAS.get(written, profile.auto_area), PORTRAIT, profile.size_multiple)

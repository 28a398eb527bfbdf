"""The tools: small works on files that need no model of a profile, such as cutting a clip or evening out its loudness.

A tool is a request as a stage's is, with the same form, command, run folder and manifest. The field names are the
arguments of the function in `wanavatar_lab.tools` that does the work.
"""

import importlib.util
from typing import Annotated, Any, ClassVar, Literal

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests.field_spec import Words, fields_of, spec, translated
from wanavatar_lab.requests.request import Request

LONGEST = 86_400.0  # seconds: a day
MOST_FRAMES = 10_000_000  # more than a day at 100 frames per second
# as wanavatar_lab.media: what recordings have, and the highest rate that a video can state
LEAST_RATE, LARGEST_RATE, LARGEST_FPS = 8_000, 192_000, 240.0
SPEECH_RATE = 16_000  # Hz, of the audio encoders
INSTALL_SEPARATE = ".venv/bin/uv pip install -e '.[separate]'"
MOST_CLIPS = ("first", "second", "third", "fourth", "fifth", "sixth")

Sound = Annotated[str, spec("Sound or video", widget="media")]
Clip = Annotated[str, spec("Video", widget="video")]


class Tool(Request):
    """A request that has no profile. It is executed when it is submitted, beside the queue, unless it is `queued`."""

    profile: ClassVar[str] = "full"  # type: ignore[misc]  # no field: nothing of a profile is used
    queued: ClassVar[bool] = False

    def arguments(self) -> dict[str, Any]:
        """The arguments of the tool's function, by name."""
        return {name: getattr(self, name) for name in fields_of(type(self))}


class ExtractAudio(Tool):
    """The sound of a video as a WAV file, with its own rate and channels."""

    stage: ClassVar[str] = "extract_audio"
    labels: ClassVar[Words] = translated("Extract audio")
    help: ClassVar[Words] = translated("Write the sound of a video to a WAV file.")
    artifact: ClassVar[str] = "audio"
    suffix: ClassVar[str] = ".wav"

    video: Clip
    """The video whose sound is written."""


class ExtractFrame(Tool):
    """A frame of a video as a picture."""

    stage: ClassVar[str] = "extract_frame"
    labels: ClassVar[Words] = translated("Extract frame")
    help: ClassVar[Words] = translated("Save a frame of a video as a picture.")
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"

    video: Clip
    """The video whose frame is saved."""
    frame: Annotated[int, spec("Frame", ge=-MOST_FRAMES, le=MOST_FRAMES)] = 0
    """Number of the frame: 0 is the first, -1 the last."""
    time: Annotated[float | None, spec("Time", unit="s", ge=0.0, le=LONGEST)] = None
    """Takes the frame nearest to this time instead of one by its number."""

    def _conflicts(self) -> list[tuple[str, str]]:
        if self.time is not None and self.frame != 0:
            return [("time", "cannot be combined with frame; give one of the two")]
        return []


class Trim(Tool):
    """A part of a recording (WAV) or of a video with its sound (MP4), exact to the sample or the frame."""

    stage: ClassVar[str] = "trim"
    labels: ClassVar[Words] = translated("Trim")
    help: ClassVar[Words] = translated("Cut a part out of a recording or a video.")

    media: Sound
    """The recording or video to cut."""
    start: Annotated[float, spec("Start", unit="s", ge=0.0, le=LONGEST)] = 0.0
    """Where the part begins."""
    duration: Annotated[float | None, spec("Duration", unit="s", gt=0.0, le=LONGEST)] = None
    """Length of the part. Automatic goes to the end of the file."""


class Resample(Tool):
    """A recording at another sample rate, or with other channels, as WAV."""

    stage: ClassVar[str] = "resample"
    labels: ClassVar[Words] = translated("Resample")
    help: ClassVar[Words] = translated("Change the sample rate and the channels of a recording.")
    artifact: ClassVar[str] = "audio"
    suffix: ClassVar[str] = ".wav"

    media: Sound
    """The recording, or a video whose sound is taken."""
    rate: Annotated[int, spec("Sample rate", unit="Hz", ge=LEAST_RATE, le=LARGEST_RATE)] = SPEECH_RATE
    """Samples per second. 16000 is what speech models read, 44100 and 48000 are usual for listening."""
    channels: Annotated[
        Literal["keep", "mono", "stereo"],
        spec("Channels", options={"keep": "As they are", "mono": "Mono", "stereo": "Stereo"}),
    ] = "keep"
    """Mono and stereo mix channels; a mono recording has the same in both channels of stereo."""


class NormalizeLoudness(Tool):
    """A recording or a video at a target loudness by EBU R 128, as WAV or MP4.

    One gain for the whole, so that the dynamics stay. Where it would lift a peak above the limit, the gain is smaller,
    and the log says by how much the target is missed.
    """

    stage: ClassVar[str] = "normalize_loudness"
    labels: ClassVar[Words] = translated("Normalize loudness")
    help: ClassVar[Words] = translated("Measure the loudness by EBU R 128 and bring it to a target.")

    media: Sound
    """The recording or video; of a video the picture stays."""
    loudness: Annotated[float, spec("Target loudness", unit="LUFS", ge=-70.0, le=-5.0)] = -23.0
    """Integrated loudness of the result: -23 for broadcast, -16 to -14 for the web."""
    peak: Annotated[float, spec("True peak limit", unit="dBTP", group="advanced", ge=-20.0, le=0.0)] = -1.0
    """The gain is reduced where a peak would pass this limit."""


class SeparateVocals(Tool):
    """The voice of a recording without music and noise, as WAV; needs the extra `separate`."""

    stage: ClassVar[str] = "separate_vocals"
    labels: ClassVar[Words] = translated("Separate vocals")
    help: ClassVar[Words] = translated("Keep the voice of a recording and remove music and noise.")
    artifact: ClassVar[str] = "audio"
    suffix: ClassVar[str] = ".wav"
    queued: ClassVar[bool] = True  # for its model, which the worker keeps loaded

    media: Sound
    """The recording, or a video whose sound is taken."""

    def check_inputs(self) -> None:
        """Check that the file can be opened, and that the extra is installed.

        Raises:
            RequestError: it cannot, or is not.
        """
        super().check_inputs()
        if importlib.util.find_spec("audio_separator") is None:
            raise RequestError([("", f"Separating vocals needs the extra `separate`. Install it: {INSTALL_SEPARATE}")])


class InterpolateFrames(Tool):
    """A video at a higher frame rate, with its sound."""

    stage: ClassVar[str] = "interpolate_frames"
    labels: ClassVar[Words] = translated("Interpolate frames")
    help: ClassVar[Words] = translated("Raise the frame rate of a video with frames computed in between.")
    suffix: ClassVar[str] = ".mp4"

    video: Clip
    """The video, such as a clip of 16 frames per second that was made here."""
    fps: Annotated[float, spec("Frame rate", unit="fps", ge=1.0, le=LARGEST_FPS)] = 25.0
    """Frames per second of the result; 25 and 30 are usual."""
    method: Annotated[
        Literal["motion", "blend"],
        spec("Method", options={"motion": "Motion compensation", "blend": "Cross-fade"}),
    ] = "motion"
    """Motion compensation moves blocks along their motion (FFmpeg's minterpolate) and is slow for large frames.
    Cross-fade mixes the two frames around."""


class Concatenate(Tool):
    """Up to six recordings (WAV) or videos with their sound (MP4) in a row."""

    stage: ClassVar[str] = "concatenate"
    labels: ClassVar[Words] = translated("Concatenate")
    help: ClassVar[Words] = translated("Join recordings or videos, one after the other.")

    first: Annotated[str, spec("First", widget="media")]
    """Gives the result its size, frame rate, sample rate and channels."""
    second: Annotated[str, spec("Second", widget="media")]
    """Follows the first. Frames of another shape get black bars; a video without sound gets silence."""
    third: Annotated[str | None, spec("Third", "Optional.", widget="media", group="advanced")] = None
    fourth: Annotated[str | None, spec("Fourth", "Optional.", widget="media", group="advanced")] = None
    fifth: Annotated[str | None, spec("Fifth", "Optional.", widget="media", group="advanced")] = None
    sixth: Annotated[str | None, spec("Sixth", "Optional.", widget="media", group="advanced")] = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of `tools.concatenate`, which takes any number of files."""
        return {"files": [path for name in MOST_CLIPS if (path := getattr(self, name)) is not None]}

    def _conflicts(self) -> list[tuple[str, str]]:
        given = [getattr(self, name) is not None for name in MOST_CLIPS]
        return [
            (MOST_CLIPS[place], f"is required with {MOST_CLIPS[place + 1]}; give both, or neither")
            for place in range(len(given) - 1)
            if given[place + 1] and not given[place]
        ]


TOOLS: tuple[type[Tool], ...] = (
    ExtractAudio,
    ExtractFrame,
    Trim,
    Resample,
    NormalizeLoudness,
    SeparateVocals,
    InterpolateFrames,
    Concatenate,
)

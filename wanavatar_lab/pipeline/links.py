"""The links of a chain, and the chain from a sentence and a voice, or what it says, to a talking avatar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from wanavatar_lab.errors import RequestError
from wanavatar_lab.pipeline.progress import TYPICAL, UNKNOWN, Typical
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, TextToSpeech, Upscale, Words
from wanavatar_lab.requests.field_spec import spec, translated
from wanavatar_lab.requests.fields import LONGEST_PROMPT, Seed
from wanavatar_lab.requests.speech_to_video import LONGEST_AUDIO
from wanavatar_lab.requests.text_to_speech import LONGEST_TEXT, Speaker

PICTURE, VOICE = "picture.png", "voice.wav"
# the fields of a stage that are arguments of `talking_avatar` by another name
_NAMES: dict[type[Request], dict[str, str]] = {
    ImageToVideo: {"prompt": "motion_prompt"},
    TextToSpeech: {"text": "script"},
    SpeechToVideo: {"prompt": "talking_prompt"},
}


_NO_VOICE = ("script", "is required, unless a recording is given")
_TWO_VOICES = ("script", "is not used with a recording; empty one of the two")


@dataclass(frozen=True)
class Link:
    """One stage of a chain.

    Attributes:
        file: the name of its result.
        request: of its run; the fields in `takes` hold a placeholder until the file exists.
        takes: field of the request → the `file` of an earlier link, which becomes its value.
        typical: its typical times, for the time left before anything was measured.
    """

    file: str
    request: Request
    takes: Mapping[str, str] = field(default_factory=dict)
    typical: Typical = UNKNOWN


def talking_avatar(
    *,
    profile: str,
    audio: str | None = None,
    script: str | None = None,
    voice: str = "woman",
    prompt: str | None = None,
    picture: str | None = None,
    motion_prompt: str | None = None,
    talking_prompt: str | None = None,
    audio_start: float = 0.0,
    audio_duration: float | None = 5.0,
    seed: int = 1,
) -> list[Link]:
    """From a sentence and a voice to a picture, the same at twice the size, a clip that moves and one that talks.

    The voice is a recording, or is made of what it says, by one link more, before the last one.

    Both clips start from the picture as it was made: they have its size, so the larger one would only be shrunk again.

    Args:
        profile: which models: full or pocket.
        audio: the recording that is spoken.
        script: what is said, instead of a recording.
        voice: who says it, as in `TextToSpeech`.
        prompt: who and what the picture shows.
        picture: a file instead of a prompt; the first link is left out then.
        motion_prompt: what happens in the moving clip.
        talking_prompt: how the person speaks and moves; None is the stage's default.
        audio_start: where the recording begins, in seconds.
        audio_duration: seconds of it, or None for all; a script is spoken whole. 5 is one segment of 80 frames, the
            shortest that the models were made for.
        seed: of every stage; -1 draws one for each.

    Raises:
        RequestError: every value that is not allowed, by its name here.
    """
    wanted: list[tuple[str, type[Request], dict[str, Any]]] = [
        (PICTURE, TextToImage, {"prompt": "" if prompt is None else prompt, "upscale": False, "seed": seed}),
        ("upscaled.png", Upscale, {}),
        ("moving.mp4", ImageToVideo, {"prompt": motion_prompt or "", "seed": seed}),
    ]
    spoken: dict[str, Any] = {"audio": VOICE if audio is None else audio, "seed": seed}
    if script is not None:
        wanted.append((VOICE, TextToSpeech, {"text": script, "voice": voice, "seed": seed}))
    else:
        spoken |= {"audio_start": audio_start, "audio_duration": audio_duration}
    wanted += [("talking.mp4", SpeechToVideo, spoken | ({} if talking_prompt is None else {"prompt": talking_prompt}))]
    problems: list[tuple[str, str]] = []
    if (script is None) == (audio is None):
        problems.append(_NO_VOICE if audio is None else _TWO_VOICES)
    links: list[Link] = []
    for file, kind, values in wanted:
        if file == PICTURE and picture is not None:
            continue
        takes = {"audio": VOICE} if kind is SpeechToVideo and script is not None else {}
        if "image" in kind.model_fields:
            takes |= {"image": PICTURE} if picture is None else {}
            values = {"image": picture, **values}
        try:
            request = kind(profile=profile, **{**values, **takes})
        except RequestError as error:
            renamed = {"image": "picture", **_NAMES.get(kind, {})}
            problems += [(renamed.get(name, name), message) for name, message in error.problems]
        else:
            links.append(Link(file, request, takes, TYPICAL[profile][kind.stage]))
    if problems:
        # every stage refuses a wrong seed or profile, in the same words
        raise RequestError(list(dict.fromkeys(problems)))
    try:
        check(links)
    except RequestError as error:
        named = [("picture" if name == "image" else name, message) for name, message in error.problems]
        raise RequestError(list(dict.fromkeys(named))) from None
    return links


class TalkingAvatar(Request):
    """What a form asks for to make a talking avatar: the arguments of `talking_avatar`."""

    stage: ClassVar[str] = "talking_avatar"
    labels: ClassVar[Words] = translated("Pipeline")
    help: ClassVar[Words] = translated(
        "All stages in a row: from a sentence or a picture, and a script or a voice, to a talking clip."
    )
    artifact: ClassVar[str] = "talking"
    suffix: ClassVar[str] = ".mp4"

    prompt: Annotated[str | None, spec("Prompt", widget="textarea", max_length=LONGEST_PROMPT)] = None
    """Who and what the picture shows. Leave it empty to give a picture instead."""
    picture: Annotated[str | None, spec("Picture", widget="picture")] = None
    """A picture of your own instead of a prompt, with the face clearly visible."""
    script: Annotated[str | None, spec("Script", widget="textarea", max_length=LONGEST_TEXT)] = None
    """What the person says. Leave it empty to give a recording instead."""
    voice: Speaker = "woman"
    """Who says the script."""
    audio: Annotated[str | None, spec("Voice", widget="audio")] = None
    """A recording instead of a script: any sound or video file."""
    audio_start: Annotated[float, spec("Voice from", unit="s", group="advanced", ge=0.0, le=LONGEST_AUDIO)] = 0.0
    """Start in the recording."""
    audio_duration: Annotated[
        float | None, spec("Voice length", unit="s", group="advanced", gt=0.0, le=LONGEST_AUDIO)
    ] = None
    """How much of the recording is used. Automatic goes to its end."""
    motion_prompt: Annotated[str | None, spec("Motion", widget="textarea", max_length=LONGEST_PROMPT)] = None
    """What moves in the clip without sound, and how: the person, the camera, the light."""
    talking_prompt: Annotated[str | None, spec("Speaking", widget="textarea", max_length=LONGEST_PROMPT)] = None
    """How the person speaks and moves, and what the scene is like. Empty uses the default of speech to video."""
    seed: Seed = -1

    def _conflicts(self) -> list[tuple[str, str]]:
        problems = []
        if not (self.prompt or "").strip() and self.picture is None:
            problems.append(("prompt", "is required, unless a picture is given"))
        if (self.prompt or "").strip() and self.picture is not None:
            problems.append(("picture", "is not used with a prompt; empty one of the two"))
        if not (self.script or "").strip() and self.audio is None:
            problems.append(_NO_VOICE)
        if (self.script or "").strip() and self.audio is not None:
            problems.append(_TWO_VOICES)
        return problems

    def links(self) -> list[Link]:
        """The links of its chain.

        Raises:
            RequestError: as `talking_avatar`.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        unused = {"prompt": None} if self.picture else {}
        unused |= {"script": None} if self.audio else {}
        return talking_avatar(**{**values, **unused})

    def check_inputs(self) -> None:
        """Check everything that its stages will be given.

        Raises:
            RequestError: as `talking_avatar`.
        """
        self.links()


def check(links: Sequence[Link]) -> None:
    """Check the input files that no link makes.

    Raises:
        RequestError: for every one that is missing, empty, a folder, or not readable.
    """
    problems: list[tuple[str, str]] = []
    for link in links:
        try:
            link.request.check_inputs()
        except RequestError as error:
            problems += [problem for problem in error.problems if problem[0] not in link.takes]
    if problems:
        raise RequestError(problems)

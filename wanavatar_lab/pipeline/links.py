"""What a chain is made of, and the chain from a sentence and a voice to a talking avatar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wanavatar_lab.errors import RequestError
from wanavatar_lab.pipeline.progress import TYPICAL, UNKNOWN, Typical
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, Upscale

PICTURE = "picture.png"

# what a field of a stage is called where there are several of its name
_RENAMED: dict[tuple[type[Request], str], str] = {(ImageToVideo, "prompt"): "motion_prompt"}


@dataclass(frozen=True)
class Link:
    """One stage of a chain.

    Attributes:
        file: what its result is called in the end.
        request: what is asked; the fields of `takes` hold a stand-in until the file is there.
        takes: field of the request → the `file` of an earlier link that it takes.
        typical: how long it takes, for the estimate of the time left before anything was measured.
    """

    file: str
    request: Request
    takes: Mapping[str, str] = field(default_factory=dict)
    typical: Typical = UNKNOWN


def talking_avatar(
    *, profile: str, prompt: str, motion_prompt: str, audio: str, audio_duration: float = 5.0, seed: int = 1
) -> list[Link]:
    """From a sentence and a voice to a picture, the same twice as large, a clip that moves and one that talks.

    Both clips start from the picture as it was made: they have its size, so the larger one would only be shrunk again.

    Args:
        profile: which models: full or pocket.
        prompt: who and what the picture shows.
        motion_prompt: what happens in the moving clip.
        audio: the recording that is spoken.
        audio_duration: seconds of it; 5 is one segment of 80 frames, the smallest that the models were made for.
        seed: of every stage; -1 draws one for each.

    Raises:
        RequestError: values that are not allowed, all at once and by the names they have here.
    """
    wanted: tuple[tuple[str, type[Request], dict[str, Any]], ...] = (
        (PICTURE, TextToImage, {"prompt": prompt, "upscale": False, "seed": seed}),
        ("upscaled.png", Upscale, {}),
        ("moving.mp4", ImageToVideo, {"prompt": motion_prompt, "seed": seed}),
        ("talking.mp4", SpeechToVideo, {"audio": audio, "audio_duration": audio_duration, "seed": seed}),
    )
    problems: list[tuple[str, str]] = []
    links: list[Link] = []
    for file, kind, values in wanted:
        takes = {} if file == PICTURE else {"image": PICTURE}
        try:
            request = kind(profile=profile, **values, **takes)
        except RequestError as error:
            problems += [(_RENAMED.get((kind, name), name), message) for name, message in error.problems]
        else:
            links.append(Link(file, request, takes, TYPICAL[profile][kind.stage]))
    # a seed or a profile is refused by every stage, in the same words
    if problems := list(dict.fromkeys(problems)):
        raise RequestError(problems)
    check(links)
    return links


def check(links: Sequence[Link]) -> None:
    """See that every file is there that no link makes.

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

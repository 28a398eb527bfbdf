"""The links of a chain, and the chain from a sentence and a voice to a talking avatar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wanavatar_lab.errors import RequestError
from wanavatar_lab.pipeline.progress import TYPICAL, UNKNOWN, Typical
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, Upscale

PICTURE = "picture.png"


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
    *, profile: str, prompt: str, motion_prompt: str, audio: str, audio_duration: float = 5.0, seed: int = 1
) -> list[Link]:
    """From a sentence and a voice to a picture, the same at twice the size, a clip that moves and one that talks.

    Both clips start from the picture as it was made: they have its size, so the larger one would only be shrunk again.

    Args:
        profile: which models: full or pocket.
        prompt: who and what the picture shows.
        motion_prompt: what happens in the moving clip.
        audio: the recording that is spoken.
        audio_duration: seconds of it; 5 is one segment of 80 frames, the shortest that the models were made for.
        seed: of every stage; -1 draws one for each.

    Raises:
        RequestError: every value that is not allowed, by its name here.
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
            renamed = {"prompt": "motion_prompt"} if kind is ImageToVideo else {}
            problems += [(renamed.get(name, name), message) for name, message in error.problems]
        else:
            links.append(Link(file, request, takes, TYPICAL[profile][kind.stage]))
    if problems:
        # every stage refuses a wrong seed or profile, in the same words
        raise RequestError(list(dict.fromkeys(problems)))
    check(links)
    return links


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

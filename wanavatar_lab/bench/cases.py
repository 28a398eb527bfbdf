"""The runs of the bench of stages, and the requests for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wanavatar_lab import media
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import Workload
from wanavatar_lab.requests import STAGE_REQUESTS, Request

_WRITTEN = re.compile(
    r"(?P<stage>[a-z_-]+)(:(?P<width>\d+)x(?P<height>\d+)(x(?P<frames>\d+))?)?(/(?P<steps>\d+))?"
    r"(?P<fields>(,[a-z_0-9]+=[^,]+)*)"
)


@dataclass(frozen=True)
class Case(Workload):
    """A run, and the other fields of its request that differ from their defaults, as name and text."""

    fields: tuple[tuple[str, str], ...] = ()


# few steps, since each is like the others; four of image to video, so that both experts run
CASES: dict[str, tuple[Case, ...]] = {
    "published": (
        Case("text_to_image", 720, 1280, steps=4),
        Case("upscale", 720, 1280),
        Case("image_to_video", 480, 832, 81, steps=4),
        Case("speech_to_video", 480, 832, 80, steps=3),
        Case("speech_to_video", 720, 1280, 80, steps=3),
    ),
    # the default sizes of the profile
    "pocket": (
        Case("text_to_image", 128, 128, steps=4),
        Case("upscale", 128, 128),
        Case("image_to_video", 128, 128, 49, steps=8),
        Case("speech_to_video", 128, 128, 80, steps=8),
    ),
    "tiny": (
        Case("text_to_image", 64, 64, steps=4),
        Case("upscale", 64, 64),
        Case("image_to_video", 64, 64, 5, steps=4),
        Case("speech_to_video", 64, 64, 8, steps=3),
    ),
}


def read_cases(words: Sequence[str], size: str) -> list[Case]:
    """Parse cases, such as `speech-to-video` or, with a size and a number of steps, `speech-to-video:480x832x80/3`.

    Args:
        words: none for all of `CASES`; a stage alone for its cases. Behind a comma are fields of the request, as in
            `speech-to-video:480x832x80/25,speed=fast`.
        size: published, pocket or tiny, whose cases supply what a word leaves out.

    Raises:
        LabError: a word is not a case.
    """
    cases: list[Case] = []
    for word in words:
        match = _WRITTEN.fullmatch(word)
        stage = match["stage"].replace("-", "_") if match else ""
        usual = [case for case in CASES[size] if case.stage == stage]
        if match is None or not usual:
            names = ", ".join(dict.fromkeys(case.stage.replace("_", "-") for case in CASES[size]))
            raise LabError(f"{word!r} is not a case; give one of {names}, or for example {names[-15:]}:480x832x80/3.")
        numbers = {name: match[name] for name in ("width", "height", "frames", "steps")}
        given: dict[str, Any] = {name: int(value) for name, value in numbers.items() if value}
        pairs = [pair.partition("=") for pair in match["fields"].split(",")[1:]]
        given["fields"] = tuple((name, value) for name, _, value in pairs)
        cases += [replace(case, **given) for case in (usual[:1] if "width" in given else usual)]
    return cases or list(CASES[size])


def request_of(case: Case, folder: Path, offload: str, **values: Any) -> Request:
    """The request of a case.

    Args:
        case: its stage, size, frames, steps and fields count.
        folder: is made, and gets the picture and the voice; the run's results may go to it too.
        offload: of a video stage.
        values: of other fields of a video stage.

    Raises:
        RequestError: the stage has no such field, or a value is not allowed.
    """
    folder.mkdir()
    size = f"{case.width}x{case.height}"
    picture = folder / f"picture_{size}.png"
    levels = np.random.default_rng(0).integers(0, 256, (case.height, case.width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(picture)
    # longer than the text encoders read, so that they run on their longest input
    prompt = "a person speaks " * 200
    asked: dict[str, Any] = {"profile": "full"}
    if case.stage != "text_to_image":
        asked["image"] = str(picture)
    if case.stage != "upscale":
        asked |= {"seed": 1, "prompt": prompt, "num_inference_steps": case.steps}
    if case.stage == "text_to_image":
        asked |= {"width": case.width, "height": case.height, "upscale": False}
    if case.stage in ("image_to_video", "speech_to_video"):
        asked |= {"negative_prompt": prompt, "resolution": size, "offload": offload, **values}
    if case.stage == "image_to_video":
        asked |= {"frame_num": case.frames, "segment_frames": case.frames}
    if case.stage == "speech_to_video":
        voice = folder / "voice.wav"
        times = np.arange(10 * 16_000) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * 220 * times) * np.sin(2 * np.pi * 3 * times)
        media.write_audio(voice, media.Audio(wave.astype(np.float32)[:, None], 16_000))
        asked |= {"frames_per_segment": case.frames, "num_segments": 1, "audio": str(voice)}
    return STAGE_REQUESTS[case.stage](**(asked | dict(case.fields)))

"""The runs of the bench of stages, and the requests for them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wanavatar_lab import media
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import Workload
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, Upscale

_WRITTEN = re.compile(r"(?P<stage>[a-z_-]+)(:(?P<width>\d+)x(?P<height>\d+)(x(?P<frames>\d+))?)?(/(?P<steps>\d+))?")

# few steps, since each is like the others; four of image to video, so that both experts run
CASES: dict[str, tuple[Workload, ...]] = {
    "published": (
        Workload("text_to_image", 720, 1280, steps=4),
        Workload("upscale", 720, 1280),
        Workload("image_to_video", 480, 832, 81, steps=4),
        Workload("speech_to_video", 480, 832, 80, steps=3),
        Workload("speech_to_video", 720, 1280, 80, steps=3),
    ),
    "tiny": (
        Workload("text_to_image", 64, 64, steps=4),
        Workload("upscale", 64, 64),
        Workload("image_to_video", 64, 64, 5, steps=4),
        Workload("speech_to_video", 64, 64, 8, steps=3),
    ),
}


def read_cases(words: Sequence[str], size: str) -> list[Workload]:
    """Parse cases, such as `speech-to-video` or, with a size and a number of steps, `speech-to-video:480x832x80/3`.

    Args:
        words: none for all of `CASES`; a stage alone for its cases.
        size: published or tiny, whose cases supply what a word leaves out.

    Raises:
        LabError: a word is not a case.
    """
    cases: list[Workload] = []
    for word in words:
        match = _WRITTEN.fullmatch(word)
        stage = match["stage"].replace("-", "_") if match else ""
        usual = [case for case in CASES[size] if case.stage == stage]
        if match is None or not usual:
            names = ", ".join(dict.fromkeys(case.stage.replace("_", "-") for case in CASES[size]))
            raise LabError(f"{word!r} is not a case; give one of {names}, or for example {names[-15:]}:480x832x80/3.")
        numbers = {name: value for name, value in match.groupdict().items() if name != "stage"}
        given: dict[str, Any] = {name: int(value) for name, value in numbers.items() if value}
        cases += [replace(case, **given) for case in (usual[:1] if "width" in given else usual)]
    return cases or list(CASES[size])


def request_of(case: Workload, folder: Path, offload: str, **values: Any) -> Request:
    """The request of a case.

    Args:
        case: its stage, size, frames and steps count.
        folder: is made, and gets the picture and the voice; the run's results may go to it too.
        offload: of a video stage.
        values: of other fields of a video stage.
    """
    folder.mkdir()
    size = f"{case.width}x{case.height}"
    picture = folder / f"picture_{size}.png"
    levels = np.random.default_rng(0).integers(0, 256, (case.height, case.width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(picture)
    # longer than the text encoders read, so that they run on their longest input
    prompt = "a person speaks " * 200
    common = {"profile": "full", "seed": 1, "prompt": prompt}
    video = {
        "image": str(picture),
        "negative_prompt": prompt,
        "resolution": size,
        "num_inference_steps": case.steps,
        "offload": offload,
        **values,
    }
    if case.stage == "text_to_image":
        sides = {"width": case.width, "height": case.height}
        return TextToImage(**common, **sides, num_inference_steps=case.steps, upscale=False)
    if case.stage == "upscale":
        return Upscale(profile="full", image=str(picture))
    if case.stage == "image_to_video":
        return ImageToVideo(**common, **video, frame_num=case.frames, segment_frames=case.frames)
    voice = folder / "voice.wav"
    times = np.arange(10 * 16_000) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * 220 * times) * np.sin(2 * np.pi * 3 * times)
    media.write_audio(voice, media.Audio(wave.astype(np.float32)[:, None], 16_000))
    return SpeechToVideo(**common, **video, frames_per_segment=case.frames, num_segments=1, audio=str(voice))

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
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, Upscale

_WRITTEN = re.compile(r"(?P<stage>[a-z_-]+)(:(?P<width>\d+)x(?P<height>\d+)(x(?P<frames>\d+))?)?(/(?P<steps>\d+))?")


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        stage: which.
        width, height: pixels of the result; of the picture for upscale.
        frames: of the clip or segment; 1 for a picture.
        steps: denoising steps.
    """

    stage: str
    width: int
    height: int
    frames: int = 1
    steps: int = 1

    def request(self, folder: Path, offload: str = "auto") -> Request:
        """The request for it; its picture and voice are written to `folder`."""
        size = f"{self.width}x{self.height}"
        picture = folder / f"picture_{size}.png"
        if not picture.is_file():
            levels = np.random.default_rng(0).integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
            Image.fromarray(levels).save(picture)
        # longer than the text encoders read, so that they run on their longest input
        prompt = "a person speaks " * 200
        common = {"profile": "full", "seed": 1, "prompt": prompt}
        video = {
            "image": str(picture),
            "negative_prompt": prompt,
            "resolution": size,
            "num_inference_steps": self.steps,
            "offload": offload,
        }
        match self.stage:
            case "text_to_image":
                sides = {"width": self.width, "height": self.height, "num_inference_steps": self.steps}
                return TextToImage(**common, **sides, upscale=False)
            case "upscale":
                return Upscale(profile="full", image=str(picture))
            case "image_to_video":
                return ImageToVideo(**common, **video, frame_num=self.frames, segment_frames=self.frames)
            case _:
                voice = folder / "voice.wav"
                if not voice.is_file():
                    times = np.arange(10 * 16_000) / 16_000
                    wave = 0.3 * np.sin(2 * np.pi * 220 * times) * np.sin(2 * np.pi * 3 * times)
                    media.write_audio(voice, media.Audio(wave.astype(np.float32)[:, None], 16_000))
                pieces = {"frames_per_segment": self.frames, "num_segments": 1}
                return SpeechToVideo(**common, **video, **pieces, audio=str(voice))


# few steps, since each is like the others; four of image to video, so that both experts run
CASES: dict[str, tuple[Case, ...]] = {
    "published": (
        Case("text_to_image", 720, 1280, steps=4),
        Case("upscale", 720, 1280),
        Case("image_to_video", 480, 832, 81, steps=4),
        Case("speech_to_video", 480, 832, 80, steps=3),
        Case("speech_to_video", 720, 1280, 80, steps=3),
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
        words: none for all of `CASES`; a stage alone for its cases.
        size: published or tiny, whose cases supply what a word leaves out.

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
        given: dict[str, Any] = {
            name: int(match[name]) for name in ("width", "height", "frames", "steps") if match[name]
        }
        cases += [replace(usual[0], **given)] if "width" in given else [replace(case, **given) for case in usual]
    return cases or list(CASES[size])

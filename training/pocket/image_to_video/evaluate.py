"""Measure the toy I2V on held-out avatars: does what a caption names happen, and does it take both experts?

    python -m training.pocket.image_to_video.evaluate --weights weights --run-dir runs/image_to_video --people 5

Every clip is made by the stage image_to_video and read back from its file by the judge, which sees frames alone. The
last line is one JSON of all figures. A lone expert does all steps with its own weights and the same noise.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.pocket.judge.actions import movements
from training.pocket.judge.reading import WEIGHTS, Reader
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.captions import caption
from training.pocket.world.figure import render
from training.pocket.world.motion import ACTIONS, sample_motion
from wanavatar_lab import media
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.stages import image_to_video
from wanavatar_lab.stages.context import StageContext

Frames = NDArray[np.uint8]
# which expert does the work of each
EXPERTS = {
    "both": ("transformer", "transformer_2"),
    "high_alone": ("transformer", "transformer"),
    "low_alone": ("transformer_2", "transformer_2"),
}


@dataclass(frozen=True)
class Asked:
    """One clip to be made: `number` of `movement`, said in `prompt`; `drawn` is what the world makes of it."""

    movement: str
    number: int
    prompt: str
    drawn: Frames


def asked_clips(people: int, frames: int, size: int = 128, seed: int = 0) -> Iterator[Asked]:
    """Every movement by `people` held-out avatars, the words in as many ways."""
    for index, movement in enumerate(ACTIONS):
        clip_seed = 7_000_003 + seed * 1000 + index
        attributes = sample_attributes(people, clip_seed, "held_out")
        pose = sample_motion(people, frames, clip_seed, [(movement,)] * people)
        pixels = (render(attributes, pose, (size, size), "cpu") * 255).round().to(torch.uint8)
        for number in range(people):
            prompt = caption(attributes, number, clip_seed, actions=(movement,), brief=True)
            yield Asked(movement, number, prompt, pixels[number].permute(0, 2, 3, 1).numpy())


def clip_figures(made: Frames, asked: Asked, reader: Reader) -> dict[str, Any]:
    """What one clip shows: `found` (every movement, 1 or more means that it happened), differences to the truth.

    `error` is the mean difference of levels to the drawn clip, `first_db` the PSNR of the first frame in dB.
    """
    difference = made.astype(np.float64) - asked.drawn
    first = max(float(np.square(difference[0]).mean()), 1e-3)
    return {
        "movement": asked.movement,
        "number": asked.number,
        "found": movements(reader.read(made).tracks),
        "error": float(np.abs(difference).mean()),
        "first_db": 10 * float(np.log10(255**2 / first)),
    }


def summary(clips: list[dict[str, Any]]) -> dict[str, float]:
    """Of many clips: how often what was asked happened, how often something else did, and the mean differences."""
    others = [value >= 1 for clip in clips for name, value in clip["found"].items() if name != clip["movement"]]
    return {
        "happened": _share([clip["found"][clip["movement"]] >= 1 for clip in clips]),
        "others": _share(others),
        "error": round(float(np.mean([clip["error"] for clip in clips])), 2),
        "first_db": round(float(np.mean([clip["first_db"] for clip in clips])), 2),
    }


def _share(flags: list[bool]) -> float:
    return round(float(np.mean(flags)), 3)


def make(
    asked: Asked, models: image_to_video.Models, folder: Path, options: Mapping[str, Any], experts: str = "both"
) -> Frames:
    """The clip from the drawn clip's first frame, through the stage and its file, uint8 [F, H, W, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(asked.drawn[0]).save(folder / "picture.png")
    request = ImageToVideo(
        profile="pocket",
        image=str(folder / "picture.png"),
        prompt=asked.prompt,
        frame_num=len(asked.drawn),
        **options,
    )
    pipeline = models.pipeline
    trained = {name: getattr(pipeline, name) for name in EXPERTS["both"]}
    pipeline.register_modules(**{place: trained[name] for place, name in zip(trained, EXPERTS[experts], strict=True)})
    try:
        (artifact,) = image_to_video.run(request, models, StageContext(folder, seed=asked.number))
    finally:
        pipeline.register_modules(**trained)
    return np.stack(list(media.read_frames(folder / artifact.path)))


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="the folder that has pocket/")
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--run-dir", type=Path, required=True, help="where the clips go")
    parser.add_argument("--people", type=int, default=5, help="clips of each movement")
    parser.add_argument("--alone", type=int, default=1, help="of these, clips that each expert makes alone, too")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--steps", type=int, help="denoising steps; the profile's if not said")
    parser.add_argument("--guidance", type=float, help="of both experts; the profile's if not said")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    profile = PROFILES["pocket"]
    reader = Reader.load(arguments.judge, arguments.device)
    models = image_to_video.Models(
        profile.weights(ImageToVideo.stage, arguments.weights),
        profile.shared_parts(ImageToVideo.stage, arguments.weights),
        getattr(torch, profile.dtype(arguments.device)),
        arguments.device,
    )
    given = {"num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance}
    options = {name: value for name, value in given.items() if value is not None}
    clips: dict[str, list[dict[str, Any]]] = {name: [] for name in ("drawn", *EXPERTS)}
    compared: list[dict[str, Any]] = []
    for asked in asked_clips(arguments.people, arguments.frames):
        # how good an instrument the judge is: what it says of the truth
        clips["drawn"].append(clip_figures(asked.drawn, asked, reader))
        for experts in EXPERTS:
            if experts != "both" and asked.number >= arguments.alone:
                continue
            folder = arguments.run_dir / experts / f"{asked.movement.replace(' ', '_')}-{asked.number}"
            clips[experts].append(clip_figures(make(asked, models, folder, options, experts), asked, reader))
        if asked.number < arguments.alone:
            compared.append(clips["both"][-1])
        print(f"{asked.prompt}: {clips['both'][-1]['found'][asked.movement]:.2f}", flush=True)
    figures: dict[str, Any] = {name: summary(made) for name, made in clips.items() if made}
    if compared:
        figures["both_where_compared"] = summary(compared)
    figures["by_movement"] = {
        name: _share([clip["found"][name] >= 1 for clip in clips["both"] if clip["movement"] == name])
        for name in ACTIONS
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

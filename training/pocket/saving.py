"""Toy pipelines on disk: what several stages share is kept once, where the table of profiles says."""

from pathlib import Path

from diffusers import DiffusionPipeline

from wanavatar_lab.profiles import PROFILES

PROFILE = PROFILES["pocket"]


def save_own_parts(pipeline: DiffusionPipeline, stage: str, folder: Path) -> None:
    """Save what belongs to `stage` alone into `folder`; the parts that it shares are listed as null, and dropped."""
    pipeline.register_modules(**dict.fromkeys(PROFILE.shared_parts(stage, folder)))
    pipeline.save_pretrained(folder)


def save_all_parts(pipeline: DiffusionPipeline, stage: str, weights_dir: Path) -> None:
    """Save a pipeline of `stage` under a weights folder, every part where the profile looks for it."""
    for name, place in PROFILE.shared_parts(stage, weights_dir).items():
        getattr(pipeline, name).save_pretrained(place)
    save_own_parts(pipeline, stage, PROFILE.weights(stage, weights_dir))

"""Save toy pipelines: components shared by several stages are stored once, at the paths of the profile table."""

from pathlib import Path

from diffusers import DiffusionPipeline

from wanavatar_lab.profiles import PROFILES

PROFILE = PROFILES["pocket"]


def save_own_parts(pipeline: DiffusionPipeline, stage: str, folder: Path) -> None:
    """Save the components that only `stage` uses into `folder`; shared ones become null in its model_index.json."""
    pipeline.register_modules(**dict.fromkeys(PROFILE.shared_parts(stage, folder)))
    pipeline.save_pretrained(folder)


def save_all_parts(pipeline: DiffusionPipeline, stage: str, weights_dir: Path) -> None:
    """Save a pipeline of `stage` under a weights folder, every component at the path that the profile expects."""
    for name, place in PROFILE.shared_parts(stage, weights_dir).items():
        getattr(pipeline, name).save_pretrained(place)
    save_own_parts(pipeline, stage, PROFILE.weights(stage, weights_dir))

"""The folder of one person, which notebooks 10 to 13 share, and the defaults of each profile."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.config import TrainingConfig
from training.config.recipes import RECIPES
from training.config.training_config import problems_of, with_current_names
from training.data.sample_list import listed_in
from training.loop.run_folder import METRICS
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import must_be, shown, suggestion
from wanavatar_lab.runs.run import runs_folder
from wanavatar_lab.ui.parameters import OPEN

TRAINING = "training"  # the first run of a person
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Defaults:
    """What a notebook's `auto` stands for.

    Attributes:
        landmarks: source of face landmarks, see `training.prepare`.
        draws: whether a person is drawn if no videos are given.
        aspects: shapes of the samples, separated by commas.
        frames: most frames of a segment.
        recipe: of `training.config.recipes`.
        changes: config fields that differ from the recipe.
    """

    landmarks: str
    draws: bool
    aspects: str
    frames: int
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)


DEFAULTS: dict[str, Defaults] = {
    # a first try that ends within a minute; `make train-demo` trains long enough to learn a person
    "pocket": Defaults(
        landmarks="drawn",
        draws=True,
        aspects="square",
        frames=32,
        recipe="pocket",
        changes={
            "max_train_steps": 8,
            "lr_warmup_steps": 2,
            "learning_rate": 5e-4,
            "gradient_accumulation_steps": 1,
            "checkpointing_steps": 4,
            "validation_steps": 4,
            "sample_every_n_steps": 8,
            "num_inference_steps": 4,
        },
    ),
    "full": Defaults(
        landmarks="mediapipe",
        draws=False,
        aspects="rec,square,vec",
        frames=80,
        recipe="s2v_14b_1gpu",
        changes={"validation_steps": 50, "sample_every_n_steps": 100},
    ),
}


@dataclass(frozen=True)
class Person:
    """The folder of one person, an absolute path."""

    folder: Path

    @classmethod
    def of(cls, name: str) -> "Person":
        """The folder of that name in the runs folder, or the folder itself if `name` is an absolute path.

        Raises:
            RequestError: the name is empty.
        """
        if not name.strip():
            raise RequestError([("person", must_be("a name, which becomes a folder among the runs", name))])
        return cls((runs_folder() / name.strip()).absolute())

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def videos(self) -> Path:
        """Drawn videos; a person's own may be anywhere."""
        return self.folder / "videos"

    @property
    def data(self) -> Path:
        """Output of `training.prepare`."""
        return self.folder / "data"

    @property
    def samples(self) -> Path:
        """Output of `training.encode`."""
        return self.folder / "samples"

    @property
    def run(self) -> Path:
        """Output of `training.train`."""
        return self.folder / TRAINING

    def run_named(self, name: str) -> Path:
        """The folder of one of several runs; `run` has the first name.

        Raises:
            RequestError: the name is empty, or of something else in the person's folder.
        """
        if not _RUN.fullmatch(name) or self.folder / name in (self.videos, self.data, self.samples):
            raise RequestError([("run", must_be("letters, digits, - and _, but not videos, data or samples", name))])
        return self.folder / name

    def runs(self) -> list[Path]:
        """The folders of all runs that have logged something, by name."""
        return [file.parent for file in sorted(self.folder.glob(f"*/{METRICS}"))]

    @property
    def clip_list(self) -> Path:
        """The list of the clips to train on, one folder per line."""
        return self.data / "processed" / "video_path.txt"

    @property
    def reference(self) -> Path:
        """A picture of the person with the mouth shut."""
        return self.data / "validation" / "reference.png"

    @property
    def voice(self) -> Path:
        """The sound of a held-out clip."""
        return self.data / "validation" / "audio.wav"


def defaults_of(profile: str) -> Defaults:
    """The defaults of a profile.

    Raises:
        RequestError: there is no such profile.
    """
    if profile not in DEFAULTS:
        raise RequestError([("profile", must_be(" or ".join(map(repr, PROFILES)), profile))])
    return DEFAULTS[profile]


def config_for(
    person: Person, profile: str, recipe: str = "auto", run: str = TRAINING, **values: Any
) -> TrainingConfig:
    """The settings of a person's run: the recipe, overridden by the profile's defaults, overridden by `values`.

    Args:
        run: name of the run's folder in the person's.
        recipe: of `training.config.recipes`; auto takes the profile's.
        values: config fields; one that is "auto" keeps its default.

    Raises:
        RequestError: there is no such recipe, or a value is not allowed.
    """
    defaults = defaults_of(profile)
    chosen = defaults.recipe if recipe in OPEN else recipe
    if chosen not in RECIPES:
        raise RequestError([("recipe", f"{shown(recipe)} is not a recipe; {suggestion(recipe, RECIPES)}")])
    told = RECIPES[chosen]() | dict(defaults.changes)
    told |= {"profile": profile, "samples": person.samples, "run": person.run_named(run)}
    samples = listed_in(person.samples)
    if samples and not any(sample.held_out for sample in samples):
        told["sample_every_n_steps"] = 0  # sample clips are made of held-out samples
    told |= with_current_names({name: value for name, value in values.items() if value not in OPEN})
    try:
        return TrainingConfig(**told)
    except ValidationError as error:
        raise RequestError(problems_of(error)) from error


def need(path: Path, notebook: str) -> Path:
    """A file or folder that another notebook makes.

    Raises:
        LabError: it does not exist.
    """
    if not path.exists():
        raise LabError(f"There is no {path}. Run notebook {notebook} first, with the same person.")
    return path

"""Where everything of one person lies, in one folder that notebooks 10 to 13 share; what each profile begins with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.config.config import TrainingConfig
from training.config.recipes import RECIPES
from training.data.sample_list import listed_in
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import shown, suggestion
from wanavatar_lab.runs.run import runs_folder
from wanavatar_lab.ui.parameters import OPEN


@dataclass(frozen=True)
class Usual:
    """What a profile begins with where a notebook says auto.

    Attributes:
        landmarks: what finds the face.
        draws: whether a person is drawn where no videos are given.
        aspects: of the samples, by commas.
        frames: of a segment, at most.
        recipe: of `training.config.recipes`.
        changes: fields of the config that differ from the recipe's.
    """

    landmarks: str
    draws: bool
    aspects: str
    frames: int
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)


USUAL: dict[str, Usual] = {
    # a first try that is over within a minute; `make train-demo` has the figures with which a person is learnt
    "pocket": Usual(
        landmarks="drawn",
        draws=True,
        aspects="square",
        frames=32,
        recipe="pocket",
        changes={
            "steps": 8,
            "warm_up": 2,
            "learning_rate": 5e-4,
            "accumulation": 1,
            "checkpoint_every": 4,
            "validate_every": 4,
            "sample_every": 8,
            "sample_steps": 4,
        },
    ),
    "full": Usual(
        landmarks="mediapipe",
        draws=False,
        aspects="rec,square,vec",
        frames=80,
        recipe="s2v_14b_1gpu",
        changes={"validate_every": 50, "sample_every": 100},
    ),
}


@dataclass(frozen=True)
class Person:
    """The folder of one person.

    Attributes:
        folder: absolute.
    """

    folder: Path

    @classmethod
    def of(cls, name: str) -> "Person":
        """The folder of that name among the runs, or the folder itself where `name` is an absolute path.

        Raises:
            RequestError: there is no name.
        """
        if not name.strip():
            raise RequestError([("person", "'' is not allowed; give a name, which a folder among the runs gets")])
        return cls((runs_folder() / name.strip()).absolute())

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def videos(self) -> Path:
        """Drawn ones; a person's own may lie anywhere."""
        return self.folder / "videos"

    @property
    def data(self) -> Path:
        """What `training.prepare` writes."""
        return self.folder / "data"

    @property
    def samples(self) -> Path:
        """What `training.encode` writes."""
        return self.folder / "samples"

    @property
    def run(self) -> Path:
        """What `training.train` writes."""
        return self.folder / "training"

    @property
    def reference(self) -> Path:
        """A picture of the person, mouth shut."""
        return self.data / "validation" / "reference.png"

    @property
    def voice(self) -> Path:
        """What a clip says that is held out."""
        return self.data / "validation" / "audio.wav"


def usual_of(profile: str) -> Usual:
    """What a profile begins with.

    Raises:
        RequestError: there is no such profile.
    """
    if profile not in USUAL:
        names = " or ".join(repr(name) for name in PROFILES)
        raise RequestError([("profile", f"{shown(profile)} is not allowed; give {names}")])
    return USUAL[profile]


def config_for(person: Person, profile: str, recipe: str = "auto", **values: Any) -> TrainingConfig:
    """What a run of a person is told: the recipe, above it what the profile begins with, above that `values`.

    Args:
        recipe: of `training.config.recipes`; auto takes the profile's.
        values: fields of the config; one that is "auto" is left as it is.

    Raises:
        RequestError: there is no such recipe, or a value is not allowed.
    """
    usual = usual_of(profile)
    chosen = usual.recipe if recipe in OPEN else recipe
    if chosen not in RECIPES:
        raise RequestError([("recipe", f"{shown(recipe)} is not allowed; {suggestion(recipe, RECIPES)}")])
    told = RECIPES[chosen]() | dict(usual.changes)
    told |= {"profile": profile, "samples": person.samples, "run": person.run}
    samples = listed_in(person.samples)
    if samples and not any(sample.held_out for sample in samples):
        told["sample_every"] = 0  # of which no clip could be made
    told |= {name: value for name, value in values.items() if value not in OPEN}
    try:
        return TrainingConfig(**told)
    except ValidationError as error:
        problems = [(str(each["loc"][0]), _refusal(each["input"], each["msg"])) for each in error.errors()]
        raise RequestError(problems) from error


def need(path: Path, notebook: str) -> Path:
    """A file or folder that another notebook makes.

    Raises:
        LabError: it is not there.
    """
    if not path.exists():
        raise LabError(f"There is no {path}. Run notebook {notebook} first, with the same person.")
    return path


def _refusal(value: Any, why: str) -> str:
    return f"{shown(value)} is not allowed: {why[:1].lower()}{why[1:]}"

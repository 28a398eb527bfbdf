"""The table of weights: what each stage needs, where it is published, and where it is kept under the weights folder.

The table itself is `table.toml`. A size of None could not be established.
"""

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.errors import RequestError, WeightsError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import shown


@dataclass(frozen=True)
class Layout:
    """One arrangement of the same weights in a folder.

    Attributes:
        name: of the layout.
        marker: a file or folder that only this layout has.
        needs: files that must exist, as patterns of paths in the folder; " | " separates alternatives, of which one is
            enough. The shards that an index names must exist too.
        repository: on the Hugging Face hub; None if several people published it, so that the folder does not show
            which repository it is from.
        files: what is downloaded of the repository, as patterns in which * also matches slashes.
        size: bytes of these files.
    """

    name: str
    marker: str
    needs: Sequence[str]
    repository: str | None = None
    files: Sequence[str] = ()
    size: int | None = None


@dataclass(frozen=True)
class Link:
    """A single file that is published at a URL outside the hub."""

    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Weights:
    """Weights that are downloaded together, or that ship with the repository.

    Attributes:
        name: on the command line.
        place: the folder or file under the weights folder.
        use: what they are for, in a few words.
        licence: its name.
        layouts: in the order in which a folder is compared with them; empty for a single file.
        fetched: the name of the layout that a download makes.
        gated: whether the hub serves them only to accounts that have accepted the licence.
        link: of a single file.
        lora: the name of the LoRA that they are, as requests use it; empty for other weights.
    """

    name: str
    place: str
    use: str
    licence: str
    layouts: tuple[Layout, ...] = ()
    fetched: str | None = None
    gated: bool = False
    link: Link | None = None
    lora: str = ""

    def path(self, weights_dir: Path | str) -> Path:
        """Their path under the weights folder; nothing is read."""
        return Path(weights_dir) / self.place

    @property
    def needed_by(self) -> tuple[tuple[str, str], ...]:
        """The stages whose weights these are, as (profile, stage); empty if no stage needs them."""
        stages = (
            (profile, stage, Path(profile.locations[stage]))
            for profile in PROFILES.values()
            for stage in profile.locations
        )
        return tuple((profile.name, stage) for profile, stage, path in stages if path.is_relative_to(self.place))

    @property
    def layout(self) -> Layout | None:
        """The layout that a download makes; None for a single file and for weights that ship."""
        return next((layout for layout in self.layouts if layout.name == self.fetched), None)

    @property
    def ships(self) -> bool:
        """Whether they come with the repository and are never downloaded."""
        return self.link is None and self.layout is None

    @property
    def size(self) -> int | None:
        """Bytes to download, where that is known in advance."""
        return self.link.size if self.link else self.layout.size if self.layout else None

    @property
    def source(self) -> str:
        """A repository of the hub, a URL, or "ships with this repository"."""
        if self.link is not None:
            return self.link.url
        return (self.layout and self.layout.repository) or "ships with this repository"


def _read_table() -> Iterator[Weights]:
    for name, entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items():
        layouts = tuple(Layout(**layout) for layout in entry.pop("layouts", ()))
        link = Link(**entry.pop("link")) if "link" in entry else None
        yield Weights(**{"name": name, "place": name, **entry}, layouts=layouts, link=link)


WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in _read_table()}


def find_weights(name: str) -> Weights:
    """The weights of that name; case does not matter.

    Raises:
        RequestError: there are none; the text suggests the nearest name.
    """
    known = {weights.name.lower(): weights for weights in WEIGHTS.values()}
    if name.lower() not in known:
        # people remember a part of a name, such as 14b
        near = [lower for lower in known if name and name.lower() in lower]
        near = near or difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        names = [known[lower].name for lower in near]
        advice = f"did you mean {' or '.join(map(repr, names))}?" if names else f"there are {', '.join(WEIGHTS)}"
        raise RequestError([("weights", f"{shown(name)} is not known; {advice}")])
    return known[name.lower()]


def weights_at(location: Path) -> Weights | None:
    """The weights that a profile keeps at `location` or in its parent folder; None if the table has none."""
    around = {location.name, location.parent.name}
    return next((weights for weights in WEIGHTS.values() if weights.place in around), None)


def weights_of_lora(name: str) -> Weights | None:
    """The weights that are the LoRA of this name; None if the table has none."""
    return next((weights for weights in WEIGHTS.values() if weights.lora and weights.lora == name), None)


def licence_page(weights: Weights) -> str:
    """Where the licence has to be accepted before a download; empty where nobody asks for that."""
    return f"https://huggingface.co/{weights.source}" if weights.gated else ""


def missing_weights(stage: str, location: Path, otherwise: str = "") -> WeightsError:
    """The error of a stage whose weights are not at `location`; `otherwise` says what else can be done."""
    weights = weights_at(location)
    how = f" {download_command(weights)}" if weights is not None else ""
    return WeightsError(
        f"The weights of {stage} are not at {location}.{how} If they are in another folder, set WANAVATAR_WEIGHTS to "
        f"it{otherwise}."
    )


@contextmanager
def append_download_command(location: Path) -> Iterator[None]:
    """Append the download command to errors about weights at `location`.

    Raises:
        WeightsError: the one raised inside, with the command appended.
    """
    try:
        yield
    except WeightsError as error:
        weights = weights_at(location)
        if weights is None:
            raise
        raise WeightsError(f"{error} {download_command(weights)}") from error


def download_command(weights: Weights) -> str:
    """A sentence with the command that brings the weights."""
    if weights.ships:
        return f"They ship with the repository: `git checkout -- weights/{weights.place}` brings them back."
    page = licence_page(weights)
    licence = f", once you have accepted the licence at {page}" if page else ""
    return (
        f"`wanavatar-lab weights download {weights.name}` gets what is missing ({amount(weights.size)} in all)"
        f"{licence}."
    )


def amount(size: int | None) -> str:
    """Bytes as people read them: 45.7 GB, in powers of ten."""
    if size is None:
        return "size unknown"
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} bytes"

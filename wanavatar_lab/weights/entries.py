"""What the table of weights is made of: weights, the layouts in which they lie, and where they come from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """One way in which the same weights are arranged in a folder.

    Attributes:
        name: what people call it.
        marker: what a folder of this layout has and one of another has not.
        needs: what has to be there, as patterns of paths in the folder; " | " stands between those of which one is
            enough. The shards that an index names are needed too.
        repository: on the Hugging Face hub; None if more than one person published it, so that the folder does not say
            whose it is.
        files: what is fetched of the repository, as patterns in which * also stands for slashes.
        size: bytes of these files.
    """

    name: str
    marker: str
    needs: tuple[str, ...]
    repository: str | None = None
    files: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Link:
    """A single file with an address of its own, outside of the hub."""

    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Weights:
    """Weights that are downloaded together, or that ship.

    Attributes:
        name: what the command line calls them.
        place: the folder or file under the weights folder.
        needed_by: the stages, as (profile, stage); empty if no stage needs them.
        use: what they are for, in a few words.
        licence: its name.
        layouts: in the order in which a folder is compared with them; empty for a single file.
        fetched: the name of the layout that a download makes.
        gated: whether the hub gives them only to accounts that have accepted the licence.
        link: of a single file.
    """

    name: str
    place: str
    needed_by: tuple[tuple[str, str], ...]
    use: str
    licence: str
    layouts: tuple[Layout, ...] = ()
    fetched: str | None = None
    gated: bool = False
    link: Link | None = None

    def path(self, weights_dir: Path | str) -> Path:
        """Where they lie; nothing is read."""
        return Path(weights_dir) / self.place

    @property
    def layout(self) -> Layout | None:
        """The layout that a download makes; None for a single file and for what ships."""
        return next((layout for layout in self.layouts if layout.name == self.fetched), None)

    @property
    def ships(self) -> bool:
        """Whether they come with the repository and are never downloaded."""
        return self.link is None and self.layout is None

    @property
    def size(self) -> int | None:
        """Bytes to download, where that is known beforehand."""
        if self.link is not None:
            return self.link.size
        return self.layout.size if self.layout is not None else None

    @property
    def source(self) -> str:
        """Where they come from: a repository of the hub, an address, or this repository."""
        if self.link is not None:
            return self.link.url
        if self.layout is not None and self.layout.repository is not None:
            return self.layout.repository
        return "ships with this repository"

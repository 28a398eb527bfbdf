"""Whether files are what was published: their hashes, and the manifest that keeps those beside the files."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.files import write_json
from wanavatar_lab.weights.folders import MANIFEST

BLOCK = 8 * 1024 * 1024  # bytes
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Published:
    """A file as it was published.

    Attributes:
        name: its path in the folder.
        size: bytes.
        sha256: of its contents; None for the small files of a repository, of which the hub names git's hash only.
        blob: git's hash; None where the file comes from elsewhere.
    """

    name: str
    size: int
    sha256: str | None = None
    blob: str | None = None

    @property
    def mark(self) -> str:
        """A short name of these contents, so that what has arrived of other ones is not continued."""
        return (self.sha256 or self.blob or "unknown")[:16]


@dataclass(frozen=True)
class Entry:
    """A file as it was when it was downloaded."""

    size: int
    sha256: str


@dataclass
class Manifest:
    """What a folder was downloaded from, and the hash of each of its files.

    Attributes:
        repository: on the hub.
        revision: the commit.
        files: by their path in the folder.
    """

    repository: str
    revision: str
    files: dict[str, Entry] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it into `folder`.

        Raises:
            DiskFull: there is no room.
        """
        write_json(folder / MANIFEST, asdict(self))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none, as a folder that was not downloaded by this package.

    Raises:
        WeightsError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        files = {name: Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in said["files"].items()}
        return Manifest(str(said["repository"]), str(said["revision"]), files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged ({error!r}). Delete it, and the hub is asked instead.") from error


def sha256_of(path: Path, on_bytes: OnBytes | None = None) -> str:
    """The sha256 of a file; `on_bytes` hears of every block."""
    return _digest(path, hashlib.sha256(), on_bytes)


def is_as_published(path: Path, published: Published, on_bytes: OnBytes | None = None) -> bool:
    """Whether a file has the size and the contents that were published."""
    if path.stat().st_size != published.size:
        return False
    if published.sha256 is not None:
        return sha256_of(path, on_bytes) == published.sha256
    if published.blob is None:
        return True
    # git hashes a header before the contents
    return _digest(path, hashlib.sha1(b"blob %d\0" % published.size), on_bytes) == published.blob


def is_cut_short(path: Path) -> bool:
    """Whether a safetensors file ends before the tensors that its header names, or has no header; others never are."""
    if path.suffix != ".safetensors":
        return False
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return True
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return True
    if not isinstance(header, Mapping):
        return True
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size < 8 + length + max(ends, default=0)


def _digest(path: Path, digest: "hashlib._Hash", on_bytes: OnBytes | None) -> str:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    return digest.hexdigest()

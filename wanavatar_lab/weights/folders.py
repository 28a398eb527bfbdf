"""Which weights made a run: short hashes for its manifest.

What lies where weights belong: which layout it is, and what is missing from it. Nothing is hashed or loaded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.files import Entry, files_below
from wanavatar_lab.weights.table import Layout, Weights

MANIFEST = "wanavatar_manifest.json"
PARTIAL = ".download"  # in a folder, what has arrived of files that are not whole yet
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


@dataclass(frozen=True)
class Found:
    """What lies at the place of some weights.

    Attributes:
        weights: which.
        path: the place.
        layout: which of its layouts lies there; None for a single file, and where no layout is recognised.
        missing: what it lacks, as paths or patterns in the folder; empty if nothing lies there at all.
        size: bytes that lie there.
    """

    weights: Weights
    path: Path
    layout: Layout | None
    missing: tuple[str, ...]
    size: int

    @property
    def state(self) -> str:
        """absent, incomplete or present; whether the bytes are right, only `verify` says."""
        if self.missing:
            return "incomplete"
        return "present" if self.path.exists() else "absent"


def look(weights: Weights, weights_dir: Path | str) -> Found:
    """See what lies at the place of `weights`."""
    path = weights.path(weights_dir)
    if not weights.layouts:
        size = path.stat().st_size if path.is_file() else 0
        return Found(weights, path, None, (f"{path.name} as a file",) if path.is_dir() else (), size)
    if not path.exists():
        return Found(weights, path, None, (), 0)
    layout = next((layout for layout in weights.layouts if path.is_dir() and (path / layout.marker).exists()), None)
    needed = layout or weights.layout
    missing = _missing(path, needed) if needed is not None else ()
    return Found(
        weights, path, layout, missing, sum(found.st_size for file in files_in(path) if (found := Entry(file).stat()))
    )


def files_in(folder: Path) -> Iterator[Path]:
    """Every file of a weights folder, without what downloads keep there for themselves."""
    for path in (entry.path for entry in files_below(folder)):
        inside = path.relative_to(folder).parts
        if PARTIAL not in inside and ".cache" not in inside and path.name != MANIFEST:
            yield path


def _missing(folder: Path, layout: Layout) -> tuple[str, ...]:
    lacking = [need for need in layout.needs if not any(_lies(folder, pattern) for pattern in need.split(" | "))]
    return tuple(dict.fromkeys([*lacking, *sorted(_lost_shards(folder))]))


def _lies(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _lost_shards(folder: Path) -> Iterator[str]:
    """The shards that an index, or the names of the other shards, say there are."""
    for index in [*folder.glob("*.index.json"), *folder.glob("*/*.index.json")]:
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield f"{index.relative_to(folder).as_posix()} (it is damaged)"
            continue
        yield from (_beside(index, name, folder) for name in sorted(names) if not (index.parent / name).exists())
    for shard in [*folder.glob("*-of-*"), *folder.glob("*/*-of-*")]:
        if match := _SHARD.fullmatch(shard.name):
            for number in range(1, int(match["count"]) + 1):
                name = f"{match['stem']}-{number:05}-of-{match['count']}{match['suffix']}"
                if not (shard.parent / name).exists():
                    yield _beside(shard, name, folder)


def _beside(path: Path, name: str, folder: Path) -> str:
    return (path.parent.relative_to(folder) / name).as_posix()


WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".bin")
EDGE = 1 << 20  # bytes


def fingerprint(folder: Path, elsewhere: Iterable[Path] = ()) -> dict[str, str]:
    """For each weights file under `folder`, a hash of its size and of its first and last MiB.

    Tells two checkpoints apart without reading tens of gigabytes before every run; small files are hashed whole.

    Args:
        folder: a stage's own weights; its files are named relative to it.
        elsewhere: folders of parts that lie outside of it; their files are named with the folder's own name in front.
    """
    hashes = {path.relative_to(folder).as_posix(): _hash(path) for path in _weights(folder)}
    for place in dict.fromkeys(elsewhere):
        hashes |= {path.relative_to(place.parent).as_posix(): _hash(path) for path in _weights(place)}
    return hashes


def _weights(folder: Path) -> list[Path]:
    return [entry.path for entry in files_below(folder) if entry.path.suffix in WEIGHTS_SUFFIXES]


def _hash(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(EDGE))
        file.seek(max(EDGE, size - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()

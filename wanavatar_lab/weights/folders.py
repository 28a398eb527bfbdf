"""Weights on disk: which layout a folder has, what it lacks, and fingerprints of its files. No tensor is loaded."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.files import entries, files_below, stat_if_possible
from wanavatar_lab.weights.table import Layout, Weights

MANIFEST = "wanavatar_manifest.json"
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".bin")
EDGE = 1 << 20  # bytes of a file's beginning and end that its fingerprint covers
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


@dataclass(frozen=True)
class Found:
    """The state of some weights on disk.

    Attributes:
        weights: which.
        path: their folder or file.
        layout: the layout of the folder; None for a single file, and if no layout is recognised.
        missing: files that it lacks, as paths or patterns in the folder, or the permission to read it; empty if `path`
            does not exist at all.
        size: bytes on disk.
    """

    weights: Weights
    path: Path
    layout: Layout | None
    missing: tuple[str, ...]
    size: int

    @property
    def state(self) -> str:
        """absent, incomplete or present; `verify` checks the contents."""
        if self.missing:
            return "incomplete"
        return "present" if self.path.exists() else "absent"


def look(weights: Weights, weights_dir: Path | str) -> Found:
    """List the files of `weights` and compare them with what is needed."""
    path = weights.path(weights_dir)
    if not weights.layouts:
        size = path.stat().st_size if path.is_file() else 0
        return Found(weights, path, None, (f"{path.name} as a file",) if path.is_dir() else (), size)
    if not path.exists():
        return Found(weights, path, None, (), 0)
    try:
        entries(path)
    except PermissionError:  # another user's
        return Found(weights, path, None, ("the permission to read it",), 0)
    layout = next((layout for layout in weights.layouts if path.is_dir() and (path / layout.marker).exists()), None)
    needed = layout or weights.layout
    missing = _missing(path, needed) if needed is not None else ()
    size = sum(found.st_size for file in files_in(path) if (found := stat_if_possible(file)))
    return Found(weights, path, layout, missing, size)


def files_in(folder: Path) -> Iterator[Path]:
    """Every file of a weights folder but the manifest and hidden ones, in which downloads keep their state.

    A part may be a link to the folder of another model, or on another disk.
    """
    for path in files_below(folder, follow_links=True):
        inside = path.relative_to(folder).parts
        if path.name != MANIFEST and not any(part.startswith(".") for part in inside):
            yield path


def fingerprint(folder: Path, elsewhere: Iterable[Path] = ()) -> dict[str, str]:
    """For each weights file under `folder`, a hash of its size and of its first and last MiB.

    Tells two checkpoints apart without reading tens of gigabytes before every run; small files are hashed whole.

    Args:
        folder: a stage's own weights; its files are named relative to it.
        elsewhere: folders of parts outside of it; their files are named with the folder's own name in front.
    """
    places = {folder: folder, **{place: place.parent for place in elsewhere}}
    return {
        path.relative_to(base).as_posix(): _hash(path)
        for place, base in places.items()
        for path in files_below(place, follow_links=True)
        if path.suffix in WEIGHTS_SUFFIXES
    }


def _missing(folder: Path, layout: Layout) -> tuple[str, ...]:
    lacking = [need for need in layout.needs if not any(any(folder.glob(pattern)) for pattern in need.split(" | "))]
    return tuple(dict.fromkeys([*lacking, *sorted(_missing_shards(folder))]))


def _missing_shards(folder: Path) -> Iterator[str]:
    """Shards that are named by an index, or counted by the names of other shards, and do not exist."""
    for index in [*folder.glob("*.index.json"), *folder.glob("*/*.index.json")]:
        try:
            mapped = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            names = sorted({os.fspath(name) for name in mapped})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            yield f"{index.relative_to(folder).as_posix()} (it is damaged)"
            continue
        yield from _missing_beside(index, names, folder)
    for shard in [*folder.glob("*-of-*"), *folder.glob("*/*-of-*")]:
        if match := _SHARD.fullmatch(shard.name):
            numbers = range(1, int(match["count"]) + 1)
            names = [f"{match['stem']}-{number:05}-of-{match['count']}{match['suffix']}" for number in numbers]
            yield from _missing_beside(shard, names, folder)


def _missing_beside(file: Path, names: Iterable[str], folder: Path) -> Iterator[str]:
    return ((file.parent.relative_to(folder) / name).as_posix() for name in names if not (file.parent / name).exists())


def _hash(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(EDGE))
        file.seek(max(EDGE, size - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()

"""Which weights made a run: short hashes for its manifest."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

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
    return sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS_SUFFIXES)


def _hash(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(EDGE))
        file.seek(max(EDGE, size - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()

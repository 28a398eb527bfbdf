"""The LoRAs under the weights folder, for lists that are looked at again and again: a file is read once.

A file is read again when it or its folder has changed; notes that are changed where they lie are seen after `forget`.
"""

from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.errors import LabError
from wanavatar_lab.lora import Adapter, Description, describe, find_adapters
from wanavatar_lab.settings import read_settings


@dataclass(frozen=True)
class Shelved:
    """One LoRA.

    Attributes:
        modified: when its newest file was written, in seconds since 1970.
    """

    found: Description
    modified: float

    @property
    def id(self) -> str:
        """Tells it from all others: pictures and video may have LoRAs of one name."""
        return f"{self.found.kind}/{self.found.name}"


class LoraShelf:
    """All LoRAs of a weights folder, which is the one of the settings if None.

    Attributes:
        folder: where they lie.
        all: by kind and name.
        fault: why they cannot be listed; empty if they can.
    """

    def __init__(self, weights_dir: Path | str | None = None) -> None:
        self.folder = Path(weights_dir or read_settings().weights_dir).absolute()
        self.all: list[Shelved] = []
        self.fault = ""
        self._read: dict[str, tuple[tuple[int, ...], Shelved]] = {}

    def refresh(self) -> bool:
        """Look at the disk again; whether anything is different."""
        before = (self.all, self.fault)
        try:
            self.all, self.fault = self._look(), ""
        except (LabError, OSError) as error:  # of a model's config, or of the disk
            self.all, self.fault = [], str(error)
        return (self.all, self.fault) != before

    def forget(self) -> None:
        """Read every file anew at the next look."""
        self._read = {}

    def find(self, *, kind: str = "", query: str = "") -> list[Shelved]:
        """LoRAs by kind and name.

        Args:
            kind: only these: img, character, move, camera, mov.
            query: only those that have each of these words in what is said of them, in any case.
        """
        words = query.casefold().split()
        return [each for each in self.all if (not kind or each.found.kind == kind) and _holds(each.found, words)]

    def kinds(self) -> list[str]:
        """The kinds that there are."""
        return list(dict.fromkeys(each.found.kind for each in self.all))

    def _look(self) -> list[Shelved]:
        shelved: list[Shelved] = []
        read: dict[str, tuple[tuple[int, ...], Shelved]] = {}
        for adapter in find_adapters(self.folder):
            key, now = f"{adapter.kind}/{adapter.name}", _state(adapter)
            known = self._read.get(key)
            if known is None or known[0] != now:
                (found,) = describe([adapter], self.folder)
                known = now, Shelved(found, max(file.stat().st_mtime for file in adapter.files.values()))
            read[key] = known
            shelved.append(known[1])
        self._read = read
        return shelved


def _state(adapter: Adapter) -> tuple[int, ...]:
    """What changes with the files of a LoRA, or with what lies beside them."""
    facts = [file.stat() for file in adapter.files.values()]
    folders = [file.parent.stat().st_mtime_ns for file in adapter.files.values()]
    return (*(fact.st_mtime_ns for fact in facts), *(fact.st_size for fact in facts), *folders)


def _holds(found: Description, words: list[str]) -> bool:
    if not words:
        return True
    text = "\n".join([found.name, found.kind, found.base, found.description, *found.trigger_words]).casefold()
    return all(word in text for word in words)

"""The LoRAs under the weights folder: size, rank, base model, trigger words and preview of each, and where it fits.

loras = LoraList()
loras.on_use(lambda name, stage, profile: panels[stage].form.use_lora(name, profile))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.lora import Adapter, Description, describe, find_adapters
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.field_spec import translated
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.language import language, read_words, stage_name
from wanavatar_lab.ui.listing import Listing, matches
from wanavatar_lab.ui.lora_cards import rank_of
from wanavatar_lab.ui.served_files import can_show, server_path
from wanavatar_lab.ui.widget import script, styles


class LoraList(Listing):
    """The LoRAs of a weights folder; `kind` and `query` as `LoraFolder.find` has them.

    Attributes:
        folder: where LoRA files are to be put.
        usable: whether a listener takes the LoRAs that are chosen.
    """

    REFRESH_SECONDS = 5.0
    _esm = script("listing", "lora_list")
    _css = styles("listing", "lora_list")
    WORDS = read_words(__file__, "listing", "lora_list")

    folder = traitlets.Unicode("").tag(sync=True)
    usable = traitlets.Bool(False).tag(sync=True)

    def __init__(self, weights_dir: Path | str | None = None) -> None:
        self._loras = LoraFolder(weights_dir)
        self._listeners: list[Callable[[str, str, str], Any]] = []
        super().__init__(folder=str(self._loras.folder / "loras"))

    def on_use(self, listener: Callable[[str, str, str], Any]) -> None:
        """Call `listener` with a name, a stage and a profile when a person wants to use that LoRA there."""
        self._listeners.append(listener)
        self.usable = True

    def _look(self) -> bool:
        changed = self._loras.refresh()
        if changed:
            self.notice = self.fault = self._loras.fault
        return changed

    def _find(self) -> Sequence["LoraEntry"]:
        return self._loras.find(kind=self.kind, query=self.query)

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(each.found.kind for each in self._loras.all))

    def _act(self, content: Mapping[str, Any]) -> None:
        match content.get("kind"):
            case "look":
                self._loras.forget()
                self.refresh()
            case "use":
                stage, _slash, profile = str(content.get("place")).partition("/")
                for listener in self._listeners:
                    listener(str(content.get("name")), stage, profile)

    def _card(self, found: "LoraEntry") -> dict[str, Any]:
        lora = found.found
        return {
            "id": found.id,
            **{name: getattr(lora, name) for name in ("name", "kind", "base", "bytes", "description", "problem")},
            "rank": rank_of(lora),
            "usual": "" if lora.usual_weight is None else f"{lora.usual_weight:g}",
            "pair": len(lora.files) > 1,
            "words": lora.trigger_words,
            "link": lora.link if lora.link.startswith(("https://", "http://")) else "",
            "picture": server_path(lora.preview) if lora.preview and can_show(lora.preview) else "",
            "version": str(found.time),
            "places": [{"place": place, "label": self._label(place)} for place in lora.fits],
        }

    def _label(self, place: str) -> str:
        """A stage and a profile that a LoRA fits, `stage/profile`, in words; of a profile only its name."""
        stage, _, profile = place.partition("/")
        name = language.of(translated(PROFILES[profile].label)).partition(":")[0].partition("：")[0]
        return language.of(self.WORDS["place"]).format(stage=stage_name(stage), profile=name)


@dataclass(frozen=True)
class LoraEntry:
    """One LoRA of a folder.

    Attributes:
        time: when its newest file was written, in seconds since 1970.
    """

    found: Description
    time: float

    @property
    def id(self) -> str:
        """Unique among all LoRAs: one for pictures and one for video may have the same name."""
        return f"{self.found.kind}/{self.found.name}"

    @property
    def texts(self) -> list[str]:
        """What a search looks through."""
        found = self.found
        return [found.name, found.kind, found.base, found.description, *found.trigger_words]


class LoraFolder:
    """All LoRAs of a weights folder, which is that of the settings if None.

    A file is read again when it or its folder has changed; notes that were edited in place are read after `forget`.

    Attributes:
        folder: the weights folder.
        all: its LoRAs, by kind and name.
        fault: why they cannot be listed; empty if they can.
    """

    def __init__(self, weights_dir: Path | str | None = None) -> None:
        self.folder = Path(weights_dir or read_settings().weights_dir).absolute()
        self.all: list[LoraEntry] = []
        self.fault = ""
        self._read: dict[str, tuple[tuple[int, ...], LoraEntry]] = {}

    def refresh(self) -> bool:
        """Read the disk again; whether anything changed."""
        before = (self.all, self.fault)
        try:
            self._read = {f"{each.kind}/{each.name}": self._entry(each) for each in find_adapters(self.folder)}
            self.all, self.fault = [entry for _, entry in self._read.values()], ""
        except (LabError, OSError) as error:  # of a model's config, or of the disk
            self.all, self.fault = [], str(error)
        return (self.all, self.fault) != before

    def forget(self) -> None:
        """Read every file anew at the next refresh."""
        self._read = {}

    def find(self, *, kind: str = "", query: str = "") -> list[LoraEntry]:
        """LoRAs by kind and name.

        Args:
            kind: only these: img, character, move, camera, mov.
            query: only those with each of these words in their name, kind, base, description or trigger words.
        """
        return [each for each in self.all if kind in ("", each.found.kind) and matches(query, *each.texts)]

    def _entry(self, adapter: Adapter) -> tuple[tuple[int, ...], LoraEntry]:
        """An adapter, read from disk if its files or their folders have changed, with the facts that tell so."""
        facts = [file.stat() for file in adapter.files.values()]
        folders = [file.parent.stat().st_mtime_ns for file in adapter.files.values()]
        now = (*(fact.st_mtime_ns for fact in facts), *(fact.st_size for fact in facts), *folders)
        known = self._read.get(f"{adapter.kind}/{adapter.name}")
        if known is not None and known[0] == now:
            return known
        (found,) = describe([adapter], self.folder)
        return now, LoraEntry(found, max(fact.st_mtime for fact in facts))

"""All LoRAs that are there: size, rank, the model each is for, its trigger words and its preview; and where it fits.

loras = LoraList()
loras.on_use(lambda name, stage, profile: take_up(panels[stage].form, name, profile))

The LoRAs under the weights folder, for lists that are looked at again and again: a file is read once.

A file is read again when it or its folder has changed; notes that are changed where they lie are seen after `forget`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.lora import Adapter, Description, describe, find_adapters
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, Words
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui import listing
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.lora_cards import LoraCards
from wanavatar_lab.ui.widget import can_show, script, server_path, styles


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


WORDS = read_words(__file__, "lora_list")


class LoraList(listing.Listing):
    """The LoRAs of the weights folder; `kind` and `query` as `LoraShelf.find` has them.

    Attributes:
        folder: where LoRAs are to be put.
        usable: whether anyone takes one up that is chosen here.
    """

    REFRESH_SECONDS = 5.0
    _esm = script("listing", "lora_list")
    _css = styles("listing", "lora_list")
    WORDS: ClassVar[dict[str, Words]] = listing.WORDS | WORDS

    folder = traitlets.Unicode("").tag(sync=True)
    usable = traitlets.Bool(False).tag(sync=True)

    def __init__(self, weights_dir: Path | str | None = None) -> None:
        self._shelf = LoraShelf(weights_dir)
        self._listeners: list[Callable[[str, str, str], Any]] = []
        super().__init__(folder=str(self._shelf.folder / "loras"))

    def on_use(self, listener: Callable[[str, str, str], Any]) -> None:
        """Call `listener` with a name, a stage and a profile when someone wants that LoRA there."""
        self._listeners.append(listener)
        self.usable = True

    def _look(self) -> bool:
        changed = self._shelf.refresh()
        if changed:
            self.notice = self._shelf.fault
        return changed

    def _find(self) -> Sequence[Shelved]:
        return self._shelf.find(kind=self.kind, query=self.query)

    def _kinds(self) -> list[str]:
        return self._shelf.kinds()

    def _fault(self) -> str:
        return self._shelf.fault

    def _act(self, content: Mapping[str, Any]) -> None:
        match content.get("kind"):
            case "look":
                self._shelf.forget()
                self.refresh()
            case "use":
                stage, _slash, profile = str(content.get("place")).partition("/")
                for listener in self._listeners:
                    listener(str(content.get("name")), stage, profile)

    def _card(self, found: Shelved) -> dict[str, Any]:
        lora = found.found
        return {
            "id": found.id,
            "name": lora.name,
            "kind": lora.kind,
            "base": lora.base,
            "bytes": lora.bytes,
            "rank": "–".join(str(rank) for rank in dict.fromkeys(lora.rank or ())),
            "usual": "" if lora.usual_weight is None else f"{lora.usual_weight:g}",
            "pair": len(lora.files) > 1,
            "words": lora.trigger_words,
            "description": lora.description,
            "link": lora.link if lora.link.startswith(("https://", "http://")) else "",
            "problem": lora.problem,
            "picture": server_path(lora.preview) if lora.preview and can_show(lora.preview) else "",
            "version": str(found.modified),
            "places": [{"place": place, "label": _place(place)} for place in lora.fits],
        }


def take_up(form: Form, name: str, profile: str) -> None:
    """Switch a LoRA on in a form with the weights of its card, beside those that are on, and show where.

    Raises:
        RequestError: the form has no LoRAs, or too many.
    """
    form.set(profile=profile)
    cards = form.controls.get("loras")
    chosen = list(cards.value) if cards is not None else []
    if name not in [each["name"] for each in chosen]:
        wanted = cards.choice_of(name) if isinstance(cards, LoraCards) else {"name": name}
        form.set(loras=[*chosen, wanted])
    form.expand()


def _place(place: str) -> str:
    stage, _, profile = place.partition("/")
    labels = language.of(STAGE_REQUESTS[stage].labels), language.of(dict(PROFILES[profile].labels))
    return language.of(WORDS["place"]).format(stage=labels[0], profile=labels[1].partition(":")[0].partition("：")[0])

"""LoRAs in a form: a card for each that fits, with a tick, its weights, trigger words and preview.

`LoraFolder` reads the weights folder, for these cards, for `lora_list` and for the gallery.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from pydantic import BaseModel

from wanavatar_lab.errors import LabError
from wanavatar_lab.lora import Description, describe, find_adapters
from wanavatar_lab.lora.keys import counts_in_words
from wanavatar_lab.requests import FieldView, Request, TextToImage, fields_of
from wanavatar_lab.requests.loras import read_adapters
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.elements import LABEL_WIDTH, ROW, WIDE, alert, bare, shared, small
from wanavatar_lab.ui.fields import Control, number_input, range_of
from wanavatar_lab.ui.language import language, matches, read_words
from wanavatar_lab.ui.served_files import can_show
from wanavatar_lab.ui.widget import LabBox, loop_runs
from wanavatar_lab.weights.table import amount, weights_of_lora

PREVIEW_WIDTH = "14em"
CLOSED_AFTER = 10.0  # seconds until replaced cards are closed: a page that is still drawing them fails without them
WORDS = read_words(__file__, "lora_cards")

_Listener = Callable[[Any], None]


class LoraCards(Control):
    """The cards of all LoRAs for the form's stage and profile; the value is the list of those that are switched on."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._request_class = request_class
        # the items of the list say which weights there are
        self._item: type[BaseModel] = request_class.model_fields[view.name].annotation.__args__[0]  # type: ignore[union-attr]
        self._profile, self._fitting, self._folder = "full", list[Description](), LoraFolder()
        self._prompt: Control | None = None
        self._title, self._message = bare(widgets.HTML), bare(widgets.HTML)
        self._cards = bare(widgets.VBox)
        self._refresh = bare(widgets.Button)
        super().__init__(view, [self._title, self._cards, self._message, self._refresh])
        self._refresh.on_click(lambda _: self._look())
        self._look()

    @property
    def cards(self) -> Sequence["LoraCard"]:
        """One for each LoRA, in the order of the list."""
        return tuple(self._cards.children)

    def connect(self, controls: Mapping[str, Control]) -> None:
        """Find the prompt, into which trigger words go."""
        self._prompt = controls.get("prompt")

    def set_profile(self, profile: str) -> None:
        """Show the LoRAs that fit the models of this profile instead."""
        self._profile = profile
        self._look()

    def _read(self) -> list[dict[str, Any]]:
        return [card.choice() for card in self.cards if card.use.value]

    def _write(self, value: Any) -> None:
        self._show(self._item.model_validate(each).model_dump() for each in read_adapters(value))

    def _look(self) -> None:
        self._folder.forget()  # also notes that were edited in place are to be seen
        self._folder.refresh()
        place = f"{self._request_class.stage}/{self._profile}"
        self._fitting = [each.found for each in self._folder.all if place in each.found.fits]
        with self._writing():
            self._show(self._read())

    def _show(self, choices: Iterable[dict[str, Any]]) -> None:
        """A card for each LoRA that fits, and for each that is chosen and missing, which a run would refuse."""
        chosen = {choice["name"]: choice for choice in choices}
        missing = chosen.keys() - {each.name for each in self._fitting}
        unknown = [Description(name, "", {}, base="", problem=_why_missing(name)) for name in chosen if name in missing]
        shown = [*self._fitting, *unknown]
        if [card.found for card in self.cards] != shown:
            before = self.cards
            self._cards.children = [LoraCard(each, self._item, self._add_to_prompt, self._changed) for each in shown]
            _close_later(before)
        for card in self.cards:
            card.set(chosen.get(card.found.name))
        self._write_message()

    def _add_to_prompt(self, words: str) -> None:
        text = (self._prompt.value or "").rstrip(" ,") if self._prompt is not None else ""
        if self._prompt is not None and words not in text:
            self._prompt.change(f"{text}, {words}" if text else words)

    def _write_message(self) -> None:
        kind = "img" if self._request_class.stage == TextToImage.stage else "mov"
        empty = "" if self.cards else small(WORDS.text("empty", folder=self._folder.folder / "loras" / kind))
        self._message.value = alert(self._folder.fault) if self._folder.fault else empty

    def _write_labels(self) -> None:
        self._title.value = f"<strong>{escape(self.label)}</strong>"
        self._refresh.description = WORDS.text("refresh")
        self._write_message()


def _why_missing(name: str) -> str:
    weights = weights_of_lora(name)
    if weights is None:
        return WORDS.text("unknown")
    return WORDS.text("download", command=f"wanavatar-lab weights download {weights.name}", size=amount(weights.size))


def _close_later(cards: Sequence["LoraCard"]) -> None:
    def close() -> None:
        for card in cards:
            card.close()

    if loop_runs():
        asyncio.get_running_loop().call_later(CLOSED_AFTER, close)
    else:
        close()


class LoraCard(LabBox):
    """One LoRA, with the weights that the request has for each.

    Args:
        found: the LoRA.
        item: the model of an item in the request's list.
        on_trigger: called with a trigger word that is to be added to the prompt.
        on_change: called when a person changed something.
    """

    def __init__(self, found: Description, item: type[BaseModel], on_trigger: _Listener, on_change: _Listener) -> None:
        self.found = found
        self.use = widgets.Checkbox(style=LABEL_WIDTH, layout=WIDE)
        self._views = {name: view for name, view in fields_of(item).items() if name != "name"}
        self._usual = 1.0 if found.usual_weight is None else found.usual_weight
        self.weights = {name: _weight(view, self._usual) for name, view in self._views.items()}
        self.triggers = [bare(widgets.Button) for _ in found.trigger_words]
        self._facts, self._problem, self._unseen = bare(widgets.HTML), found.problem, ""
        row = shared(widgets.Layout, **ROW)
        weights, triggers = widgets.HBox([*self.weights.values()], layout=row), widgets.HBox(self.triggers, layout=row)
        border = {"border": "1px solid var(--jp-border-color2, #ccc)", "padding": "0.4em", "margin": "0 0 0.4em"}
        super().__init__([self.use, weights, self._facts, triggers, *self._preview()], layout=border)
        for box in (self.use, *self.weights.values()):
            box.observe(on_change, "value")
        for word, button in zip(found.trigger_words, self.triggers, strict=True):
            button.on_click(lambda _, word=word: on_trigger(word))

    def choice(self) -> dict[str, Any]:
        """This LoRA as the request takes it."""
        return {"name": self.found.name, **{name: box.value for name, box in self.weights.items()}}

    def set(self, choice: dict[str, Any] | None) -> None:
        """Switch it on with these weights, or off."""
        self.use.value = choice is not None
        for name, box in self.weights.items():
            if choice is not None:
                box.value = self._usual if choice[name] is None else choice[name]

    def show_words(self) -> None:
        """Put its texts into the language shown."""
        found, name = self.found, self.found.name
        self.use.description = WORDS.text("use", name=name)
        for field, box in self.weights.items():
            box.description = WORDS.text("weight", name=name, label=language.of(self._views[field].labels))
            box.tooltip = range_of(self._views[field])
        for word, button in zip(found.trigger_words, self.triggers, strict=True):
            button.description = WORDS.text("add", word=word)
        rank = rank_of(found) and WORDS.text("rank", rank=rank_of(found))
        unseen = self._unseen and WORDS.text("preview", file=self._unseen)
        facts = (found.kind, found.base, rank, left_out_in_words(found), found.description, unseen)
        text = small(" · ".join(filter(None, facts)))
        self._facts.value = text + (alert(self._problem) if self._problem else "")

    def _preview(self) -> list[widgets.Widget]:
        """The picture of its effect; where the page cannot show it, its name or what is wrong is noted instead."""
        from wanavatar_lab.ui.player import Player  # its script is read only where something is shown

        if not self.found.preview:
            return []
        if not can_show(self.found.preview):
            self._unseen = Path(self.found.preview).name
            return []
        try:
            player = Player(self.found.preview)
        except LabError as error:  # damaged
            self._problem = "; ".join(filter(None, (self._problem, str(error))))
            return []
        player.layout.width = PREVIEW_WIDTH
        return [player]


def _weight(view: FieldView, usual: float) -> widgets.FloatText:
    box = number_input(view)
    box.value, box.step, box.style = usual, 0.05, LABEL_WIDTH
    return box


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
            found: dict[str, tuple[tuple[int, ...], LoraEntry]] = {}
            for each in find_adapters(self.folder):
                stats = [file.stat() for file in each.files.values()]
                folders = [file.parent.stat().st_mtime_ns for file in each.files.values()]
                now = (*(stat.st_mtime_ns for stat in stats), *(stat.st_size for stat in stats), *folders)
                name = f"{each.kind}/{each.name}"
                if name in self._read and self._read[name][0] == now:
                    found[name] = self._read[name]
                else:
                    (described,) = describe([each], self.folder)
                    found[name] = now, LoraEntry(described, max(stat.st_mtime for stat in stats))
            self._read, self.all, self.fault = found, [entry for _, entry in found.values()], ""
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


def left_out_in_words(found: Description) -> str:
    """How many keys of which parts of Wan2.1-I2V are not applied, in the current language; empty if all are."""
    if not found.left_out:
        return ""
    return WORDS.text("left_out", count=sum(found.left_out.values()), parts=counts_in_words(found.left_out))


def rank_of(found: Description) -> str:
    """The rank of a LoRA; lowest and highest where layers differ, empty where it is not known."""
    return "–".join(str(rank) for rank in dict.fromkeys(found.rank or ()))

"""The control of LoRAs: a card for each that fits, with a tick, its weights, trigger words and preview."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from pydantic import BaseModel

from wanavatar_lab.errors import LabError
from wanavatar_lab.lora import Description, describe, find_adapters
from wanavatar_lab.requests import FieldView, Request, TextToImage, fields_of
from wanavatar_lab.requests.loras import read_adapters
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.elements import LABEL_WIDTH, ROW, WIDE, alert, bare, shared, small
from wanavatar_lab.ui.fields import Control, bounded_number
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.served_files import can_show
from wanavatar_lab.ui.tasks import loop_runs
from wanavatar_lab.ui.widget import LabBox

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
        self._profile, self._fitting, self._fault = "full", list[Description](), ""
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

    def choice_of(self, name: str) -> dict[str, Any]:
        """A LoRA as a request takes it: with the weights of its card, or without weights where it has no card."""
        return next((card.choice() for card in self.cards if card.found.name == name), {"name": name})

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
        weights_dir, found, self._fault = read_settings().weights_dir, [], ""
        try:
            found = describe(find_adapters(weights_dir), weights_dir)
        except LabError as error:
            self._fault = str(error)
        self._fitting = [each for each in found if f"{self._request_class.stage}/{self._profile}" in each.fits]
        with self._writing():
            self._show(self._read())

    def _show(self, choices: Iterable[dict[str, Any]]) -> None:
        """A card for each LoRA that fits, and for each that is chosen and missing, which a run would refuse."""
        chosen = {choice["name"]: choice for choice in choices}
        missing = chosen.keys() - {each.name for each in self._fitting}
        unknown = [
            Description(name, "", {}, base="", problem=WORDS.text("unknown")) for name in chosen if name in missing
        ]
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
        folder = read_settings().weights_dir.absolute() / "loras" / kind
        empty = "" if self.cards else small(WORDS.text("empty", folder=folder))
        self._message.value = alert(self._fault) if self._fault else empty

    def _write_labels(self) -> None:
        self._title.value = f"<strong>{escape(self.label)}</strong>"
        self._refresh.description = WORDS.text("refresh")
        self._write_message()


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
        self.weights = {name: _weight(view, found.usual_weight) for name, view in self._views.items()}
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
        self.follow_language()

    def choice(self) -> dict[str, Any]:
        """This LoRA as the request takes it."""
        return {"name": self.found.name, **{name: box.value for name, box in self.weights.items()}}

    def set(self, choice: dict[str, Any] | None) -> None:
        """Switch it on with these weights, or off."""
        self.use.value = choice is not None
        for name, box in self.weights.items():
            if choice is not None:
                # the request allows more than the card offers, and what a program asks for is kept
                box.max = max(box.max, choice[name])
                box.value = choice[name]

    def show_words(self) -> None:
        """Put its texts into the language shown."""
        found, name = self.found, self.found.name
        self.use.description = WORDS.text("use", name=name)
        for field, box in self.weights.items():
            box.description = WORDS.text("weight", name=name, label=language.of(self._views[field].labels))
        for word, button in zip(found.trigger_words, self.triggers, strict=True):
            button.description = WORDS.text("add", word=word)
        rank = rank_of(found) and WORDS.text("rank", rank=rank_of(found))
        unseen = self._unseen and WORDS.text("preview", file=self._unseen)
        text = small(" · ".join(filter(None, (found.kind, found.base, rank, found.description, unseen))))
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


def rank_of(found: Description) -> str:
    """The rank of a LoRA; lowest and highest where layers differ, empty where it is not known."""
    return "–".join(str(rank) for rank in dict.fromkeys(found.rank or ()))


def _weight(view: FieldView, usual: float | None) -> widgets.BoundedFloatText:
    box = bounded_number(view)
    if view.ui_range:
        box.min, box.max = view.ui_range
    start = view.default if usual is None else usual
    box.max, box.value = max(box.max, start), start
    box.step, box.style = 0.05, LABEL_WIDTH
    return box

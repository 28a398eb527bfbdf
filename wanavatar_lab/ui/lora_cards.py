"""A card for every LoRA that fits: on or off, its weights, its trigger words for the prompt, its preview."""

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
from wanavatar_lab.ui.fields import (
    LABEL_WIDTH,
    ROW,
    WIDE,
    Control,
    alert,
    bare_box,
    bare_button,
    bare_html,
    bounded_number,
    shared,
    small,
)
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.tasks import loop_runs
from wanavatar_lab.ui.widget import can_show

PREVIEW_WIDTH = "14em"
CLOSED_AFTER = 10.0  # seconds
WORDS = read_words(__file__, "lora_cards")


class Card(widgets.VBox):
    """One LoRA, with the weights that the request has for each."""

    def __init__(
        self,
        found: Description,
        item: type[BaseModel],
        add_to_prompt: Callable[[str], None],
        changed: Callable[[Any], None],
    ) -> None:
        self.found = found
        self.use = widgets.Checkbox(style=LABEL_WIDTH, layout=WIDE)
        views = {name: view for name, view in fields_of(item).items() if name != "name"}
        self.weights = {name: _weight(view, found.usual_weight) for name, view in views.items()}
        self.triggers = [bare_button() for _ in found.trigger_words]
        self._views, self._facts = views, bare_html()
        self._problem, self._unseen = found.problem, ""
        picture = self._preview()
        pictures = [picture] if picture is not None else []
        row = shared(widgets.Layout, **ROW)
        weights, triggers = widgets.HBox([*self.weights.values()], layout=row), widgets.HBox(self.triggers, layout=row)
        rows = [self.use, weights, self._facts, triggers, *pictures]
        self._parts = [*rows, *self.weights.values(), *self.triggers]
        border = {"border": "1px solid var(--jp-border-color2, #ccc)", "padding": "0.4em", "margin": "0 0 0.4em"}
        super().__init__(rows, layout=border)
        for box in (self.use, *self.weights.values()):
            box.observe(changed, "value")
        for word, button in zip(found.trigger_words, self.triggers, strict=True):
            button.on_click(lambda _, word=word: add_to_prompt(word))
        self.say()

    def choice(self) -> dict[str, Any]:
        """What the request is to have of it."""
        return {"name": self.found.name, **{name: box.value for name, box in self.weights.items()}}

    def set(self, choice: dict[str, Any] | None) -> None:
        """Switch it on with these weights, or off."""
        self.use.value = choice is not None
        for name, box in self.weights.items():
            if choice is not None:
                # the request allows more than the card offers, and what a program asks for is not to be changed
                box.max = max(box.max, choice[name])
                box.value = choice[name]

    def say(self) -> None:
        """Put its words into the language that is shown."""
        name = self.found.name
        self.use.description = language.of(WORDS["use"]).format(name=name)
        for field, box in self.weights.items():
            label = language.of(self._views[field].labels)
            box.description = language.of(WORDS["weight"]).format(name=name, label=label)
        for word, button in zip(self.found.trigger_words, self.triggers, strict=True):
            button.description = language.of(WORDS["add"]).format(word=word)
        rank = "–".join(str(rank) for rank in dict.fromkeys(self.found.rank or ()))
        facts = [
            self.found.kind,
            self.found.base,
            rank and language.of(WORDS["rank"]).format(rank=rank),
            self.found.description,
            self._unseen and language.of(WORDS["preview"]).format(file=self._unseen),
        ]
        text = small(" · ".join(fact for fact in facts if fact))
        self._facts.value = text + (alert(self._problem) if self._problem else "")

    def close(self) -> None:
        """Take it away, with everything in it."""
        # __del__ calls this too: again, or for one whose __init__ raised
        for child in self.__dict__.pop("_parts", ()):
            child.close()
        super().close()

    def _preview(self) -> widgets.Widget | None:
        """The picture of its effect; where the page cannot show it, what is said instead."""
        from wanavatar_lab.ui.player import Player  # its script is read only where something is shown

        if not self.found.preview:
            return None
        if not can_show(self.found.preview):
            self._unseen = Path(self.found.preview).name
            return None
        try:
            player = Player(self.found.preview)
        except LabError as error:  # damaged
            self._problem = "; ".join(filter(None, (self._problem, str(error))))
            return None
        player.layout.width = PREVIEW_WIDTH
        return player


class LoraCards(Control):
    """The cards of all LoRAs for the form's stage and models; the value is the list of those that are switched on."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._request_class = request_class
        # the items of the list say which weights there are
        self._item: type[BaseModel] = request_class.model_fields[view.name].annotation.__args__[0]  # type: ignore[union-attr]
        self._profile, self._fitting, self._fault = "full", list[Description](), ""
        self._prompt: Control | None = None
        self._title, self._message = bare_html(), bare_html()
        self._cards = bare_box(widgets.VBox)
        self._refresh = bare_button()
        super().__init__(view, [self._title, self._cards, self._message, self._refresh])
        self._refresh.on_click(lambda _: self._look())
        self._look()

    @property
    def cards(self) -> Sequence[Card]:
        """One for each LoRA, in the order of the list."""
        return tuple(self._cards.children)

    def choice_of(self, name: str) -> dict[str, Any]:
        """What a request is to have of a LoRA by this name: the weights of its card, or no word of them."""
        return next((card.choice() for card in self.cards if card.found.name == name), {"name": name})

    def meet(self, controls: Mapping[str, Control]) -> None:
        """Remember where trigger words go."""
        self._prompt = controls.get("prompt")

    def follow_profile(self, profile: str) -> None:
        """Show the LoRAs that fit these models instead."""
        self._profile = profile
        self._look()

    def _read(self) -> list[dict[str, Any]]:
        return [card.choice() for card in self.cards if card.use.value]

    def _write(self, value: Any) -> None:
        chosen = [self._item.model_validate(each).model_dump() for each in read_adapters(value)]
        self._show(self._fitting, {choice["name"]: choice for choice in chosen})

    def _look(self) -> None:
        chosen = {choice["name"]: choice for choice in self._read()}
        place = f"{self._request_class.stage}/{self._profile}"
        weights_dir, found, self._fault = read_settings().weights_dir, [], ""
        try:
            found = describe(find_adapters(weights_dir), weights_dir)
        except LabError as error:
            self._fault = str(error)
        self._fitting = [each for each in found if place in each.fits]
        with self._writing():
            self._show(self._fitting, chosen)

    def _show(self, found: Iterable[Description], chosen: dict[str, dict[str, Any]]) -> None:
        """A card for each that was found, and for each that is chosen and was not, which a run would refuse."""
        found = list(found)
        unknown = [name for name in chosen if name not in {each.name for each in found}]
        text = language.of(WORDS["unknown"])
        lost = [Description(name, "", {}, base="", problem=text) for name in unknown]
        if [card.found for card in self.cards] != [*found, *lost]:
            before = self.cards
            made = [Card(each, self._item, self._add_to_prompt, self._changed) for each in [*found, *lost]]
            self._cards.children = made
            _close_soon(before)
        for card in self.cards:
            card.set(chosen.get(card.found.name))
        self._say_message()

    def _add_to_prompt(self, words: str) -> None:
        if self._prompt is None:
            return
        text = (self._prompt.value or "").rstrip(" ,")
        if words not in text:
            self._prompt.change(f"{text}, {words}" if text else words)

    def _say_message(self) -> None:
        if self.cards or self._fault:
            self._message.value = alert(self._fault) if self._fault else ""
            return
        kind = "img" if self._request_class.stage == TextToImage.stage else "mov"
        folder = read_settings().weights_dir.absolute() / "loras" / kind
        self._message.value = small(language.of(WORDS["empty"]).format(folder=folder))

    def _say(self) -> None:
        super()._say()
        self._title.value = f"<strong>{escape(self.label)}</strong>"
        self._refresh.description = language.of(WORDS["refresh"])
        for card in self.cards:
            card.say()
        self._say_message()


def _weight(view: FieldView, usual: float | None) -> widgets.BoundedFloatText:
    box = bounded_number(view)
    if view.ui_range:
        box.min, box.max = view.ui_range
    start = view.default if usual is None else usual
    box.max, box.value = max(box.max, start), start
    box.step, box.style = 0.05, LABEL_WIDTH
    return box


def _close_soon(cards: Sequence[Card]) -> None:
    """Close cards that are shown no more; a page that is still drawing them cannot do without them until it has."""

    def close() -> None:
        for card in cards:
            card.close()

    if loop_runs():
        asyncio.get_running_loop().call_later(CLOSED_AFTER, close)
    else:
        close()

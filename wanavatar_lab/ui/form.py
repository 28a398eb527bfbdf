"""A form made of a request's fields: what a request says of its fields is all that this module knows of them.

form = Form(SpeechToVideo, profile="pocket", audio="voice.wav")
form.request()      # the request, or None with the errors at their fields
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import FieldView, Request, fields_of
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.requests.upscale import WEIGHTS_SUFFIXES
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui import fields
from wanavatar_lab.ui.elements import alert, bare, shared
from wanavatar_lab.ui.file_field import TAKEN, FileControl
from wanavatar_lab.ui.language import language, read_words, shorten
from wanavatar_lab.ui.lora_cards import LoraCards
from wanavatar_lab.ui.served_files import KINDS, kind_of
from wanavatar_lab.ui.widget import LabBox, loop_runs

LONGEST_VALUE = 60  # characters of a value in a label
WORDS = read_words(__file__, "form")

# a field's widget hint → its control
CONTROLS: dict[str, Callable[[FieldView, type[Request]], fields.Control]] = {
    **dict.fromkeys(("text", "textarea"), fields.TextControl),
    **dict.fromkeys(("int", "float"), fields.NumberControl),
    **dict.fromkeys(TAKEN, FileControl),
    "checkbox": fields.CheckboxControl,
    "select": fields.SelectControl,
    "seed": fields.SeedControl,
    "size": fields.SizeControl,
    "loras": LoraCards,
}


class Form(LabBox):
    """Every field of a request: the basic ones, and the advanced ones behind a button.

    A field that is not touched follows the defaults of the profile; one that a person has changed, or that was given a
    value, keeps it.

    In a running event loop the controls of advanced fields are made later, when they are first needed or at
    `make_all`: the fewer widgets a form has, the sooner a page has drawn it.

    Args:
        request_class: whose fields.
        profile: which models.
        values: of fields, as the request takes them; None leaves a field as it is.

    Attributes:
        views: what the request says of each field.
        made: the controls that exist, by field.
        touched: names of fields that keep their value.

    Raises:
        RequestError: there is no such field, or a value is not allowed.
        LabError: a field has a widget hint without a control.
    """

    def __init__(self, request_class: type[Request], /, profile: str = "pocket", **values: Any) -> None:
        self.request_class, self.views = request_class, fields_of(request_class)
        self.made: dict[str, fields.Control] = {}
        self.touched: set[str] = set()
        self._waiting: dict[str, Any] = {}  # values of fields that have no control yet
        self._listeners: list[Callable[[], None]] = []
        self._problem, self._said = bare(widgets.HTML), ""
        self._refused = ""  # why a profile was not taken over
        self._toggle = bare(widgets.Button, "wl-more")
        self._advanced = widgets.VBox(layout={"display": "none"}, _dom_classes=["wl-fields"])
        basic = bare(widgets.VBox, "wl-fields", children=self._make(self._group("basic")))
        parts = [self._problem, basic, *([self._toggle, self._advanced] if self._group("advanced") else [])]
        super().__init__(parts, layout=shared(widgets.Layout), _dom_classes=["wl-form"])
        try:
            self.set(**({"profile": profile} if "profile" in self.views else {}), **values)
        except RequestError:
            self.close()  # or its controls would follow the language for ever
            raise
        self._toggle.on_click(lambda _: self.expand(not self.expanded))
        if not loop_runs():
            self.make_all()

    @property
    def controls(self) -> dict[str, fields.Control]:
        """The controls of all fields; those of advanced fields are made now if they are not yet."""
        self.make_all()
        return self.made

    @property
    def profile(self) -> str:
        """Which models the form is about; of a tool, which has no such field, the one that its class states."""
        return str(self.made["profile"].value) if "profile" in self.made else self.request_class.profile

    @property
    def expanded(self) -> bool:
        """Whether the advanced fields are shown."""
        return bool(self._advanced.layout.display != "none")

    def make_all(self) -> None:
        """Make the controls that do not exist yet, with the values set meanwhile or those of the profile."""
        if names := [name for name in self.views if name not in self.made]:
            self._advanced.children = self._make(names)
            for name in names:
                self._follow_profile(name)
                if name in self._waiting:
                    self.made[name].value = self._waiting.pop(name)
            self._tell_controls()
        for control in self.made.values():
            control.complete()

    def expand(self, wanted: bool = True) -> None:
        """Show the advanced fields, or hide them."""
        self.make_all()
        self._advanced.layout.display = None if wanted else "none"
        self.show_words()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of values, by a person or a program."""
        self._listeners.append(listener)

    def chosen(self) -> dict[str, Any]:
        """The values of fields that keep theirs; all others follow the profile."""
        given = self._waiting | {name: control.value for name, control in self.made.items()}
        return {name: given[name] for name in self.views if name in self.touched}

    def reset(self, **values: Any) -> None:
        """Let every field follow the profile again, but for these."""
        self.make_all()
        self.touched.clear()
        self.set(**values)
        self.show(None)

    def values(self) -> dict[str, Any]:
        """The value of every field."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **values: Any) -> None:
        """Set values of fields, which count as touched. None leaves a field that cannot be None as it is.

        Raises:
            RequestError: there is no such field, or a value is not allowed; nothing is changed.
        """
        never_none = {name for name, view in self.views.items() if not view.optional}
        values = {name: value for name, value in values.items() if value is not None or name not in never_none}
        read = read_values(self.request_class, {**self._of_profile(), **values})
        if "profile" in values or not self._of_profile():
            self._set_profile(read.get("profile", self.profile))
        for name in values:
            if name in self.made:
                self.made[name].error = ""
                self.made[name].value = read[name]
            else:
                self._waiting[name] = read[name]
        if "profile" in values:
            self.made["profile"].error, self._refused = self.lacking(), ""
        self.touched |= set(values)
        self._tell_controls()

    def fill(self, request: Request) -> None:
        """Show a request as it is; fields that equal the defaults of its profile follow these again.

        Raises:
            RequestError: it is of another stage.
        """
        if request.stage != self.request_class.stage:
            raise RequestError([("stage", must_be(repr(self.request_class.stage), request.stage))])
        self.restore({name: getattr(request, name) for name in self.views})

    def restore(self, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Show these values, and the defaults of their profile in all other fields; see `set_allowed`."""
        self.make_all()
        self.touched.clear()
        self.show(None)
        self.set(**self._of_profile())
        problems = self.set_allowed({name: values[name] for name in ("profile",) if name in values})
        defaults = self.values()
        changed = {name: value for name, value in values.items() if not _equal(value, defaults.get(name))}
        problems += self.set_allowed({name: value for name, value in changed.items() if name != "profile"})
        self.show(RequestError(problems) if problems else None)
        return problems

    def set_allowed(self, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Set those of the values that are allowed, of all that another release or another person may have had.

        Returns:
            The problems of the others, which are shown at their fields.
        """
        kept, problems = dict(values), list[tuple[str, str]]()
        while kept:
            try:
                self.set(**kept)
                break
            except RequestError as error:
                problems += error.problems
                refused = {place.partition(".")[0].partition("[")[0] for place, _ in error.problems}
                kept = {name: value for name, value in kept.items() if name not in refused}
        if problems:
            self.show(RequestError(problems))
        return problems

    def use_lora(self, name: str, profile: str) -> None:
        """Switch a LoRA on, with the weights of its card, beside those that are on, and show the cards.

        Raises:
            RequestError: the form has no LoRAs, or too many.
        """
        self.set(profile=profile)
        cards = self.controls.get("loras")
        chosen = list(cards.value) if cards is not None else []
        if name not in [each["name"] for each in chosen]:
            usual = {card.found.name: card.choice() for card in cards.cards} if isinstance(cards, LoraCards) else {}
            self.set(loras=[*chosen, usual.get(name, {"name": name})])
        self.expand()

    def offer_seed(self, seed: int | None) -> None:
        """Offer the seed that a run has used; None where it is not known yet."""
        if seed is not None and isinstance(control := self.controls.get("seed"), fields.SeedControl):
            control.offer(seed)

    @property
    def takes(self) -> frozenset[str]:
        """Suffixes of the pictures, recordings and videos that some field takes."""
        kinds = {kind for view in self.views.values() for kind in TAKEN.get(view.widget, ())}
        return frozenset(suffix for suffix, kind in KINDS.items() if kind in kinds)

    def take(self, path: Path | str, field: str = "") -> None:
        """Put a file into the field for its kind: a recording into the voice, a picture into the picture.

        Args:
            path: the file.
            field: which field gets it if it takes such files; otherwise the first field that does.

        Raises:
            LabError: no field takes such a file.
        """
        names = fields_for(self.request_class, path)
        if not names:
            stage = language.of(self.request_class.labels)
            raise LabError(f"{stage} has no use for {Path(path).name}; it takes other kinds of files.")
        control = self.controls[field if field in names else names[0]]
        assert isinstance(control, FileControl)
        control.take(str(path))

    def request(self) -> Request | None:
        """The request that the form describes, its files checked to exist; or None, with the errors shown."""
        try:
            request = self._request()
            request.check_inputs()
        except RequestError as error:
            self.show(error)
            return None
        self.show(None)
        return request

    def show(self, error: LabError | None) -> None:
        """Show errors at the fields at fault, and those of no field above all; None removes all."""
        problems = error.problems if isinstance(error, RequestError) else [("", str(error))] if error else []
        texts: dict[str, list[str]] = {name: [] for name in ["", *self.views]}
        for place, message in problems:
            name = place.partition(".")[0].partition("[")[0]
            inside = place.removeprefix(name).lstrip(".")  # which item of a list, and which of its fields
            if name not in self.views:
                name, inside = "", place
            texts[name].append(f"{inside}: {message}" if inside else message)
        if any(texts[name] for name in self._group("advanced")):
            self.expand()
        for name, control in self.made.items():
            control.error = "; ".join(texts[name])
        self._said = "; ".join(texts[""])
        # what is said of weights is said anew in each language
        self._refused = "; ".join(text for text in texts.get("profile", []) if text != self.lacking())
        self.show_words()

    def lacking(self) -> str:
        """Why the stage cannot run with its profile: which weights have to be downloaded, and how; "" if none."""
        own = self.made.get("weights")
        if (own is not None and own.value) or self._waiting.get("weights"):
            return ""
        return weights_lacking(self.request_class.stage, self.profile)

    def problems(self) -> dict[str, str]:
        """The errors shown at fields, by their names."""
        return {name: control.error for name, control in self.made.items() if control.error}

    def show_words(self) -> None:
        """Put the button's text, what is said of weights and the error above all into the language shown."""
        if "profile" in self.touched:
            self.made["profile"].error = "; ".join(filter(None, (self._refused, self.lacking())))
        self._problem.value = alert(self._said) if self._said else ""
        self._toggle.description = WORDS.text("expanded" if self.expanded else "collapsed")

    def _group(self, group: str) -> list[str]:
        return [name for name, view in self.views.items() if view.group == group]

    def _make(self, names: Sequence[str]) -> list[fields.Control]:
        for name in names:
            view = self.views[name]
            if view.widget not in CONTROLS:
                field = f"{self.request_class.__name__}.{name}"
                raise LabError(f"{field} asks for the control {view.widget!r}; there are {', '.join(CONTROLS)}.")
            self.made[name] = CONTROLS[view.widget](view, self.request_class)
            self.made[name].on_change(partial(self._changed, name))
        for control in self.made.values():  # also those made before
            control.connect(self.made)
        return [self.made[name] for name in names]

    def _request(self) -> Request:
        # untouched fields are left to the request, so that a run's notes tell choices from defaults
        always = {*self._of_profile(), *(name for name, view in self.views.items() if view.required)}
        given = self._waiting | {name: control.value for name, control in self.made.items()}
        return self.request_class(**{name: given[name] for name in self.views if name in self.touched | always})

    def _changed(self, name: str) -> None:
        """A person changed a field: it keeps its value, and its error is shown at once."""
        self.touched.add(name)
        self._refused = ""
        if name == "profile":
            self._set_profile(self.profile)
        problems: dict[str, str] = {}
        try:
            self._request()
        except RequestError as error:
            problems = dict(error.problems)
        if lacking := self.lacking():
            problems.setdefault("profile", lacking)
        for other, control in self.made.items():
            if other == name or other not in problems:  # another's error may have been a conflict with this one
                control.error = problems.get(other, "")
        self._tell_controls()

    def _tell_controls(self) -> None:
        for control in self.made.values():
            control.form_changed()
        for listener in self._listeners:
            listener()

    def _of_profile(self) -> dict[str, str]:
        """The profile as a value of the form; a tool has no such field."""
        return {"profile": self.profile} if "profile" in self.views else {}

    def _set_profile(self, profile: str) -> None:
        if "profile" in self.made:
            self.made["profile"].value = profile
        for name in self.made:
            self._follow_profile(name)

    def _follow_profile(self, name: str) -> None:
        control, overrides = self.made[name], PROFILES[self.profile].default_overrides(self.request_class.stage)
        if name != "profile" and name not in self.touched:
            control.value = overrides.get(name, control.view.default)
        control.set_profile(self.profile)


def weights_lacking(stage: str, profile: str) -> str:
    """Which weights a stage lacks in a profile, and how they are downloaded, in the language shown; "" if none."""
    where = PROFILES[profile]
    if stage not in where.locations:
        return ""
    from wanavatar_lab.weights import amount, licence_page, look, missing_weights, weights_at  # for such forms only

    folder = read_settings().weights_dir
    location = where.weights(stage, folder)
    weights = weights_at(location)
    if weights is None or weights.ships:
        return "" if location.exists() else str(missing_weights(stage, location))
    if (state := look(weights, folder).state) == "present":
        return ""
    command = f"wanavatar-lab weights download {weights.name}"
    text = WORDS.text(state, name=weights.name, size=amount(weights.size), command=command)
    page = licence_page(weights)
    return " ".join(filter(None, (text, WORDS.text("licence", url=page) if page else "")))


def _equal(first: Any, second: Any) -> bool:
    """Whether two values of a field are equal; an empty one has several forms: text, None, list or tuple."""
    empty: tuple[Any, ...] = ("", None, (), [])
    return bool(first == second or (first in empty and second in empty))


def fields_for(request_class: type[Request], path: Path | str) -> list[str]:
    """Names of the fields of a request that take a file of this kind, by its suffix."""
    kind = "weights" if Path(path).suffix.lower() in WEIGHTS_SUFFIXES else kind_of(path)
    return [name for name, view in fields_of(request_class).items() if kind in TAKEN.get(view.widget, ())]


SOMETHING = "a"  # that every required text may be: a prompt, a path, what is spoken


def read_values(request_class: type[Request], values: dict[str, Any]) -> dict[str, Any]:
    """Values of some fields as the request reads them, while others may still be missing.

    Raises:
        RequestError: some of them are not allowed.
    """
    views = fields_of(request_class)
    # an empty text in a form is not written yet, which is no error
    blank = {name for name, value in values.items() if value == "" and name in views and views[name].required}
    given = {name: value for name, value in values.items() if name not in blank}
    missing = [name for name, view in views.items() if view.required and view.kind == "str" and name not in given]
    try:
        request = request_class(**given, **dict.fromkeys(missing, SOMETHING))
    except RequestError as error:
        of_these = [problem for problem in error.problems if problem[0].partition("[")[0] in given]
        if of_these:
            raise RequestError(of_these) from None
        # what is wrong is that others are missing: a picture or a video, a prompt or a picture
        missing += [name for name, _ in error.problems if name in views and name not in [*given, *missing]]
        request = request_class(**given, **dict.fromkeys(missing, SOMETHING))
    return {name: "" if name in blank else getattr(request, name) for name in values}


def labelled(request_class: type[Request], values: Mapping[str, Any]) -> str:
    """Values with the labels of their fields, in the language shown: "Seed 1, Steps 8"."""
    views = fields_of(request_class)
    texts = {name: Path(str(value)).name if views[name].is_file else str(value) for name, value in values.items()}
    return ", ".join(f"{language.of(views[name].labels)} {shorten(texts[name], LONGEST_VALUE)}" for name in values)

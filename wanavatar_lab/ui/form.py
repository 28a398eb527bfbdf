"""A form made of a request's fields: what a request says of them is all that this knows.

form = Form(SpeechToVideo, profile="pocket", audio="voice.wav")
form.request()      the request, or None with the errors at their fields

Values of some fields of a request: read as it reads them while others are still missing, and put into words.

What stands for the fields of a request in a form: a control each, those that one sets seldom only when wanted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from ipywidgets.widgets.widget_string import HTMLStyle

from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import FieldView, Request, fields_of
from wanavatar_lab.requests.upscale import WEIGHTS_SUFFIXES
from wanavatar_lab.ui.fields import (
    CheckboxControl,
    Control,
    NumberControl,
    SeedControl,
    SelectControl,
    SizeControl,
    TextControl,
    alert,
    bare_box,
    bare_button,
    shared,
)
from wanavatar_lab.ui.file_field import TAKEN, FileControl
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.lora_cards import LoraCards
from wanavatar_lab.ui.tasks import loop_runs
from wanavatar_lab.ui.uploads import KINDS

LONGEST_VALUE = 60  # characters of one that is put into words


def read_values(request_class: type[Request], values: dict[str, Any]) -> dict[str, Any]:
    """The values as the request reads them.

    Raises:
        RequestError: some of them are not allowed; what is not among them may still be missing.
    """
    # an empty text in a form is one that is yet to be written, not one that is wrong
    views = fields_of(request_class)
    blank = {name for name, value in values.items() if value == "" and name in views and views[name].required}
    given = {name: value for name, value in values.items() if name not in blank}
    try:
        request = request_class(**given, **{name: "-" for name, view in views.items() if _stands_in(name, view, given)})
    except RequestError as error:
        of_these = [problem for problem in error.problems if problem[0].partition("[")[0] in given]
        if of_these:
            raise RequestError(of_these) from None
        return values
    return {name: "" if name in blank else getattr(request, name) for name in values}


def same(value: Any, standing: Any) -> bool:
    """Whether a field of a request is what its control has; lists of adapters are written in two ways."""
    return value == standing or (value in ("", None, ()) and standing in ("", None, []))


def titled(request_class: type[Request], values: Mapping[str, Any]) -> str:
    """Values with the labels of their fields, in the language that is shown."""
    views = fields_of(request_class)
    return ", ".join(
        f"{language.of(views[name].labels)} {_short(views[name], value)}" for name, value in values.items()
    )


def _short(view: FieldView, value: Any) -> str:
    text = Path(str(value)).name if view.is_file else str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _stands_in(name: str, view: FieldView, given: dict[str, Any]) -> bool:
    """Whether a field is to be given some text, so that the others can be read."""
    return view.required and view.kind == "str" and name not in given


# a field's hint → what stands for it; a hint that is not here is a mistake in the request
CONTROLS: dict[str, Callable[[FieldView, type[Request]], Control]] = {
    "text": TextControl,
    "textarea": TextControl,
    "int": NumberControl,
    "float": NumberControl,
    "checkbox": CheckboxControl,
    "select": SelectControl,
    "seed": SeedControl,
    "size": SizeControl,
    "loras": LoraCards,
    "picture": FileControl,
    "audio": FileControl,
    "video": FileControl,
    "weights": FileControl,
}


class Controls(Mapping[str, Control]):
    """The controls of a request by the names of their fields.

    Those of the group `advanced` are made when someone looks for one of them, or at the call of `make_all`.

    Args:
        request_class: whose fields.
        changed: told the name of a field that a person has changed.
        settle: told the names of fields whose controls were made late, to give them their values.

    Attributes:
        views: what the request says of each field.
        made: those that there are.
        basic, advanced: the boxes in which they are; the latter is hidden.

    Raises:
        LabError: a field asks for a control that there is none for.
    """

    def __init__(
        self,
        request_class: type[Request],
        changed: Callable[[str], None],
        settle: Callable[[Sequence[str]], None],
    ) -> None:
        self.views = fields_of(request_class)
        self.made: dict[str, Control] = {}
        self.basic = bare_box(widgets.VBox, (), "wl-fields")
        self.advanced = widgets.VBox(layout={"display": "none"}, _dom_classes=["wl-fields"])
        self._request_class, self._changed, self._settle = request_class, changed, settle
        self._make(self._group(advanced=False))

    def __getitem__(self, name: str) -> Control:
        if name in self.views and name not in self.made:
            self.make_all()
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def __contains__(self, name: object) -> bool:
        return name in self.views

    def is_advanced(self, name: str) -> bool:
        """Whether a field is one of those that one sets seldom."""
        return self.views[name].group == "advanced"

    def make_all(self) -> None:
        """Make those that there are not yet."""
        names = [name for name in self.views if name not in self.made]
        if names:
            self._make(names)
            self._settle(names)

    def close(self) -> None:
        """Take all away."""
        for control in self.made.values():
            control.close()

    def _group(self, *, advanced: bool) -> list[str]:
        return [name for name in self.views if self.is_advanced(name) is advanced]

    def _make(self, names: Sequence[str]) -> None:
        for name in names:
            self.made[name] = _control(self.views[name], self._request_class)
            self.made[name].on_change(partial(self._changed, name))
        for control in self.made.values():  # the older ones learn of the new ones, too
            control.meet(self.made)
        for box, group in ((self.basic, self._group(advanced=False)), (self.advanced, self._group(advanced=True))):
            if set(names) & set(group):
                box.children = [self.made[name] for name in group]


def _control(view: FieldView, request_class: type[Request]) -> Control:
    if view.widget not in CONTROLS:
        raise LabError(
            f"{request_class.__name__}.{view.name} asks for the control {view.widget!r}; "
            f"there are {', '.join(CONTROLS)}."
        )
    return CONTROLS[view.widget](view, request_class)


WORDS = read_words(__file__, "form")

WEIGHTS_OR_MEDIA = {**KINDS, **dict.fromkeys(WEIGHTS_SUFFIXES, "weights")}


class Form(widgets.VBox):
    """Every field of a request: those one sets always, and behind a button those one sets seldom.

    A field that nobody has touched follows the defaults of the profile; one that a person has changed, or that was
    given a value, stays as it is.

    Where an event loop runs, what one sets seldom gets its controls when it is first looked for: a page has drawn a
    form the sooner the fewer there are.

    Args:
        request_class: whose fields.
        profile: which models.
        values: of fields, as the request takes them; None leaves a field as it is.

    Raises:
        RequestError: there is no such field, or a value is not allowed.
        LabError: a field asks for a control that there is none for.
    """

    def __init__(self, request_class: type[Request], /, profile: str = "pocket", **values: Any) -> None:
        self.request_class = request_class
        self.touched: set[str] = set()
        self._waiting: dict[str, Any] = {}  # values of fields that have no control yet
        self.controls = Controls(request_class, self._changed, self._settle)
        self._problem = widgets.HTML(layout={"display": "none"}, style=shared(HTMLStyle))
        self._toggle = bare_button("wl-more")
        self._advanced = self.controls.advanced
        disclosure = [self._toggle, self._advanced] if any(map(self.controls.is_advanced, self.controls)) else []
        parts = [self._problem, self.controls.basic, *disclosure]
        super().__init__(parts, layout=shared(widgets.Layout), _dom_classes=["wl-form"])
        try:
            self.set(profile=profile, **values)
        except RequestError:
            self.close()  # its controls would follow the language for ever
            raise
        self._toggle.on_click(lambda _: self.expand(not self.expanded))
        self._unfollow = language.follow(self._say)
        if not loop_runs():
            self.controls.make_all()

    @property
    def profile(self) -> str:
        """Which models the form is about."""
        name: str = self.controls["profile"].value
        return name

    @property
    def expanded(self) -> bool:
        """Whether the fields one sets seldom are shown."""
        return bool(self._advanced.layout.display != "none")

    def expand(self, wanted: bool = True) -> None:
        """Show the fields one sets seldom, or hide them."""
        self.controls.make_all()
        self._advanced.layout.display = None if wanted else "none"
        self._say()

    def values(self) -> dict[str, Any]:
        """What stands in every field."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **values: Any) -> None:
        """Put values into fields; they count as touched. None leaves a field that cannot be None as it is.

        Raises:
            RequestError: there is no such field, or a value is not allowed; nothing is changed.
        """
        values = {
            name: value
            for name, value in values.items()
            if value is not None or name not in self.controls or self.controls.views[name].optional
        }
        read = read_values(self.request_class, {"profile": self.profile, **values})
        if "profile" in values:
            self._take_profile(read["profile"])
        for name in values:
            if name in self.controls.made:
                self.controls[name].error = ""
                self.controls[name].value = read[name]
            else:
                self._waiting[name] = read[name]
        self.touched |= set(values)
        self._look_around()

    def fill(self, request: Request) -> None:
        """Show a request as it is; what equals the defaults of its profile follows them again.

        Raises:
            RequestError: it is of another stage.
        """
        if request.stage != self.request_class.stage:
            problem = f"{request.stage!r} is not allowed; give a request of {self.request_class.stage}"
            raise RequestError([("stage", problem)])
        self.controls.make_all()
        self.touched.clear()
        self.set(profile=request.profile)
        standing = self.values()
        values = {name: getattr(request, name) for name in self.controls}
        self.set(**{name: value for name, value in values.items() if not same(value, standing[name])})
        self.show(None)

    @property
    def takes(self) -> frozenset[str]:
        """Suffixes of the pictures, recordings and videos that some field takes."""
        kinds = {kind for view in self.controls.views.values() for kind in TAKEN.get(view.widget, ())}
        return frozenset(suffix for suffix, kind in KINDS.items() if kind in kinds)

    def take(self, path: Path | str, field: str = "") -> None:
        """Put a file into the field that it is for: a recording into that of the voice, a picture into the picture's.

        Args:
            path: the file.
            field: which gets it, if it takes such files; the first that does if empty.

        Raises:
            LabError: there is no field for such a file.
        """
        kind = WEIGHTS_OR_MEDIA.get(Path(path).suffix.lower())
        of_files = [control for control in self.controls.values() if isinstance(control, FileControl)]
        for control in sorted(of_files, key=lambda control: control.view.name != field):
            if kind in TAKEN[control.view.widget]:
                control.pick(str(path))
                return
        stage = language.of(self.request_class.labels)
        raise LabError(f"{stage} has no use for {Path(path).name}; it takes other kinds of files.")

    def request(self) -> Request | None:
        """The request that the form describes, its files seen to be there; or None, and the errors shown."""
        try:
            request = self._request()
            request.check_inputs()
        except RequestError as error:
            self.show(error)
            return None
        self.show(None)
        return request

    def show(self, error: LabError | None) -> None:
        """Show what is wrong at the fields at fault, and above them all what is no field's; None takes it all away."""
        problems = error.problems if isinstance(error, RequestError) else [("", str(error))] if error else []
        said: dict[str, list[str]] = {name: [] for name in ["", *self.controls]}
        for place, message in problems:
            name = place.partition(".")[0].partition("[")[0]
            inside = place.removeprefix(name).lstrip(".")  # which item of a list, and which of its fields
            if name in self.controls:
                said[name].append(f"{inside}: {message}" if inside else message)
            else:
                said[""].append(f"{place}: {message}" if place else message)
        for name, texts in said.items():
            if name and (texts or name in self.controls.made):
                self.controls[name].error = "; ".join(texts)
        self._problem.layout.display = None if said[""] else "none"
        self._problem.value = alert("; ".join(said[""])) if said[""] else ""
        if any(texts and self.controls.is_advanced(name) for name, texts in said.items() if name):
            self.expand()

    def problems(self) -> dict[str, str]:
        """The errors that are shown at fields, by their names."""
        return {name: control.error for name, control in self.controls.made.items() if control.error}

    def close(self) -> None:
        """Take the form away, with all its controls."""
        # __del__ calls this too: again, or for a form whose __init__ raised
        self.__dict__.pop("_unfollow", lambda: None)()
        if "controls" in self.__dict__:
            self.controls.close()
        super().close()

    def _request(self) -> Request:
        # what nobody touched is left to the request, so that a run's notes tell choices from defaults
        always = {"profile", *(name for name, view in self.controls.views.items() if view.required)}
        named = [name for name in self.controls if name in self.touched | always]
        made = self.controls.made
        return self.request_class(**{name: made[name].value if name in made else self._waiting[name] for name in named})

    def _changed(self, name: str) -> None:
        """A person changed a field: it stays so, and what is wrong with it is said at once."""
        self.touched.add(name)
        if name == "profile":
            self._take_profile(self.profile)
        problems: dict[str, str] = {}
        try:
            self._request()
        except RequestError as error:
            problems = dict(error.problems)
        self.controls[name].error = problems.get(name, "")
        for other, control in self.controls.made.items():
            if control.error and other not in problems:  # it was at odds with this one
                control.error = ""
        self._look_around()

    def _look_around(self) -> None:
        for control in self.controls.made.values():
            control.look_around()

    def _take_profile(self, profile: str) -> None:
        self.controls["profile"].value = profile
        for name in self.controls.made:
            self._follow_profile(name)

    def _follow_profile(self, name: str) -> None:
        control, overrides = (
            self.controls.made[name],
            PROFILES[self.profile].default_overrides(self.request_class.stage),
        )
        if name != "profile" and name not in self.touched:
            control.value = overrides.get(name, control.view.default)
        control.follow_profile(self.profile)

    def _settle(self, names: Sequence[str]) -> None:
        """Give controls that were made late what was set meanwhile, or what the profile says."""
        for name in names:
            self._follow_profile(name)
            if name in self._waiting:
                self.controls.made[name].value = self._waiting.pop(name)
        self._look_around()

    def _say(self) -> None:
        self._toggle.description = language.of(WORDS["expanded" if self.expanded else "collapsed"])

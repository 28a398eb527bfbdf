"""A resolution: automatic, by its name, one of the usual sizes, or one's own."""

from typing import Any

import ipywidgets as widgets
from ipywidgets.widgets.widget_string import TextStyle

from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, FieldView, Request
from wanavatar_lab.requests.sizes import NAMED_AREAS
from wanavatar_lab.ui.fields.control import WIDE, Control, shared
from wanavatar_lab.ui.fields.plain import choose_among, dropdown
from wanavatar_lab.ui.language import language

WORDS = {
    "auto": {"en": "Automatic: as the picture", "ko": "자동: 이미지 비율대로", "zh": "自动：按图片比例"},
    "named": {"en": "{name}: as the picture", "ko": "{name}: 이미지 비율대로", "zh": "{name}：按图片比例"},
    "other": {"en": "Other…", "ko": "직접 입력…", "zh": "自定义…"},
    "own": {"en": "{label}: width x height", "ko": "{label}: 너비x높이", "zh": "{label}：宽x高"},
}

USUAL = ("480x832", "832x480", "720x1280", "1280x720")  # what Wan2.2 was trained for
_OTHER = "other"


class SizeControl(Control):
    """A choice of sizes, and a line for any other, which is there only when it is wanted."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._sizes = [*dict.fromkeys([*USUAL, *_of_profiles(view.name)])]
        self._box = dropdown(["auto", *NAMED_AREAS, *self._sizes, _OTHER])
        self._own = widgets.Text(style=shared(TextStyle), layout={**WIDE, "display": "none"})
        super().__init__(view, [self._box, self._own])
        self._box.observe(self._chosen, "value")
        self._own.observe(self._changed, "value")

    def _read(self) -> str:
        chosen: str = self._box.value
        return self._own.value if chosen == _OTHER else chosen

    def _write(self, value: Any) -> None:
        if value in ("auto", *NAMED_AREAS, *self._sizes):
            self._box.value = value
        else:
            self._box.value, self._own.value = _OTHER, str(value)

    def _chosen(self, _: object) -> None:
        self._own.layout.display = None if self._box.value == _OTHER else "none"
        self._changed()

    def _say(self) -> None:
        super()._say()
        self._box.description = self.label
        self._own.description = language.of(WORDS["own"]).format(label=language.of(self.view.labels))
        named = [(language.of(WORDS["named"]).format(name=name), name) for name in NAMED_AREAS]
        sizes = [(size.replace("x", " × "), size) for size in self._sizes]
        options = [(language.of(WORDS["auto"]), "auto"), *named, *sizes, (language.of(WORDS["other"]), _OTHER)]
        choose_among(self._box, options)


def _of_profiles(field: str) -> list[str]:
    """The sizes that some profile has as its default."""
    defaults = [profile.default_overrides(stage) for profile in PROFILES.values() for stage in STAGE_REQUESTS]
    return [size for each in defaults if "x" in (size := each.get(field, ""))]

"""Tab inside of a request's arguments, in IPython and notebooks: `SpeechToVideo(offload=<Tab>` offers the choices."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from wanavatar_lab.requests.field_spec import FieldView, fields_of
from wanavatar_lab.requests.request import Request
from wanavatar_lab.requests.sizes import NAMED_AREAS

# the end of the code before the cursor: the field, an open quote if there is one, and what is typed of the value
_TYPED = re.compile(r"(?P<field>\w+)\s*=\s*(?P<quote>['\"]?)(?P<begun>[\w+.:-]*)$")
_STRING = re.compile(r"""('''|\"\"\"|'|")(?:\\.|(?!\1).)*\1""", re.DOTALL)
_CALLED = re.compile(r"([A-Za-z_][\w.]*)\s*$")


def offer_choices(shell: Any = None) -> None:
    """Let Tab in this IPython offer the choices of a request's fields; nothing outside of IPython.

    Args:
        shell: the one that runs if None.
    """
    if shell is None and (ipython := sys.modules.get("IPython")) is not None:
        shell = ipython.get_ipython()
    completer = getattr(shell, "Completer", None)
    if completer is None:
        return
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher()  # type: ignore[untyped-decorator,unused-ignore]
    def requests_choices(context: Any) -> dict[str, Any]:
        lines = context.full_text.split("\n")[: context.cursor_line + 1]
        before = "\n".join([*lines[:-1], lines[-1][: context.cursor_position]])
        begun, texts = choices_at(before, shell.user_ns)
        completions = [SimpleCompletion(text, type="value") for text in texts]
        return {"completions": completions, "suppress": bool(texts), "matched_fragment": begun}

    completer.custom_matchers = [
        matcher
        for matcher in completer.custom_matchers
        if getattr(matcher, "__name__", "") != requests_choices.__name__
    ] + [requests_choices]


def choices_at(before: str, names: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What is typed of a value at the end of some code, and the choices that begin with it; none in other places.

    Args:
        before: the code up to the cursor.
        names: what the code's names stand for.
    """
    typed = _TYPED.search(before)
    model = None if typed is None else _called_at(before[: typed.start()], names)
    view = None if model is None or typed is None else fields_of(model).get(typed["field"])
    if typed is None or view is None:
        return "", []
    quote = "" if typed["quote"] or view.kind == "bool" else "'"
    return typed["begun"], [f"{quote}{each}{quote}" for each in _choices(view) if each.startswith(typed["begun"])]


def _choices(view: FieldView) -> list[str]:
    if view.widget == "size":
        return ["auto", *NAMED_AREAS]
    return ["True", "False"] if view.kind == "bool" else list(view.options)


def _called_at(code: str, names: Mapping[str, Any]) -> type[Request] | None:
    """The request in whose call, or call of `changed`, the code ends."""
    code, depth = _STRING.sub("''", code), 0
    for place in range(len(code) - 1, -1, -1):
        depth += (code[place] in ")]}") - (code[place] in "([{")
        if depth < 0:
            break
    called = _CALLED.search(code[:place]) if depth < 0 and code[place] == "(" else None
    if called is None:
        return None
    first, *rest = called[1].split(".")
    found: Any = names.get(first)
    for name in rest:  # of modules and requests only: any other attribute might compute something
        if not isinstance(found, (type(sys), Request)):
            return None
        found = getattr(found, name, None)
    if isinstance(owner := getattr(found, "__self__", None), Request):
        return type(owner) if found.__name__ == "changed" else None
    return found if isinstance(found, type) and issubclass(found, Request) else None

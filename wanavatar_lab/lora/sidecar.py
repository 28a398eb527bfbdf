"""Trigger words, preview, usual weight and description of a LoRA, from its metadata or from files beside it.

Beside `ann.safetensors` are looked for `ann.json`, `ann.civitai.info` and `ann.metadata.json` (civitai's answers, as
the usual managers save them, or plain fields), `ann.txt` (trigger words) and `ann.png`, `.jpg`, `.jpeg`, `.webp`
(preview).
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab.requests.loras import MOST_WEIGHT

_NOTES = (".json", ".civitai.info", ".metadata.json")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_TRIGGERS = (
    "trainedWords",
    "trained_words",
    "trigger_words",
    "trigger_word",
    "trigger",
    "activation text",
    "modelspec.trigger_phrase",
    "ss_trigger_words",
    "instance_prompt",
)
_DESCRIPTIONS = ("description", "modelspec.description")
# as the usual web interface notes it, where 0 stands for none; the second is this project's
_WEIGHTS = ("preferred weight", "usual_weight")
_LINKS = ("civitai_url", "url", "modelspec.usage_hint_url")


@dataclass(frozen=True)
class Sidecar:
    """What is known of a LoRA beside its weights.

    Attributes:
        trigger_words: to be written into the prompt.
        preview: a picture of its effect.
        description: one text.
        link: where it comes from.
        usual_weight: with which whoever made it says that it is used.
        problem: a file beside it that cannot be read.
    """

    trigger_words: tuple[str, ...] = ()
    preview: Path | None = None
    description: str = ""
    link: str = ""
    usual_weight: float | None = None
    problem: str = ""


def read_sidecar(bases: Iterable[Path], metadata: Mapping[str, str]) -> Sidecar:
    """Read what lies beside a LoRA.

    Args:
        bases: its paths without the ending; a pair of files has two, and may have a common one.
        metadata: of its safetensors files.
    """
    bases = list(bases)
    sources: list[Mapping[str, Any]] = []
    problems = []
    for file in _beside(bases, _NOTES):
        try:
            noted = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{file.name} cannot be read ({error})")
            continue
        sources += _levels(noted)
    sources.append(metadata)
    words = next((found for source in sources if (found := _words(source))), [])
    if not words:
        texts = (file.read_text(encoding="utf-8", errors="replace") for file in _beside(bases, (".txt",)))
        words = next((found for text in texts if (found := _split(text))), [])
    preview = next(iter([*_beside(bases, _PICTURES), *_beside(bases, [f".preview{end}" for end in _PICTURES])]), None)
    return Sidecar(
        trigger_words=tuple(dict.fromkeys(words)),
        preview=preview,
        description=_text(sources, _DESCRIPTIONS),
        link=_link(sources),
        usual_weight=_weight(sources),
        problem="; ".join(problems),
    )


def _beside(bases: Iterable[Path], endings: Iterable[str]) -> list[Path]:
    files = [base.with_name(base.name + ending) for base in bases for ending in endings]
    return [file for file in files if file.is_file()]


def _levels(noted: Any) -> Iterator[Mapping[str, Any]]:
    """The fields themselves, then those one level down where managers keep civitai's answer."""
    if isinstance(noted, dict):
        yield noted
        for name in ("civitai", "model", "modelVersions"):
            inner = noted.get(name)
            inner = inner[0] if isinstance(inner, list) and inner else inner
            if isinstance(inner, dict):
                yield inner


def _words(source: Mapping[str, Any]) -> list[str]:
    for name in _TRIGGERS:
        value = source.get(name)
        found = _split(value) if isinstance(value, str) else [word for one in value or [] for word in _split(str(one))]
        if found:
            return found
    return []


def _split(text: str) -> list[str]:
    return [word for part in re.split(r"[,\n]", text) if (word := part.strip().strip("\"'[]"))]


def _text(sources: Iterable[Mapping[str, Any]], names: Iterable[str]) -> str:
    found = (source.get(name) for source in sources for name in names)
    text = next((value for value in found if isinstance(value, str) and value.strip()), "")
    # civitai's descriptions are HTML
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).strip()


def _weight(sources: Iterable[Mapping[str, Any]]) -> float | None:
    found = (_number(source.get(name)) for source in sources for name in _WEIGHTS)
    return next((weight for weight in found if 0 < weight <= MOST_WEIGHT), None)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)  # safetensors' metadata are texts
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _link(sources: Iterable[Mapping[str, Any]]) -> str:
    sources = list(sources)
    link = _text(sources, _LINKS)
    model = next((source["modelId"] for source in sources if isinstance(source.get("modelId"), int)), None)
    return link or (f"https://civitai.com/models/{model}" if model else "")

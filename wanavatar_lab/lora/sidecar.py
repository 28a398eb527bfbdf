"""Trigger words, preview, usual weight and description of a LoRA, from its metadata and from files beside it.

The files beside `ann.safetensors` are `ann.json`, `ann.civitai.info` and `ann.metadata.json` (civitai's answers, as the
usual managers save them, or plain fields), `ann.txt` (trigger words) and `ann.png`, `.jpg`, `.jpeg`, `.webp` (preview).
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab.requests.loras import LEAST_WEIGHT, MOST_WEIGHT

_NOTES = (".json", ".civitai.info", ".metadata.json")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
# fields of civitai, of the usual managers and trainers, and of this project, by precedence
_TRIGGERS = (
    *("trainedWords", "trained_words", "trigger_words", "trigger_word", "trigger", "activation text"),
    *("modelspec.trigger_phrase", "ss_trigger_words", "instance_prompt"),
)
_DESCRIPTIONS = ("description", "modelspec.description")
# of the usual web interface, where 0 stands for none, then of this project
_WEIGHTS = ("preferred weight", "usual_weight")
_LINKS = ("civitai_url", "url", "modelspec.usage_hint_url")


@dataclass(frozen=True)
class Sidecar:
    """What is known of a LoRA apart from its weights, as plain values.

    Attributes:
        trigger_words: for the prompt.
        preview: the path of a picture of its effect.
        description: without markup.
        link: the page where it is published.
        usual_weight: the weight that its author recommends.
        problem: files beside it that cannot be read; empty if there are none.
    """

    trigger_words: list[str]
    preview: str | None
    description: str
    link: str
    usual_weight: float | None
    problem: str


def read_sidecar(bases: Iterable[Path], metadata: Mapping[str, str]) -> Sidecar:
    """Read the files beside a LoRA. One that cannot be read is a `problem` and the others count.

    Args:
        bases: its paths without the ending; a pair of files has two, and may have a common one.
        metadata: of its safetensors files; it comes after the files beside them.
    """
    bases = list(bases)

    def beside(*endings: str) -> list[Path]:
        files = (base.with_name(base.name + ending) for base in bases for ending in endings)
        return [file for file in files if file.is_file()]

    sources: list[Mapping[str, Any]] = []
    texts, problems = [], []
    for file in beside(*_NOTES, ".txt"):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
            if file.suffix == ".txt":
                texts.append(text)
            else:
                sources += _levels(json.loads(text))
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{file.name} cannot be read ({error})")
    sources.append(metadata)
    values = [source.get(name) for source in sources for name in _TRIGGERS]
    pictures = beside(*_PICTURES) or beside(*(f".preview{ending}" for ending in _PICTURES))
    model = next((source["modelId"] for source in sources if isinstance(source.get("modelId"), int)), None)
    weights = (_number(source.get(name)) for source in sources for name in _WEIGHTS)
    return Sidecar(
        trigger_words=list(dict.fromkeys(next(filter(None, map(_words, [*values, *texts])), []))),
        preview=str(pictures[0]) if pictures else None,
        description=_text(sources, _DESCRIPTIONS),
        link=_text(sources, _LINKS) or (f"https://civitai.com/models/{model}" if model else ""),
        usual_weight=next((weight for weight in weights if weight and LEAST_WEIGHT <= weight <= MOST_WEIGHT), None),
        problem="; ".join(problems),
    )


def _levels(noted: Any) -> Iterator[Mapping[str, Any]]:
    """The fields themselves, then those one level down, where managers keep civitai's answer."""
    if isinstance(noted, dict):
        yield noted
        for name in ("civitai", "model", "modelVersions"):
            inner = noted.get(name)
            inner = inner[0] if isinstance(inner, list) and inner else inner
            if isinstance(inner, dict):
                yield inner


def _words(value: Any) -> list[str]:
    """The words in a text, or in a list of texts, that are separated by commas or lines."""
    parts = re.split(r"[,\n]", value) if isinstance(value, str) else []
    if isinstance(value, list):
        parts = [part for text in value for part in re.split(r"[,\n]", str(text))]
    return [word for part in parts if (word := part.strip().strip("\"'[]"))]


def _text(sources: Iterable[Mapping[str, Any]], names: Iterable[str]) -> str:
    found = (source.get(name) for source in sources for name in names)
    text = next((value for value in found if isinstance(value, str) and value.strip()), "")
    # civitai's descriptions are HTML
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).strip()


def _number(value: Any) -> float:
    try:
        # metadata of safetensors are texts
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan

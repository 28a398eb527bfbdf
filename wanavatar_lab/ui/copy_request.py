"""A request as text that makes it again: in Python, on the command line, and for papermill."""

import json
import shlex
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Request, fields_of, plain_defaults

_NUMBERS = {
    "text_to_image": "01",
    "upscale": "02",
    "image_to_video": "03",
    "text_to_speech": "03b",
    "speech_to_video": "04",
}
NOTEBOOKS = {stage: f"notebooks/{number}_{stage}.ipynb" for stage, number in _NUMBERS.items()}


def as_python(request: Request, seed: int | None = None) -> str:
    """A cell that submits it and waits for its result.

    Args:
        seed: the seed that was drawn, where the request leaves it to be drawn.
    """
    lines = "".join(f"    {name}={value!r},\n" for name, value in changed_values(request, seed).items())
    name = type(request).__name__
    if type(request).__module__.startswith("wanavatar_lab.requests."):
        head, made = f"from wanavatar_lab.requests import {name}\n", f"{name}(\n{lines})"
    else:
        # a custom stage, which is registered by its name
        head, made = "from wanavatar_lab.requests import parse\n", f"parse({request.stage!r}, dict(\n{lines}))"
    return f"from wanavatar_lab import jobs\n{head}\njob = jobs.submit({made})\nartifacts = await job.result()\n"


def as_command(request: Request, seed: int | None = None) -> str:
    """A line for a shell."""
    words = ["wanavatar-lab", request.stage.replace("_", "-")]
    for name, value in changed_values(request, seed).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag.removeprefix("--"))
        elif isinstance(value, list):
            for item in value:
                parts = ("auto" if part is None else str(part) for part in item.values())
                words += [flag.removesuffix("s"), ":".join(parts)]
        else:
            # joined, so that a value that begins with a dash is not taken for an option
            words.append(f"{flag}={value}")
    return shlex.join(words)


def as_papermill(request: Request, seed: int | None = None) -> str:
    """A line for a shell that executes the stage's notebook.

    Raises:
        LabError: the stage has no notebook.
    """
    if request.stage not in NOTEBOOKS:
        raise LabError(f"The stage {request.stage} has no notebook, so papermill cannot run it.")
    words = ["papermill", NOTEBOOKS[request.stage], f"runs/{request.stage}.ipynb", "-p", "interactive", "False"]
    for name, value in changed_values(request, seed).items():
        if isinstance(value, list):
            words += ["-y", json.dumps({name: value}, ensure_ascii=False)]
        elif isinstance(value, str):
            words += ["-r", name, value]  # raw: papermill would read 007 as a number
        else:
            words += ["-p", name, str(value)]
    return shlex.join(words)


def changed_values(request: Request, seed: int | None) -> dict[str, Any]:
    """The profile and the values that differ from its defaults, in plain types."""
    values = request.to_json()
    if seed is not None and "seed" in values:
        values["seed"] = seed
    defaults = plain_defaults(request.stage, request.profile)
    named = {name: values[name] for name in ("profile",) if name in values}
    for name, view in fields_of(STAGE_REQUESTS[request.stage]).items():
        value = "auto" if values[name] is None and view.kind != "str" else values[name]
        if view.required or (value is not None and value != defaults[name]):
            named[name] = value
    return named

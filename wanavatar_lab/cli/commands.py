"""The commands for stages, tools, LoRAs and files; the others have their own files."""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from wanavatar_lab import jobs
from wanavatar_lab.cli.completion import completion
from wanavatar_lab.cli.doctor import doctor
from wanavatar_lab.cli.evaluate import evaluate
from wanavatar_lab.cli.extend_prompt import extend_prompt
from wanavatar_lab.cli.output import answer, lora_lines, say
from wanavatar_lab.cli.plan import plan
from wanavatar_lab.cli.queue import queue
from wanavatar_lab.cli.runs import attach, cancel, follow, logs, option_problems, runs, status
from wanavatar_lab.cli.serve import serve
from wanavatar_lab.cli.weights import weights
from wanavatar_lab.errors import SUCCEEDED, RequestError
from wanavatar_lab.lora import describe, find_adapters
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, parse
from wanavatar_lab.requests.presets import preset_values
from wanavatar_lab.runs import made_with
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.copy_request import as_command


def make(arguments: argparse.Namespace) -> int:
    """Submit the request, follow its run, and print or copy the result.

    Raises:
        RequestError: a field, an input file or --out is wrong; all of them are named, and nothing was submitted.
    """
    problems: list[tuple[str, str]] = []
    request = None
    try:
        request = parse(arguments.stage, _with_preset(arguments))
        request.check_inputs()
    except RequestError as error:
        problems += error.problems
    problems += option_problems(arguments, STAGE_REQUESTS[arguments.stage])
    if problems or request is None:
        raise RequestError(problems)
    job = jobs.submit(request, runs_dir=arguments.runs_dir, gpus=getattr(arguments, "gpus", None))
    return follow(job, arguments, request)


def _with_preset(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of the request: those of the preset, and those given beside it."""
    values: dict[str, Any] = arguments.values
    profile = values.get("profile", next(iter(PROFILES)))
    if arguments.preset is None or profile not in PROFILES:  # which the request refuses
        return values
    return preset_values(arguments.stage, arguments.preset, profile) | values


def loras(arguments: argparse.Namespace) -> int:
    """List the LoRAs under the weights folder."""
    folder = read_settings().weights_dir
    found = describe(find_adapters(folder), folder)
    if arguments.json:
        answer([one.to_json() for one in found])
    elif found:
        answer("\n".join(lora_lines(found)))
    else:
        say(f"No LoRAs in {folder}/loras. Put files into img, mov/character, mov/move or mov/camera.")
    return SUCCEEDED


def settings(arguments: argparse.Namespace) -> int:
    """Show how a picture, clip or recording was made, and the command that makes it again."""
    made = made_with.read_settings(arguments.file)
    if arguments.json:
        answer(asdict(made))
        return SUCCEEDED
    lines = [f"{name}: {value}" for name, value in made.request.items()]
    lines += [f"input {one['name']}: sha256 {one['sha256']}" for one in made.inputs.values()]
    lines += [f"weights {name}: {digest}" for name, digest in made.weights.items()]
    with suppress(RequestError):  # of a stage that is not known here, or of another release
        lines += ["", as_command(made.to_request())]
    answer("\n".join([f"made with WanAvatar Lab {made.version}".rstrip(), *lines]))
    return SUCCEEDED


def loudness(arguments: argparse.Namespace) -> int:
    """Print the loudness of recordings and videos.

    Raises:
        MediaError: one cannot be read, or has no sound.
    """
    from wanavatar_lab.tools import measure_loudness  # no other command needs media and numbers

    if arguments.json:
        answer([{"file": path, **asdict(measure_loudness(path))} for path in arguments.files])
        return SUCCEEDED
    for path in arguments.files:
        each = measure_loudness(path)
        integrated = "silent or too short" if each.integrated is None else f"{each.integrated:.1f} LUFS"
        peak = "" if each.true_peak is None else f", true peak {each.true_peak:.1f} dBTP"
        answer(f"{path}  {integrated}, range {each.range:.1f} LU{peak}")
    return SUCCEEDED


def bench(words: Sequence[str]) -> int:
    """Run a bench of `wanavatar_lab.bench`, by the words behind the command."""
    from wanavatar_lab.bench.__main__ import main  # no other command needs torch

    return main(words)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "bench": lambda arguments: bench(arguments.words),
    "runs": runs,
    "status": status,
    "attach": attach,
    "cancel": cancel,
    "logs": logs,
    "loras": loras,
    "loudness": loudness,
    "doctor": doctor,
    "completion": completion,
    "extend-prompt": extend_prompt,
    "evaluate": evaluate,
    "settings": settings,
    "plan": plan,
    "queue": queue,
    "serve": serve,
    "weights": weights,
}

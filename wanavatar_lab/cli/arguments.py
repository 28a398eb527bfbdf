"""Arguments of the command line, built from the requests: a new field of a request appears here by itself."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from wanavatar_lab.cli import completion, doctor, evaluate, extend_prompt, plan, queue, runs, serve, weights
from wanavatar_lab.cli.options import add_common, add_gpus, add_json, add_output, add_run_id
from wanavatar_lab.cli.output import answer
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory.sharing import SHARED_STAGES
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, FieldView, Request, Tool, fields_of
from wanavatar_lab.requests.custom_stages import register_extra_stages
from wanavatar_lab.requests.presets import PURPOSES, SHIPPED

FIELD = "field:"  # prefix of the request's fields in the namespace, so that no field clashes with an option


class Usage(LabError):
    """A command line that cannot be read."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if value := re.fullmatch(r"argument (.*/)?(-\S+): expected one argument", message):
            message += f"; one that begins with - is written {value[2]}=…"
        raise Usage(f"{message}. See {self.prog} --help.")

    def print_help(self, file: Any = None) -> None:
        answer(self.format_help().rstrip("\n"))  # argparse would raise at a character that the terminal lacks


class _Grouped(argparse.RawDescriptionHelpFormatter):
    """Leaves the commands out of the arguments: the epilog has them by groups."""

    def _iter_indented_subactions(self, action: argparse.Action) -> Generator[argparse.Action]:
        yield from ()


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Returns:
        `command`, the options of that command, and for a stage: `stage`, and in `values` the fields that were given,
        as text, with unknown ones among them for the request to refuse.

    Raises:
        Usage: it cannot be read.
    """
    register_extra_stages()
    parser, commands = command_parser()
    words = list(_with_dashes(words))
    if words[:1] == ["runs"] and (len(words) == 1 or (words[1].startswith("-") and words[1] not in ("-h", "--help"))):
        words.insert(1, "list")
    if words and not words[0].startswith("-") and words[0] not in commands:
        near = difflib.get_close_matches(words[0], commands, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands)}"
        raise Usage(f"{words[0]!r} is not a command; {advice}")
    try:
        arguments, unknown = parser.parse_known_args(words)
    except Usage as error:
        dashed = [word for word in words if re.match("-[^-]", word)]
        if dashed and "arguments are required" in str(error):  # a file of such a name
            raise Usage(f"{error} {dashed[0]!r} is taken for an option; write -- before it.") from error
        raise
    arguments.stage = arguments.command.replace("-", "_")
    changes_fields = arguments.stage in STAGE_REQUESTS or getattr(arguments, "action", None) == "rerun"
    if unknown and not changes_fields:
        raise Usage(f"{arguments.command} has no option {unknown[0]!r}. See its --help.")
    arguments.values = dict(_unknown_fields(unknown))
    for name in [name for name in vars(arguments) if name.startswith(FIELD)]:
        arguments.values[name.removeprefix(FIELD)] = getattr(arguments, name)
    return arguments


def command_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and those of its commands by name."""
    parser = _Parser(
        prog="wanavatar-lab",
        description="Make a talking avatar from a sentence, a picture and a voice.",
        formatter_class=_Grouped,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    groups: dict[str, list[tuple[str, str]]] = {}

    def add(group: str, name: str, text: str) -> argparse.ArgumentParser:
        groups.setdefault(group, []).append((name, text))
        command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        return command

    for stage, request in STAGE_REQUESTS.items():
        group = "tools for recordings and videos" if issubclass(request, Tool) else "stages"
        command = add(group, stage.replace("_", "-"), request.help["en"])
        fields = command.add_argument_group("fields of the request")
        for view in fields_of(request).values():
            _add_field(fields, request, view)
        _add_preset(command, stage)
        add_output(command, request)
        if stage in SHARED_STAGES:
            add_gpus(command)
    tools, of_runs, models, files = "tools for recordings and videos", "runs", "models", "results"
    measuring = add(tools, "loudness", "Measure the loudness of recordings and videos by EBU R 128.")
    measuring.add_argument("files", metavar="FILE", nargs="+", help="a recording or video")
    add_json(measuring)
    runs.add_actions(add(of_runs, "runs", "List runs, newest first; show one, cancel one, run one again."))
    for name, text in (
        ("status", "Show a run's progress."),
        ("attach", "Follow a run until it ends, wherever it was started; Ctrl-C cancels it."),
        ("cancel", "Cancel a queued or running run."),
        ("logs", "Show the last lines of a run's log."),
    ):
        command = add(of_runs, name, text)
        add_run_id(command)
        if name == "logs":
            command.add_argument("--lines", type=int, metavar="N", default=50, help="number of lines (default 50)")
        if name == "attach":
            add_output(command)
        else:
            add_common(command)
    queue.add_actions(add(of_runs, "queue", "List, reorder, pause, resume or cancel the runs that have not ended."))
    made = add(
        files, "settings", "Show how a picture, clip or recording was made, and the command that makes it again."
    )
    made.add_argument("file", metavar="FILE", help="a picture, clip or recording that was made here")
    add_json(made)
    evaluating = add(files, "evaluate", "Measure talking clips: lips against the sound, identity, flicker, jumps.")
    evaluate.add_options(evaluating)
    add_json(evaluating)
    weights.add_actions(add(models, "weights", "List, download and verify model weights."))
    add_json(add(models, "loras", "List LoRAs with their model, rank, alpha and trigger words."))
    planning = add(models, "plan", "Estimate memory, placement and run time without loading anything.")
    plan.add_options(planning)
    add_json(planning)
    extending = add(models, "extend-prompt", "Write a longer prompt from a short one, with a language model.")
    extend_prompt.add_options(extending)
    add_json(extending)
    here = "this machine"
    serve.add_options(add(here, "serve", "Serve the stages to scripts and front ends, over HTTP."))
    looking = add(here, "doctor", "Check this machine: GPU, memory, disks, weights, extras, ports; and what to do.")
    doctor.add_options(looking)
    add_json(looking)
    benching = add(here, "bench", "Measure times and memory on this machine, at true size without any weights.")
    benching.add_argument("words", metavar="…", nargs=argparse.REMAINDER, help="`bench --help` lists the benches")
    completion.add_options(add(here, "completion", "Print the script that completes commands in a shell by Tab."))
    parser.epilog = "\n\n".join(_section(title, rows) for title, rows in groups.items())
    parser.epilog += "\n\n`wanavatar-lab COMMAND --help` shows the options of a command. Exit codes: docs/cli.md."
    return parser, dict(commands.choices)


def _section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join([f"{title}:", *(f"  {name:<20}{text}" for name, text in rows)])


def _add_field(group: Any, request: type[Request], view: FieldView) -> None:
    flag = "--" + view.name.replace("_", "-")
    options: dict[str, Any] = {"dest": FIELD + view.name, "default": argparse.SUPPRESS, "help": _help(request, view)}
    if view.kind == "bool":
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif view.widget == "loras":
        # given once per LoRA, so the option is the singular
        item = request.model_fields[view.name].annotation.__args__[0]  # type: ignore[union-attr]
        weights = [name for name in item.model_fields if name != "name"]
        metavar = "NAME" + "".join(f"[:{weight.upper()}" for weight in weights) + "]" * len(weights)
        group.add_argument(flag.removesuffix("s"), action="append", metavar=metavar, **options)
    elif view.options:
        group.add_argument(flag, metavar="{" + ",".join(view.options) + "}", **options)
    else:
        metavar = "FILE" if view.is_file else {"int": "N", "float": "X"}.get(view.kind, "TEXT")
        group.add_argument(flag, metavar=metavar, **options)


def _add_preset(command: argparse.ArgumentParser, stage: str) -> None:
    shipped = [*SHIPPED.get(stage, {})]
    names = f"{', '.join(shipped)}, or one of your own" if shipped else "one of your own"
    text = f"settings under a name, as in the form: {names}; options take precedence"
    text += "".join(f". {key}: {PURPOSES[key]['en']}" for key in shipped if key in PURPOSES)
    metavar = "{" + ",".join(shipped) + "}" if shipped else "NAME"
    command.add_argument("--preset", metavar=metavar, help=text)


def _help(request: type[Request], view: FieldView) -> str:
    """Help of a field: what it takes, and its default in each profile where that differs."""
    facts = [] if view.kind == "bool" or view.options else [view.allowed]
    if view.required:
        facts.append("required")
    elif view.default not in (None, "", ()):
        facts.append(f"default {_short(view.default)}")
    for profile in PROFILES.values():
        own = profile.default_overrides(request.stage).get(view.name, view.default)
        if own != view.default:
            facts.append(f"{_short(own) or 'empty'} with profile {profile.name}")
    text = view.help["en"] + (f" ({'; '.join(facts)})" if facts else "")
    return text.replace("%", "%%")


def _short(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else textwrap.shorten(text, 60, placeholder="…") if " " in text else text[:20] + "…"


def _with_dashes(words: Sequence[str]) -> Iterator[str]:
    """The words with --some_field read as --some-field, text_to_image as text-to-image, and -x.png as a value.

    Behind -- they stay as they are: names of files.
    """
    remaining = iter(enumerate(words))
    for index, word in remaining:
        if word == "--":
            yield from words[index:]
            return
        name, equals, value = word.partition("=")
        if not word.startswith("--") and not (index == 0 and name in STAGE_REQUESTS):
            yield word
            continue
        following = words[index + 1] if index + 1 < len(words) else ""
        # joined, or it would be taken for an option; there is none of one dash but -h
        if not equals and re.match("-[^-]", following) and following != "-h":
            equals, value = "=", following
            next(remaining)
        yield name.replace("_", "-") + equals + value


def _unknown_fields(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Unknown fields with their values; the request refuses them and suggests the nearest name.

    Raises:
        Usage: a word belongs to no option.
    """
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("--"):
            raise Usage(f"{word!r} belongs to no option. See --help.")
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals and position + 1 < len(words) and not words[position + 1].startswith("--"):
            position += 1
            value = words[position]
        position += 1
        yield name.replace("-", "_"), value

"""The command completion: a script for a shell, by which Tab completes commands, options, choices and files.

    wanavatar-lab completion bash > ~/.local/share/bash-completion/completions/wanavatar-lab

The script is written once and asks this program nothing, so that Tab is immediate.
"""

import argparse
from collections.abc import Iterable, Iterator

from wanavatar_lab.cli.output import answer
from wanavatar_lab.errors import SUCCEEDED, RequestError
from wanavatar_lab.requests.request import must_be

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))


def _with_actions(parsers: Iterable[argparse.ArgumentParser]) -> Iterator[argparse.ArgumentParser]:
    """The parsers of commands and of their actions."""
    for parser in parsers:
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()


def completion(arguments: argparse.Namespace) -> int:
    """Print the script of a shell.

    Raises:
        RequestError: there is none for this shell.
    """
    if arguments.shell not in SHELLS:
        raise RequestError([("shell", must_be(f"one of {', '.join(SHELLS)}", arguments.shell))])
    import shtab

    from wanavatar_lab.cli.arguments import command_parser  # which imports this module

    parser, commands = command_parser()
    for each in _with_actions(commands.values()):
        for option in each._actions:
            metavar = option.metavar if isinstance(option.metavar, str) else ""
            if metavar.startswith("{"):  # no choices of the parser, since the request refuses others in its own words
                option.choices = metavar[1:-1].split(",")
            elif metavar in ("FILE", "CLIP", "OTHER"):
                option.complete = shtab.FILE  # type: ignore[attr-defined]
            elif metavar == "FOLDER":
                option.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    answer(shtab.complete(parser, shell=arguments.shell).rstrip())
    return SUCCEEDED

"""The command line: one command per stage, made from its request, and commands for runs.

    wanavatar-lab speech-to-video --profile pocket --image a.png --audio v.wav --seed 1 --out d.mp4
    wanavatar-lab trim --media d.mp4 --start 0.5 --duration 2 --out part.mp4
    wanavatar-lab runs [list] | show ID | cancel ID | rerun ID
    wanavatar-lab loras | status ID | attach ID | logs ID | cancel ID
    wanavatar-lab queue list | move ID first | pause | resume | cancel
    wanavatar-lab extend-prompt speech-to-video "a woman talks"
    wanavatar-lab evaluate CLIP [OTHER] --picture measures.png
    wanavatar-lab settings d.mp4
    wanavatar-lab plan speech-to-video --resolution 480x832
    wanavatar-lab serve --profile pocket
    wanavatar-lab bench parts | stages | …
    wanavatar-lab doctor | completion bash
    wanavatar-lab weights list | download NAME... | verify [NAME...] | where [NAME...]

Results go to standard output, everything else to standard error. Exit codes: 0 success, 1 the run failed, 2 the request
was refused (nothing was loaded or written), 130 after Ctrl-C, which cancels the run. docs/cli.md says more.
"""

import os
import sys
from collections.abc import Sequence

from wanavatar_lab.cli.arguments import Usage, read_arguments
from wanavatar_lab.cli.commands import COMMANDS, bench, make
from wanavatar_lab.cli.output import complain
from wanavatar_lab.errors import FAILED, INTERRUPTED, REFUSED, LabError, RequestError, RunError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        words: the arguments without the program's name; those of this process if None.
    """
    words = list(sys.argv[1:] if words is None else words)
    machine = "--json" in words
    try:
        if words[:1] == ["bench"]:  # a program of its own, whose options are not read here
            return bench(words[1:])
        arguments = read_arguments(words)
        return COMMANDS.get(arguments.command, make)(arguments)
    except (RequestError, RunError, Usage) as error:
        complain(error, machine=machine)
        return REFUSED
    except LabError as error:
        complain(error, machine=machine)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of the pipe is gone; what is left in the buffer must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED

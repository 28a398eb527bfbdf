"""The command extend-prompt: a longer prompt, printed and used for nothing."""

import argparse
import sys
from contextlib import redirect_stdout

from wanavatar_lab.cli.output import answer, say
from wanavatar_lab.errors import SUCCEEDED, RequestError
from wanavatar_lab.requests.fields import LARGEST_SEED
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages import prompt_extension


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    stages = ", ".join(stage.replace("_", "-") for stage in prompt_extension.STAGES)
    command.add_argument("for_stage", metavar="STAGE", help=stages)
    command.add_argument("prompt", metavar="PROMPT", help="the short prompt; - reads it from standard input")
    command.add_argument(
        "--language",
        metavar="{" + ",".join(prompt_extension.LANGUAGES) + "}",
        help="of the answer (default: zh for a Chinese prompt, else en)",
    )
    command.add_argument(
        "--seed", metavar="N", help=f"0 to {LARGEST_SEED}: another seed, another text (default: the likeliest words)"
    )


def extend_prompt(arguments: argparse.Namespace) -> int:
    """Print the longer prompt.

    Raises:
        RequestError: an argument is not allowed.
        LabError: the language model is missing, does not fit into memory, or wrote nothing.
    """
    stage, prompt, seed = arguments.for_stage.replace("-", "_"), arguments.prompt, arguments.seed
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "backslashreplace").rstrip("\n")
    if seed is not None and not (seed.isdecimal() and int(seed) <= LARGEST_SEED):
        raise RequestError([("seed", must_be(f"an integer from 0 to {LARGEST_SEED}", seed))])
    prompt_extension.check_arguments(prompt, stage, arguments.language)
    weights_dir = read_settings().weights_dir
    prompt_extension.model_folder(weights_dir)  # before torch is imported, which takes seconds
    from wanavatar_lab.worker.execute import choose_device

    with redirect_stdout(sys.stderr):  # where libraries may log what they load
        text = prompt_extension.extend_prompt(
            prompt,
            stage,
            weights_dir,
            choose_device(),
            language=arguments.language,
            seed=None if seed is None else int(seed),
            say=say,
        )
    answer({"stage": stage, "prompt": prompt, "extended": text} if arguments.json else text)
    return SUCCEEDED

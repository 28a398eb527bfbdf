"""Run a notebook headless through papermill, and refuse a parameter that it does not have.

    python -m wanavatar_lab.cli.run_notebook notebooks/05_pipeline.ipynb runs/demo/05_pipeline.ipynb -p profile pocket

Output is shown as it is printed and kept in the executed notebook. Papermill by itself only warns of an unknown
parameter, and the notebook refuses it once its kernel runs (`ui.parameters`); here it is refused before anything
starts. Exit codes: 0 success, 1 a cell failed, 2 a parameter was refused (nothing was run), 130 after Ctrl-C.
"""

import argparse
import ast
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from wanavatar_lab.cli.output import complain, say
from wanavatar_lab.errors import FAILED, INTERRUPTED, REFUSED, LabError, RequestError
from wanavatar_lab.requests.request import must_be, suggestion
from wanavatar_lab.ui.parameters import KINDS

_WORDS: dict[str, bool] = {"true": True, "false": False}


def read_parameters(notebook: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """Parameters as text, in the types that the defaults in the notebook's cell tagged `parameters` have.

    Raises:
        LabError: the notebook cannot be read.
        RequestError: it has no parameter of that name, or the value is of another kind; all of them at once.
    """
    if not notebook.is_file():
        raise LabError(f"There is no notebook at {notebook}.")
    try:
        known = {name: facts["default"] for name, facts in papermill.inspect_notebook(str(notebook)).items()}
    except (OSError, ValueError, nbformat.ValidationError) as error:  # damaged, or not permitted
        raise LabError(f"{notebook} cannot be read as a notebook: {error}") from error
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for name, text in texts.items():
        if name not in known:
            problems.append((name, f"{notebook.name} has no such parameter; {suggestion(name, known)}"))
            continue
        kind = type(ast.literal_eval(known[name]))
        try:
            values[name] = _WORDS[text.strip().lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            problems.append((name, must_be(KINDS[kind], text)))
    if problems:
        raise RequestError(problems)
    return values


def run_notebook(notebook: Path, out: Path, texts: Mapping[str, str]) -> None:
    """Execute a notebook in a kernel whose working folder is the notebook's, as in JupyterLab.

    Args:
        notebook: stays as it is.
        out: the executed one, written after every cell; another file than the notebook.
        texts: parameters by name, as text.

    Raises:
        RequestError: as `read_parameters`, or `out` is a folder or the notebook; nothing was run.
        LabError: a cell failed, and `out` shows which; the kernel is not there, or died; or `out` cannot be written.
    """
    values = read_parameters(notebook, texts)
    if out.is_dir() or (out.exists() and out.samefile(notebook)):
        allowed = "a file, and another one than the notebook, which stays as it is"
        raise RequestError([("out", must_be(allowed, str(out)))])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{out} cannot be written: {out.parent} cannot be made ({error.strerror}).") from error
    os.environ["JPY_SESSION_NAME"] = str(out.absolute())  # as Jupyter tells a kernel where its notebook is
    try:
        papermill.execute_notebook(
            str(notebook),
            str(out),
            parameters=values,
            cwd=str(notebook.absolute().parent),
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        # the package's own errors are complete sentences; of any other the class name is needed too
        own = any(kind.__name__ == error.ename for kind in _family(LabError))
        text = error.evalue if own else f"{error.ename}: {error.evalue}"
        raise LabError(f"{text.rstrip('.')}. The cell where it happened is marked in {out}.") from error
    except DeadKernelError as error:
        raise LabError(
            f"The kernel ended in the middle of a cell, as when main memory runs out. What the cells before it "
            f"showed is in {out}."
        ) from error
    except NoSuchKernel as error:
        raise LabError(
            f"{notebook} asks for the kernel {error.name!r}, which is not installed. `jupyter kernelspec list` shows "
            "those that are; choose one in JupyterLab and save the notebook."
        ) from error
    except OSError as error:
        raise LabError(f"{out} cannot be written: {error.strerror or error}.") from error


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m wanavatar_lab.cli.run_notebook", description=__doc__.splitlines()[0]
    )
    parser.add_argument("notebook", type=Path, help="the notebook to run")
    parser.add_argument("out", type=Path, help="where the executed notebook is written")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    arguments = parser.parse_args(words)
    try:
        run_notebook(arguments.notebook, arguments.out, dict(arguments.parameter))
    except RequestError as error:
        complain(error, machine=False)
        return REFUSED
    except LabError as error:
        complain(error, machine=False)
        return FAILED
    except KeyboardInterrupt:
        # at exit it would report the task in which papermill waited
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        # the kernel is shut down at once, which may leave it no time to cancel its run
        say("Notebook stopped. A run that it started continues: `wanavatar-lab runs` lists it,")
        say("`wanavatar-lab cancel ID` cancels it.")
        return INTERRUPTED
    return 0


def _family(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _family(child))]


if __name__ == "__main__":
    sys.exit(main())

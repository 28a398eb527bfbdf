"""Options that several commands have."""

import argparse
import os
from pathlib import Path

from wanavatar_lab.requests import Request


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="print the result as one JSON document")


def add_common(command: argparse.ArgumentParser) -> None:
    """Add --json and --runs-dir."""
    add_json(command)
    command.add_argument(
        "--runs-dir", metavar="FOLDER", help="folder of the runs (default: WANAVATAR_RUNS_DIR, or runs)"
    )


def add_gpus(command: argparse.ArgumentParser) -> None:
    """Add how many GPUs share a run."""
    command.add_argument(
        "--gpus",
        metavar="{auto,N}",
        help="how many GPUs share the run; on a CPU, how many processes (default: WANAVATAR_GPUS, or auto)",
    )


def add_run_id(command: argparse.ArgumentParser) -> None:
    """Add the id of a run."""
    command.add_argument("id", metavar="ID", help="id of the run, from `wanavatar-lab runs`")


def add_output(command: argparse.ArgumentParser, request: type[Request] | None = None) -> None:
    """Add where the result goes, --json and --runs-dir.

    Args:
        request: whose result it is, if that is known.
    """
    ending = f", ending in {request.suffix}" if request and request.suffix else ""
    command.add_argument(
        "--out", metavar="FILE", help=f"copy the result to this file{ending}; the original stays in the run's folder"
    )
    command.add_argument("--overwrite", action="store_true", help="replace the file of --out if there is one")
    add_common(command)


def place_fault(file: str) -> str:
    """Why no file of this name can be written, such as a folder that does not exist; empty if one can."""
    path = Path(file)
    try:
        if path.is_dir() or not path.name:
            return "must be the name of a file, not of a folder"
        if not path.parent.is_dir():
            return f"must be in an existing folder; {str(path.parent)!r} does not exist"
        if not os.access(path.parent, os.W_OK):
            return f"must be in a writable folder; {str(path.parent)!r} is not"
    except OSError as error:  # a name that is too long
        return f"cannot be written: {error.strerror}"
    return ""

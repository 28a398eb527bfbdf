"""What is needed to make a run's result again, without a word about the machine's folders."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wanavatar_lab.requests import Request
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Artifact, Status

FORMAT = 1
PACKAGES = ("wanavatar-lab", "torch", "diffusers", "transformers", "peft", "accelerate", "av", "numpy")


@dataclass
class Record:
    """What only the process that executes a run knows of it.

    Attributes:
        device: cpu, cuda, ...; and what it is called.
        seconds: per phase.
        facts: what the stage recorded.
        inputs: from `describe_inputs`.
    """

    device: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)


def build_manifest(run: Run, status: Status, record: Record) -> dict[str, Any]:
    """The manifest of a run that ends with `status`; plain values for JSON.

    The request is taken as it is written: its class may be another's code, which has no business in the process that
    ends the run of a worker that died.

    Raises:
        RunError: the request cannot be read any more.
    """
    request = run.read_json("request.json")
    root = run.folder.parent
    # submitting has made the paths of input files absolute
    paths = {name: Path(value) for name, value in request.items() if isinstance(value, str) and value.startswith("/")}
    inputs = {
        name: {**_place(path, root), **record.inputs.get(name, {})}
        for name, path in paths.items()
        if name in record.inputs or os.path.isfile(path)
    }
    return {
        "format": FORMAT,
        "id": run.id,
        "stage": run.stage,
        "state": status.state,
        "error": status.error.replace(str(root), "<runs_dir>") if status.error else None,
        "request": {**request, **{name: place.get("path", place["name"]) for name, place in inputs.items()}},
        "seed": status.seed,
        "inputs": inputs,
        "parents": sorted({place["run"] for place in inputs.values() if "run" in place}),
        "artifacts": [_artifact(run, artifact) for artifact in status.artifacts],
        "facts": record.facts,
        "seconds": {phase: round(seconds, 3) for phase, seconds in record.seconds.items()},
        "memory_bytes": status.memory_bytes,
        "device": record.device,
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "python": platform.python_version(),
        "commit": _commit(),
        "submitted_at": _written(status.submitted_at),
        "started_at": _written(status.started_at),
        "finished_at": _written(status.finished_at),
    }


def describe_inputs(request: Request) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each input file, by field: taken before the work, since a file may change later."""
    return {name: _contents(path) for name, path in request.input_files().items()}


def _place(path: Path, root: Path) -> dict[str, Any]:
    """The name of an input file; if another run made it, also which and where, relative to the runs folder."""
    absolute = path.resolve()
    if not absolute.is_relative_to(root.resolve()) or len(parts := absolute.relative_to(root.resolve()).parts) < 2:
        return {"name": path.name}
    return {"name": path.name, "run": parts[0], "path": "/".join(parts)}


def _artifact(run: Run, artifact: Artifact) -> dict[str, Any]:
    return {**artifact.model_dump(), **_contents(run.path(artifact))}


def _contents(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this package's checkout, with -dirty if files differ from it; None outside of a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    # without the optional locks a commit that is being made at this moment is not disturbed
    command = [
        "git",
        "--no-optional-locks",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _written(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

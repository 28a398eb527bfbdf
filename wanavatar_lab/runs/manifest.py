"""The manifest of a run, manifest.json: what is needed to reproduce its result, without this machine's paths."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wanavatar_lab.files import printable, sha256_of
from wanavatar_lab.runs.inputs import InputFile
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Status
from wanavatar_lab.settings import read_settings

FORMAT = 1
PACKAGES = ("wanavatar-lab", "torch", "diffusers", "transformers", "peft", "accelerate", "av", "numpy")


@dataclass
class Record:
    """What only the process that executes a run knows of it.

    Attributes:
        device: cpu, or cuda and the GPU's name.
        seconds: per phase.
        facts: what the stage recorded.
    """

    device: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def build_manifest(run: Run, status: Status, record: Record, files: Mapping[str, InputFile]) -> dict[str, Any]:
    """The manifest of a run that ends with `status`; plain values for JSON.

    A run folder may be given away, so that the manifest has no path of this machine: input files are named without
    their folder, or by the run that made them. `request.json`, by which the run is run again here, keeps their paths.

    Args:
        files: the input files, by field.

    The request is read as plain JSON: its class may be in a custom stage's code, which must not run in the process
    that finishes the run of a worker that died.

    Raises:
        RunError: the request cannot be read any more.
    """
    request = run.read_json("request.json")
    root = run.folder.parent
    # submitting has made the paths of input files absolute
    paths = {name: Path(value) for name, value in request.items() if isinstance(value, str) and value.startswith("/")}
    inputs = {
        name: {**_location(path, root), **(files[name].facts() if name in files else {})}
        for name, path in paths.items()
        if name in files or os.path.isfile(path)
    }
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    times = status.model_dump(include={"submitted_at", "started_at", "finished_at"})
    return {
        "format": FORMAT,
        "id": run.id,
        "stage": run.stage,
        "state": status.state,
        "error": _without_places(status.error, paths.values(), root) if status.error else None,
        "request": {**request, **{name: place.get("path", place["name"]) for name, place in inputs.items()}},
        "seed": status.seed,
        "inputs": inputs,
        "parents": sorted({place["run"] for place in inputs.values() if "run" in place}),
        "artifacts": [{**made.model_dump(), **describe_file(run.path(made))} for made in status.artifacts],
        "facts": record.facts,
        "seconds": {phase: round(seconds, 3) for phase, seconds in record.seconds.items()},
        "memory_bytes": status.memory_bytes,
        "device": record.device,
        **status.model_dump(include={"node", "retried"}, exclude_none=True),
        "versions": versions,
        "python": platform.python_version(),
        "commit": _commit(),
        **{
            name: None if time is None else datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")
            for name, time in times.items()
        },
    }


def relocate(manifest: dict[str, Any], request: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A manifest that was written on another machine, with which runs of this one made the input files.

    Args:
        manifest: as written there.
        request: as JSON, with the paths of input files here.
        root: the runs folder here.
    """
    inputs = {
        name: {**place, **_location(Path(request[name]), root)} for name, place in manifest.get("inputs", {}).items()
    }
    if not inputs:
        return manifest
    return manifest | {
        "inputs": inputs,
        "request": manifest["request"] | {name: place.get("path", place["name"]) for name, place in inputs.items()},
        "parents": sorted({place["run"] for place in inputs.values() if "run" in place}),
    }


def _location(path: Path, root: Path) -> dict[str, Any]:
    """The name of an input file; if another run made it, also which and where, relative to the runs folder."""
    absolute = path.resolve()
    if not absolute.is_relative_to(root.resolve()) or len(parts := absolute.relative_to(root.resolve()).parts) < 2:
        return {"name": path.name}
    return {"name": path.name, "run": parts[0], "path": "/".join(parts)}


def _without_places(text: str, inputs: Iterable[Path], root: Path) -> str:
    """`text` without this machine's folders: those of input files, of the runs, of the weights, and the user's own."""
    weights, home = read_settings().weights_dir.absolute(), Path.home()
    words = {path: path.name for path in inputs} | {root: "<runs_dir>", weights: "<weights_dir>", home: "~"}
    for path, word in words.items():
        if path != path.parent:  # a home of / would be found everywhere
            text = text.replace(printable(str(path)), printable(word))
    return text


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _commit() -> str | None:
    """The commit of this package's checkout, with -dirty if files differ from it; None outside of a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    # without the optional locks a commit that is being made at this moment is not disturbed
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        # excluding all tags, so that it is the commit itself; 10 s, for a checkout on a slow network disk
        answer = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None

"""What the file of an artifact says of how it was made: written into the file, and read back.

The entries are texts by name: `Request` with the seed that was used, `Inputs`, `Weights` and `LoRAs` as JSON, and
`Software`, `Version`, `Stage` and `Prompt` as they are. PNG has a text chunk for each, JPEG, WebP and MP4 one JSON
object in the description or comment. Input files are named without their folder, so that a file that is given away
says nothing of the machine that made it.
"""

import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError, MediaError, RunError
from wanavatar_lab.files import printable, sha256_of
from wanavatar_lab.requests import Request, fields_of
from wanavatar_lab.requests.custom_stages import register_extra_stages
from wanavatar_lab.requests.request import prompt_of
from wanavatar_lab.runs.inputs import InputFile
from wanavatar_lab.runs.run import list_runs

SOFTWARE = "WanAvatar Lab"


@dataclass(frozen=True)
class MadeWith:
    """How a file was made.

    Attributes:
        request: the stage and every field, as JSON types; the seed is the one that was used, and an input file is its
            name without the folder.
        inputs: name and SHA-256 of each input file, by field.
        weights: the fingerprints of the weights, by file.
        loras: the LoRAs with their weights and the SHA-256 of their files.
        version: of this package that made it.
    """

    request: dict[str, Any]
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    loras: list[dict[str, Any]] = field(default_factory=list)
    version: str = ""

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return str(self.request.get("stage"))

    def to_request(self) -> Request:
        """The request, checked.

        Raises:
            RequestError: the stage is unknown, or a value does not fit this release.
        """
        return Request.from_json(self.request)


def describe(
    request: Request,
    seed: int,
    inputs: Mapping[str, InputFile],
    weights: Mapping[str, str],
    loras: Sequence[Mapping[str, Any]] = (),
) -> dict[str, str]:
    """The entries for an artifact of a run; see `MadeWith`."""
    values = request.to_json()
    if "seed" in values:
        values["seed"] = seed
    for name, view in fields_of(type(request)).items():
        if view.is_file and values[name] is not None:
            values[name] = printable(Path(values[name]).name)
    entries: dict[str, Any] = {
        "Software": SOFTWARE,
        "Version": _version(),
        "Stage": request.stage,
        "Prompt": prompt_of(values),
        "Request": values,
        "Inputs": {name: {"name": one.name, "sha256": one.sha256} for name, one in inputs.items()},
        "Weights": dict(weights),
        "LoRAs": list(loras),
    }
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in entries.items()
        if value
    }
    return {name: printable(text) for name, text in texts.items()}


def read_settings(path: Path | str) -> MadeWith:
    """How a picture or clip was made, from the file alone.

    Raises:
        MediaError: it cannot be read, or does not say: it was not made here, or was saved anew by a program that
            leaves such notes out.
    """
    from wanavatar_lab.media import read_metadata  # slow to import

    found = read_metadata(path)
    try:
        if found.get("Software") != SOFTWARE:
            raise ValueError
        request = json.loads(found["Request"])
        parts = {name: json.loads(found.get(name, empty)) for name, empty in (("Inputs", "{}"), ("LoRAs", "[]"))}
        weights = json.loads(found.get("Weights", "{}"))
        inputs = parts["Inputs"] if isinstance(parts["Inputs"], dict) else {"": None}
        if not isinstance(request, dict) or not all(map(_is_input, inputs.values())):
            raise ValueError
    except (KeyError, ValueError, RecursionError) as error:
        raise MediaError(
            f"{path} does not say how it was made: WanAvatar Lab did not make it, or another program saved it anew."
        ) from error
    with suppress(LabError):  # the settings can be shown all the same
        register_extra_stages()
    return MadeWith(request, parts["Inputs"], weights, parts["LoRAs"], found.get("Version", ""))


def _is_input(noted: Any) -> bool:
    return isinstance(noted, dict) and all(isinstance(noted.get(name), str) for name in ("name", "sha256"))


def find_inputs(made: MadeWith, folders: Iterable[Path] = (), *, runs_dir: Path | str | None = None) -> dict[str, Path]:
    """Where this machine has the input files that a file was made of, by field; one that is not found is left out.

    A file is found by its name and its SHA-256: in `folders`, among the results of runs, and where the inputs of
    earlier runs were.
    """
    found: dict[str, Path] = {}
    hashes: dict[Path, str] = {}
    wanted = made.inputs
    for path in _of_these_names({one["name"] for one in wanted.values()}, folders, runs_dir) if wanted else ():
        if path in hashes or not os.path.isfile(path):
            continue
        with suppress(OSError):  # gone since, or not to be read
            hashes[path] = sha256_of(path)
            for name, one in wanted.items():
                if name not in found and (printable(path.name), hashes[path]) == (one["name"], one["sha256"]):
                    found[name] = path
        if len(found) == len(wanted):
            break
    return found


def _of_these_names(names: set[str], folders: Iterable[Path], runs_dir: Path | str | None) -> Iterator[Path]:
    for folder in folders:
        yield from (folder / name for name in names if Path(name).name == name)
    for run in list_runs(runs_dir):
        with suppress(RunError):  # deleted since it was listed, or damaged
            given = [Path(value) for value in run.read_json("request.json").values() if isinstance(value, str)]
            made = [run.path(artifact) for artifact in run.status().artifacts]
            yield from (path for path in [*made, *given] if printable(path.name) in names)


def _version() -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("wanavatar-lab")
    return ""

"""An index of all runs for the gallery: what each asked for and made, and which run's files it took.

A run that has ended does not change, so it is read once; a refresh reads the folder's listing and unfinished runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab import files
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder
from wanavatar_lab.ui.listing import matches


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        kind: what it makes: picture, video, talking, ...; "" where that is not known.
        state: as the status, or "damaged".
        title: its prompt; without one, the name of its first input file; for a damaged run, what is wrong.
        time: when it was submitted, in seconds since 1970.
        file: the file of this kind that it made; None where there is none.
        parents: the runs whose files it took, in the order of its fields.
    """

    id: str
    stage: str
    kind: str
    state: str
    title: str
    time: float
    file: Path | None = None
    parents: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in ("queued", "running")


class Catalogue:
    """The runs of a folder, which is that of the settings if None.

    Attributes:
        entries: the runs by id, newest first.
    """

    def __init__(self, runs_dir: Path | str | None = None) -> None:
        self.root = runs_folder(runs_dir)
        self.entries: dict[str, Entry] = {}
        self._children: dict[str, list[str]] = {}

    def refresh(self) -> bool:
        """Read the disk again; whether anything changed."""
        found: list[Entry] = []
        for name in [listed.name for listed in files.entries(self.root) if RUN_ID.fullmatch(listed.name)]:
            known = self.entries.get(name)
            entry = known if known is not None and known.ended else _read(Run(self.root / name))
            if entry is not None:
                found.append(entry)
        found.sort(key=lambda entry: (entry.time, entry.id), reverse=True)
        if found == list(self.entries.values()):
            return False
        self.entries = {entry.id: entry for entry in found}
        self._children = {}
        for entry in reversed(found):
            for parent in entry.parents:
                self._children.setdefault(parent, []).append(entry.id)
        return True

    def find(self, *, kind: str = "", query: str = "", family: str = "") -> list[Entry]:
        """Runs, newest first.

        Args:
            kind: only those that make this.
            query: only those with each of these words in their title, stage or id, in any case.
            family: only this run, its parents and its children.
        """
        relatives = {family, *self.parents(family), *self.children(family)} if family else None
        return [
            entry
            for entry in self.entries.values()
            if (not kind or entry.kind == kind)
            and (relatives is None or entry.id in relatives)
            and (not query or matches(query, entry.title, entry.stage.replace("_", " "), entry.id))
        ]

    def kinds(self) -> list[str]:
        """Every kind that exists, those of the shipped stages first."""
        known = list(dict.fromkeys(request.artifact for request in STAGE_REQUESTS.values()))
        present = {entry.kind for entry in self.entries.values()} - {""}
        return [kind for kind in known if kind in present] + sorted(present - set(known))

    def parents(self, run_id: str) -> list[str]:
        """The existing runs whose files this one took."""
        entry = self.entries.get(run_id)
        return [parent for parent in entry.parents if parent in self.entries] if entry else []

    def children(self, run_id: str) -> list[str]:
        """The runs that took files of this one."""
        return self._children.get(run_id, [])


def _read(run: Run) -> Entry | None:
    """A run by its folder; None if that is gone."""
    stage = STAGE_REQUESTS.get(run.stage)
    kind = stage.artifact if stage else ""
    try:
        status = run.status()
        # not as a request: its stage may not be registered, and two thousand validations take seconds
        request = json.loads((run.folder / "request.json").read_bytes())
        values = [value for name, value in request.items() if isinstance(value, str) and name != "stage"]
    except (LabError, OSError, ValueError, AttributeError) as error:
        if not run.folder.exists():
            return None
        return Entry(run.id, run.stage, kind, "damaged", str(error), 0.0)
    inputs = [value for value in values if value.startswith("/")]  # submitting has made them absolute
    title = str(request.get("prompt") or "") or (Path(inputs[0]).name if inputs else "")
    if status.artifacts and all(artifact.kind != kind for artifact in status.artifacts):
        kind = status.artifacts[0].kind
    file = next((run.path(artifact) for artifact in status.artifacts if artifact.kind == kind), None)
    head = f"{run.folder.parent}/"
    owners = [path.removeprefix(head).partition("/")[0] for path in inputs if path.startswith(head)]
    parents = tuple(dict.fromkeys(owner for owner in owners if RUN_ID.fullmatch(owner)))
    return Entry(run.id, run.stage, kind, status.state, title, status.submitted_at or 0.0, file, parents)

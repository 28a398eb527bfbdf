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
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.ui.listing import matches


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        kind: what it makes: picture, video, talking, ...; "" where that is not known.
        state: as the status, or "damaged".
        title: its prompt; without one, the name of its first input file; for a damaged run, what is wrong.
        parents: the runs whose files it took, in the order of its fields.
    """

    id: str
    stage: str
    kind: str
    state: str
    title: str
    submitted_at: float
    artifacts: tuple[Artifact, ...] = ()
    parents: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in ("queued", "running")

    @property
    def main(self) -> Artifact | None:
        """The artifact that represents it."""
        return next((artifact for artifact in self.artifacts if artifact.kind == self.kind), None)


class Catalogue:
    """The runs of a folder, which is that of the settings if None."""

    def __init__(self, runs_dir: Path | str | None = None) -> None:
        self.root = runs_folder(runs_dir)
        self._entries: dict[str, Entry] = {}
        self._order: list[Entry] = []
        self._children: dict[str, list[str]] = {}

    def refresh(self) -> bool:
        """Read the disk again; whether anything changed."""
        names = [listed.name for listed in files.entries(self.root) if RUN_ID.fullmatch(listed.name)]
        entries: dict[str, Entry] = {}
        for name in names:
            known = self._entries.get(name)
            entry = known if known is not None and known.ended else _read(Run(self.root / name))
            if entry is not None:
                entries[name] = entry
        if entries == self._entries:
            return False
        self._entries = entries
        self._order = sorted(entries.values(), key=lambda entry: (entry.submitted_at, entry.id), reverse=True)
        self._children = {}
        for entry in reversed(self._order):
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
            for entry in self._order
            if (not kind or entry.kind == kind)
            and (relatives is None or entry.id in relatives)
            and (not query or matches(query, entry.title, entry.stage.replace("_", " "), entry.id))
        ]

    def kinds(self) -> list[str]:
        """Every kind that exists, those of the shipped stages first."""
        known = list(dict.fromkeys(request.artifact for request in STAGE_REQUESTS.values()))
        present = {entry.kind for entry in self._order} - {""}
        return [kind for kind in known if kind in present] + sorted(present - set(known))

    def entry(self, run_id: str) -> Entry | None:
        """The run of this id; None where there is none."""
        return self._entries.get(run_id)

    def file(self, entry: Entry) -> Path | None:
        """The file that represents a run; None where it has none."""
        return Run(self.root / entry.id).path(entry.main) if entry.main is not None else None

    def parents(self, run_id: str) -> list[str]:
        """The existing runs whose files this one took."""
        entry = self._entries.get(run_id)
        return [parent for parent in entry.parents if parent in self._entries] if entry else []

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
    artifacts = tuple(status.artifacts)
    if artifacts and all(artifact.kind != kind for artifact in artifacts):
        kind = artifacts[0].kind
    head = f"{run.folder.parent}/"
    owners = [file.removeprefix(head).partition("/")[0] for file in inputs if file.startswith(head)]
    parents = tuple(dict.fromkeys(owner for owner in owners if RUN_ID.fullmatch(owner)))
    return Entry(run.id, run.stage, kind, status.state, title, status.submitted_at or 0.0, artifacts, parents)

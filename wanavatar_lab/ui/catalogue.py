"""All runs at a glance, for a gallery: what each asked for and made, and which run's files went into which.

A run that has ended does not change, so it is read once; a refresh reads the folder's listing and what still goes on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab import files as listing
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder
from wanavatar_lab.runs.status import Artifact


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        kind: what it makes: picture, video, talking, ...; "" where nobody knows.
        state: as the status, or "damaged".
        title: its prompt; where it has none, the name of its first input file; for a damaged run, what is wrong.
        parents: the runs whose files it took, in the order of their fields.
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
        """The file to show for it."""
        return next((artifact for artifact in self.artifacts if artifact.kind == self.kind), None)


class Catalogue:
    """The runs of a folder, which is the one of the settings if None."""

    def __init__(self, runs_dir: Path | str | None = None) -> None:
        self.root = runs_folder(runs_dir)
        self._entries: dict[str, Entry] = {}
        self._order: list[Entry] = []
        self._children: dict[str, list[str]] = {}

    def refresh(self) -> bool:
        """Look at the disk again; whether anything is different."""
        root = self.root
        names = [listed.name for listed in listing.entries(root) if RUN_ID.fullmatch(listed.name)]
        entries: dict[str, Entry] = {}
        for name in names:
            known = self._entries.get(name)
            entry = known if known is not None and known.ended else _read(Run(root / name))
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
            query: only those that have each of these words in their title, stage or id, in any case.
            family: only this run, its parents and its children.
        """
        words = query.casefold().split()
        relatives = {family, *self.parents(family), *self.children(family)} if family else None
        return [
            entry
            for entry in self._order
            if (not kind or entry.kind == kind)
            and (relatives is None or entry.id in relatives)
            and (not words or _holds(entry, words))
        ]

    def kinds(self) -> list[str]:
        """Every kind that there is, the known ones first."""
        known = list(dict.fromkeys(request.artifact for request in STAGE_REQUESTS.values()))
        present = {entry.kind for entry in self._order} - {""}
        return [kind for kind in known if kind in present] + sorted(present - set(known))

    def entry(self, run_id: str) -> Entry | None:
        """The run of this id; None where there is none."""
        return self._entries.get(run_id)

    def file(self, entry: Entry) -> Path | None:
        """The file to show for a run; None where it has none."""
        return Run(self.root / entry.id).path(entry.main) if entry.main is not None else None

    def parents(self, run_id: str) -> list[str]:
        """The runs that are still there whose files this one took."""
        entry = self._entries.get(run_id)
        return [parent for parent in entry.parents if parent in self._entries] if entry else []

    def children(self, run_id: str) -> list[str]:
        """The runs that took files of this one."""
        return self._children.get(run_id, [])


def _holds(entry: Entry, words: list[str]) -> bool:
    text = f"{entry.title}\n{entry.stage.replace('_', ' ')}\n{entry.id}".casefold()
    return all(word in text for word in words)


def _read(run: Run) -> Entry | None:
    """What a run's folder says; None if it is gone."""
    stage = STAGE_REQUESTS.get(run.stage)
    kind = stage.artifact if stage else ""
    try:
        status = run.status()
        # not as a request: its stage may be unknown here, and two thousand checks take seconds
        request = json.loads((run.folder / "request.json").read_bytes())
        values = [value for name, value in request.items() if isinstance(value, str) and name != "stage"]
    except (LabError, OSError, ValueError, AttributeError) as error:
        if not run.folder.exists():
            return None
        return Entry(run.id, run.stage, kind, "damaged", str(error), 0.0)
    files = [value for value in values if value.startswith("/")]
    title = str(request.get("prompt") or "") or (Path(files[0]).name if files else "")
    artifacts = tuple(status.artifacts)
    if artifacts and all(artifact.kind != kind for artifact in artifacts):
        kind = artifacts[0].kind
    parents = tuple(dict.fromkeys(_runs_of(files, run.folder.parent)))
    return Entry(run.id, run.stage, kind, status.state, title, status.submitted_at or 0.0, artifacts, parents)


def _runs_of(files: list[str], root: Path) -> Iterator[str]:
    """The runs in whose folders the files lie; submitting has made their paths absolute."""
    head = f"{root}/"
    for path in files:
        name = path.removeprefix(head).partition("/")[0]
        if path.startswith(head) and RUN_ID.fullmatch(name):
            yield name

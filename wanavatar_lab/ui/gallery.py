"""All runs and LoRAs, newest first: view one, search, use it, run it again, copy it as text, compare two, delete.

gallery = Gallery()
gallery.on("use", lambda path, kind: panel.form.take(path))
gallery.on("again", lambda request: jobs.submit(request))
gallery.on("change", lambda request: panel.form.fill(request))
gallery.on("lora", lambda name, stage, profile: panels[stage].form.use_lora(name, profile))
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from wanavatar_lab import files
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import STAGE_REQUESTS, fields_of
from wanavatar_lab.requests.request import prompt_of
from wanavatar_lab.runs import trash
from wanavatar_lab.runs.inputs import changed_since
from wanavatar_lab.runs.marks import Marks, as_tags, marks_version, read_marks, write_marks
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder
from wanavatar_lab.ui.copy_request import as_command, as_papermill, as_python
from wanavatar_lab.ui.form import labelled
from wanavatar_lab.ui.language import language, matches, read_words, shorten, stage_name
from wanavatar_lab.ui.listing import Listing
from wanavatar_lab.ui.lora_cards import LoraEntry, LoraFolder
from wanavatar_lab.ui.record import Record, joined, record_of_file
from wanavatar_lab.ui.served_files import kind_of, served_path
from wanavatar_lab.ui.thumbnails import answer
from wanavatar_lab.ui.widget import script, start, styles

LORA = "lora"  # the kind of LoRAs, and the prefix of their ids, which distinguishes them from runs
COMPARED = ("picture", "video")  # kinds of files of which two can be compared
MOST_DIFFERENCES = 4  # values in the label of a run; more would not fit below a clip
MOST_KEPT, KEPT_SIDE = 12, 320  # entries that a notebook keeps, and the longest side of their pictures in pixels
LONGEST_TITLE = 60  # characters of it where two are compared
# a card of the gallery that is no run: weights are not deleted, run again or compared from it
NO_RUN: dict[str, Any] = {
    **dict.fromkeys(("ended", "known", "seeded", "favourite"), False),
    **dict.fromkeys(("parents", "children"), 0),
    **dict.fromkeys(("compares", "source", "file"), ""),
    "tags": [],
}
NO_MARKS = Marks()
COPIES = {"python": as_python, "command": as_command, "papermill": as_papermill}


_log = logging.getLogger(__name__)


class Gallery(Listing):
    """The runs of the runs folder, and the LoRAs of the weights folder.

    Args:
        runs_dir: the runs folder; None for that of the settings.
        unfinished: whether runs are listed that are queued or running; not where `QueueView` shows them already.

    Attributes:
        kind, query, family, favourites, tag: what is shown, as `Catalogue.find` has them; the kind of LoRAs is `LORA`.
        tags: all that runs have, sorted.
        undo: the run that was deleted last, while it can be restored; of several at once, their ids, by spaces.
        compared: the runs chosen for comparison, at most two: id, title and kind of file of each.
        comparison: the widget that shows both; None while there are not two.
    """

    _esm = script("listing", "comparing", "thumbnails", "dragging", "marking", "gallery")
    _css = styles("listing", "gallery")
    WORDS = read_words(__file__, "listing", "states", "gallery")

    family = traitlets.Unicode("").tag(sync=True)
    favourites = traitlets.Bool(False).tag(sync=True)
    tag = traitlets.Unicode("").tag(sync=True)
    tags = traitlets.List(traitlets.Unicode()).tag(sync=True)
    undo = traitlets.Unicode("").tag(sync=True)
    actions = traitlets.List(traitlets.Unicode()).tag(sync=True)
    compared: traitlets.List[Any] = traitlets.List().tag(sync=True)
    comparison = anywidget.WidgetTrait().tag(sync=True)

    def __init__(self, runs_dir: Path | str | None = None, *, unfinished: bool = True) -> None:
        self._catalogue, self._loras, self._unfinished = Catalogue(runs_dir), LoraFolder(), unfinished
        self._listeners: dict[str, list[Callable[..., Any]]] = {"use": [], "again": [], "change": [], LORA: []}
        super().__init__()
        self.observe(lambda _: self._show(), ["family", "favourites", "tag"])

    def on(self, action: str, listener: Callable[..., Any]) -> None:
        """Call `listener` when a person presses the button of an action; without a listener, it has no button.

        Args:
            action: `use`, with a file and its kind; `again`, with the request of a run and its seed, which makes the
                same again, or with seed -1 where another one is asked for; `change`, with the request of a run and its
                seed, to be changed first; `lora`, with a LoRA's name, a stage and a profile.
            listener: what is called.
        """
        self._listeners[action].append(listener)
        self.actions = [name for name, listeners in self._listeners.items() if listeners]
        self._show()

    def files(self) -> list[Path]:
        """The main files of the runs that are found, newest first."""
        return [entry.file for entry in self._found() if entry.file is not None]

    def delete(self, run_id: str) -> None:
        """Delete a run; `restore` undoes it.

        Raises:
            RunError: it has not ended, or is gone.
        """
        trash.discard(self._run(run_id))
        self.undo = run_id
        self.refresh()

    def restore(self) -> None:
        """Undo the last deletion.

        Raises:
            RunError: it cannot be undone any more.
        """
        run_ids, self.undo = self.undo.split() or [""], ""
        for run_id in run_ids:
            trash.restore(run_id, runs_dir=self._catalogue.root)
        self.refresh()

    def mark(self, run_id: str, *, favourite: bool | None = None, tags: Sequence[str] | None = None) -> None:
        """Note that a run is a favourite or none, or replace its tags; None leaves either as it is.

        Raises:
            RunError: the run is gone, or a tag is not allowed.
        """
        run = self._run(run_id)
        marks = read_marks(run)
        changed = {} if favourite is None else {"favourite": favourite}
        write_marks(run, marks.model_copy(update=changed if tags is None else {**changed, "tags": as_tags(tags)}))
        self.refresh()

    def compare(self, first: str, second: str) -> None:
        """Show the results of two runs beside each other.

        Raises:
            RunError: one of them is gone, or has no result.
            LabError: the results are not of one kind, or the page cannot show them.
        """
        from wanavatar_lab.ui.player import side_by_side  # reading media is slow to import

        labels = pair_labels(self._run(first), self._run(second))
        self._show_comparison([first, second], side_by_side(self._result(first), self._result(second), labels))

    def stop_comparing(self) -> None:
        """End the comparison, or the choice of runs for one."""
        self._show_comparison([], None)

    def record(self) -> Record:
        """The newest entries found, with their pictures."""
        cells = [self._kept(entry) for entry in self.entries[:MOST_KEPT]]
        said = Record(f"<p>{len(cells)} / {self.total}</p>", f"{len(cells)} / {self.total}")
        return joined([joined(cells, across=True), said])

    def _kept(self, entry: Mapping[str, Any]) -> Record:
        title = f"{entry['stage']} · {shorten(entry['title'], LONGEST_TITLE)}"
        if not entry["picture"]:
            return Record(f"<p>{escape(title)}</p>", title)
        file = self.file_of(entry["id"])
        return Record("", "") if file is None else record_of_file(file, title, side=KEPT_SIDE, largest=0)

    def file_of(self, entry_id: str) -> Path | None:
        """The file whose picture a card shows; None where there is none."""
        if entry_id in self._catalogue.entries:
            return self._catalogue.entries[entry_id].file
        previews = (each.found.preview for each in self._loras.all if f"{LORA}:{each.id}" == entry_id)
        return next((Path(preview) for preview in previews if preview), None)

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Do what a button asks for, or send what the page cannot get from its server."""
        if content.get("kind") in ("thumbnail", "clip"):
            start(answer(self, content, self.file_of(str(content.get("id")))))
        else:
            super().receive(content, buffers)

    def close(self) -> None:
        """Close the widget, and its comparison."""
        if self.comm is not None:  # __del__ calls this too, also for one whose __init__ raised
            self.stop_comparing()
        super().close()

    def show_words(self) -> None:
        """Put every text into the language shown, also the labels of a comparison."""
        super().show_words()
        self._drop_deleted()
        if self.comparison is not None:
            first, second = map(self._run, self._compared())
            self.comparison.labels = list(pair_labels(first, second))

    def _look(self) -> bool:
        runs, loras = self._catalogue.refresh(), self._loras.refresh()
        self._drop_deleted()
        self.kinds = list(dict.fromkeys([*self._catalogue.kinds(), *([LORA] if self._loras.all else [])]))
        self.tags = self._catalogue.tags()
        return runs or loras

    def _found(self) -> "list[Entry]":
        return self._catalogue.find(
            kind=self.kind, query=self.query, family=self.family, favourites=self.favourites, tag=self.tag
        )

    def _find(self) -> Sequence["Entry | LoraEntry"]:
        narrowed = self.family or self.favourites or self.tag
        found: list[Entry | LoraEntry] = [
            *(entry for entry in self._found() if entry.ended or self._unfinished),
            *(self._loras.find(query=self.query) if self.kind in ("", LORA) and not narrowed else ()),
        ]
        return sorted(found, key=lambda entry: (entry.time, entry.id), reverse=True)

    def _card(self, found: "Entry | LoraEntry") -> dict[str, Any]:
        return self._run_card(found) if isinstance(found, Entry) else self._lora_card(found)

    def _run_card(self, entry: "Entry") -> dict[str, Any]:
        picture = _picture(entry.file)
        compares = picture["kind"] if picture is not None and picture["kind"] in COMPARED else ""
        known = entry.stage in STAGE_REQUESTS and entry.state != "damaged"
        return {
            "id": entry.id,
            "stage": stage_name(entry.stage),
            "state": entry.state,
            "title": entry.title,
            "time": entry.time,
            "picture": picture,
            "file": "" if entry.file is None else entry.file.relative_to(self._catalogue.root / entry.id).as_posix(),
            "usable": entry.file is not None,
            "ended": entry.ended,
            "favourite": entry.marks.favourite,
            "tags": list(entry.marks.tags),
            "known": known,
            "seeded": known and "seed" in fields_of(STAGE_REQUESTS[entry.stage]),
            "parents": len(self._catalogue.parents(entry.id)),
            "children": len(self._catalogue.children(entry.id)),
            "compares": compares,
            "source": self._source(entry, compares) if compares else "",
        }

    def _lora_card(self, lora: LoraEntry) -> dict[str, Any]:
        found = lora.found
        return NO_RUN | {
            "id": f"{LORA}:{lora.id}",
            "stage": language.of(self.WORDS["one_lora"]),
            "state": "damaged" if found.problem else "succeeded",
            "title": found.problem or " · ".join([found.name, found.base, *found.trigger_words]),
            "time": lora.time,
            "picture": _picture(Path(found.preview) if found.preview else None),
            "usable": bool(found.fits and self._listeners[LORA]),
        }

    def _source(self, entry: "Entry", kind: str) -> str:
        """The run whose file of the same kind this one took; "" where there is none."""
        for parent in self._catalogue.parents(entry.id):
            picture = _picture(self._catalogue.entries[parent].file)
            if picture is not None and picture["kind"] == kind:
                return parent
        return ""

    def _act(self, content: Mapping[str, Any]) -> None:
        run_id = str(content.get("run", ""))
        match content.get("kind"):
            case "each":
                self._act_on_each(list(map(str, content.get("runs", ()))), content)
            case "delete":
                self.delete(run_id)
            case "star":
                self.mark(run_id, favourite=bool(content.get("on")))
            case "tag":
                self.mark(run_id, tags=_split(content.get("tags", "")))
            case "undo":
                self.restore()
            case "copy":
                run, how = self._run(run_id), str(content.get("how"))
                text = files.printable(COPIES[how](run.request(), run.status().seed))
                self.send({"kind": "copy", "run": run_id, "how": how, "text": text})
            case "use" if run_id.startswith(f"{LORA}:"):
                found = next(each.found for each in self._loras.all if f"{LORA}:{each.id}" == run_id)
                self._tell(LORA, found.name, *found.fits[0].split("/"))
            case "use":
                self._tell("use", self._result(run_id), self._entry(run_id).kind)
            case "again" | "new_seed" | "change" as action:
                run = self._run(run_id)
                request = run.repeatable_request()
                if action == "new_seed":
                    request = request.changed(seed=-1)
                self._tell("change" if action == "change" else "again", request)
                if (run.folder / "manifest.json").exists() and (changed := changed_since(request, run.manifest())):
                    self.notice = self.WORDS.text("changed", files=files.printable(", ".join(changed)))
            case "compare" if "with" in content:
                self.compare(str(content["with"]), run_id)
            case "compare" if run_id in self._compared():
                self.stop_comparing()
            case "compare" if self.compared:  # the first stays, and this is the second
                self.compare(self._compared()[0], run_id)
            case "compare":
                self.compared = [self._facts(run_id)]
            case "stop":
                self.stop_comparing()

    def _act_on_each(self, run_ids: Sequence[str], content: Mapping[str, Any]) -> None:
        """Do something with several runs; what fails with one of them is said when it is done with the others."""
        done, problems = list[str](), list[str]()
        for run_id in run_ids:
            try:
                match content.get("act"):
                    case "delete":
                        self.delete(run_id)
                    case "star":
                        self.mark(run_id, favourite=bool(content.get("on")))
                    case "tag":  # which they get besides their own
                        tags = read_marks(self._run(run_id)).tags
                        self.mark(run_id, tags=[*tags, *_split(content.get("tags", ""))])
                done.append(run_id)
            except (LabError, OSError) as error:
                problems.append(str(error))
        if content.get("act") == "delete":
            self.undo = " ".join(done)
        if problems:
            raise RunError("; ".join(dict.fromkeys(problems)))

    def _drop_deleted(self) -> None:
        if any(not (self._catalogue.root / run_id).is_dir() for run_id in self._compared()):
            self.stop_comparing()

    def _show_comparison(self, run_ids: Sequence[str], shown: anywidget.AnyWidget | None) -> None:
        before, self.comparison = self.comparison, shown
        self.compared = [self._facts(run_id) for run_id in run_ids]
        if before is not None:
            before.close()

    def _compared(self) -> list[str]:
        return [facts["id"] for facts in self.compared]

    def _facts(self, run_id: str) -> dict[str, str]:
        card = self._run_card(self._entry(run_id))
        return {"id": run_id, "title": shorten(card["title"], LONGEST_TITLE), "kind": card["compares"]}

    def _entry(self, run_id: str) -> "Entry":
        self._run(run_id)  # raises for an id without a run
        if run_id not in self._catalogue.entries:
            raise RunError(f"The run {run_id} is not in the gallery yet. Try again in a moment.")
        return self._catalogue.entries[run_id]

    def _result(self, run_id: str) -> Path:
        file = self._entry(run_id).file
        if file is None:
            raise RunError(f"The run {run_id} has no result.")
        return file

    def _run(self, run_id: str) -> Run:
        return Run.open(run_id, runs_dir=self._catalogue.root)

    def _tell(self, action: str, *values: Any) -> None:
        for listener in self._listeners[action]:
            listener(*values)


def _split(tags: Any) -> list[str]:
    """Tags as they are typed, with commas of any script between them."""
    return str(tags).replace("，", ",").replace("、", ",").split(",")


def _picture(path: Path | None) -> dict[str, str] | None:
    """A file as the page shows it, with its path where the server serves it; None where nothing can be shown."""
    kind = kind_of(path) if path is not None else ""
    return {"path": served_path(path), "kind": kind} if path is not None and kind else None


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
        marks: what a person has noted of it.
        marked: when that was written.
    """

    id: str
    stage: str
    kind: str
    state: str
    title: str
    time: float
    file: Path | None = None
    parents: tuple[str, ...] = ()
    marks: Marks = NO_MARKS
    marked: int = 0

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

    def refresh(self) -> bool:
        """Read the disk again; whether anything changed."""
        found: list[Entry] = []
        for name in [listed.name for listed in files.entries(self.root) if RUN_ID.fullmatch(listed.name)]:
            known = self.entries.get(name)
            entry = known if known is not None and known.ended else _read(Run(self.root / name))
            if entry is not None:
                found.append(_marked(entry, self.root / name))
        found.sort(key=lambda entry: (entry.time, entry.id), reverse=True)
        if found == list(self.entries.values()):
            return False
        self.entries = {entry.id: entry for entry in found}
        return True

    def find(
        self, *, kind: str = "", query: str = "", family: str = "", favourites: bool = False, tag: str = ""
    ) -> list[Entry]:
        """Runs, newest first.

        Args:
            kind: only those that make this.
            query: only those with each of these words in their title, stage, id or tags, in any case.
            family: only this run, its parents and its children.
            favourites: only these.
            tag: only those that have it.
        """
        relatives = {family, *self.parents(family), *self.children(family)} if family else None
        return [
            entry
            for entry in self.entries.values()
            if (not kind or entry.kind == kind)
            and (relatives is None or entry.id in relatives)
            and (not favourites or entry.marks.favourite)
            and (not tag or tag in entry.marks.tags)
            and (not query or matches(query, entry.title, entry.stage.replace("_", " "), entry.id, *entry.marks.tags))
        ]

    def kinds(self) -> list[str]:
        """Every kind that exists, those of the shipped stages first."""
        known = list(dict.fromkeys(request.artifact for request in STAGE_REQUESTS.values()))
        present = {entry.kind for entry in self.entries.values()} - {""}
        return [kind for kind in known if kind in present] + sorted(present - set(known))

    def tags(self) -> list[str]:
        """Every tag that some run has, sorted."""
        return sorted({tag for entry in self.entries.values() for tag in entry.marks.tags}, key=str.casefold)

    def parents(self, run_id: str) -> list[str]:
        """The existing runs whose files this one took."""
        entry = self.entries.get(run_id)
        return [parent for parent in entry.parents if parent in self.entries] if entry else []

    def children(self, run_id: str) -> list[str]:
        """The runs that took files of this one, oldest first."""
        return [entry.id for entry in reversed(self.entries.values()) if run_id in entry.parents]


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
    title = prompt_of(request) or (Path(inputs[0]).name if inputs else "")
    if status.artifacts and all(artifact.kind != kind for artifact in status.artifacts):
        kind = status.artifacts[0].kind
    title = files.printable(title)
    made = [artifact for artifact in status.artifacts if artifact.kind == kind]
    made.sort(key=lambda artifact: artifact.role != "upscaled")  # of a picture in two sizes, the larger
    file = run.path(made[0]) if made else None
    head = f"{run.folder.parent}/"
    owners = [path.removeprefix(head).partition("/")[0] for path in inputs if path.startswith(head)]
    parents = tuple(dict.fromkeys(owner for owner in owners if RUN_ID.fullmatch(owner)))
    return Entry(run.id, run.stage, kind, status.state, title, status.submitted_at or 0.0, file, parents)


def _marked(entry: Entry, folder: Path) -> Entry:
    """A run with its marks as they are now."""
    if (version := marks_version(folder)) == entry.marked:
        return entry
    try:
        marks = read_marks(Run(folder))
    except RunError as error:
        _log.warning("Shown without its marks: %s", error)
        marks = NO_MARKS
    return replace(entry, marks=marks, marked=version)


def pair_labels(first: Run, second: Run) -> tuple[str, str]:
    """Labels that distinguish two runs: their stages, or the values that differ, or when they were submitted.

    Raises:
        RunError: the folder of one is gone or damaged.
    """
    stages = stage_name(first.stage), stage_name(second.stage)
    if first.stage != second.stage or first.stage not in STAGE_REQUESTS:
        return stages
    kind = STAGE_REQUESTS[first.stage]
    requests, statuses = [run.read_json("request.json") for run in (first, second)], [first.status(), second.status()]
    for request, status in zip(requests, statuses, strict=True):
        if status.seed is not None and "seed" in request:
            request["seed"] = status.seed  # the one that was drawn
    names = [name for name in fields_of(kind) if requests[0].get(name) != requests[1].get(name)][:MOST_DIFFERENCES]
    one, other = (labelled(kind, {name: request.get(name) for name in names}) for request in requests)
    if one != other:
        return one, other
    times = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.submitted_at)) for status in statuses]
    return f"{stages[0]}, {times[0]}", f"{stages[1]}, {times[1]}"

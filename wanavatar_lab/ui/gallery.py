"""All runs and LoRAs, newest first: look at one, find one again, use it, run it again, copy it as text, delete it.

    gallery = Gallery()
    gallery.on_use(lambda path, kind: panel.form.take(path))
    gallery.on_again(lambda request: jobs.submit(request))
    gallery.on_change(lambda request: panel.form.fill(request))
    gallery.on_lora(lambda name, stage, profile: take_up(panels[stage].form, name, profile))

Two that are chosen are shown beside each other, clips in sync.

What the page gets of a run and of a LoRA in the gallery, and the words on their cards.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import STAGE_REQUESTS, Request, Words
from wanavatar_lab.runs import trash
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui import compare, listing
from wanavatar_lab.ui.catalogue import Catalogue, Entry
from wanavatar_lab.ui.compare import COMPARED
from wanavatar_lab.ui.copy_request import as_command, as_papermill, as_python
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.lora_list import LoraShelf, Shelved
from wanavatar_lab.ui.uploads import KINDS
from wanavatar_lab.ui.widget import can_show, script, server_path, styles

LORA = "lora"  # what their kind is, and how their ids begin: they lie with the weights and are no runs

CARD_WORDS = read_words(__file__, "gallery_cards")


def run_card(entry: Entry, catalogue: Catalogue) -> dict[str, Any]:
    """A run of a catalogue."""
    stage = STAGE_REQUESTS.get(entry.stage)
    picture = _picture(catalogue.file(entry))
    compares = picture["kind"] if picture is not None and picture["kind"] in COMPARED else ""
    return {
        "id": entry.id,
        "stage": language.of(stage.labels) if stage else entry.stage,
        "state": entry.state,
        "title": entry.title,
        "time": entry.submitted_at,
        "picture": picture,
        "usable": entry.main is not None,
        "ended": entry.ended,
        "known": stage is not None and entry.state != "damaged",
        "parents": len(catalogue.parents(entry.id)),
        "children": len(catalogue.children(entry.id)),
        "compares": compares,
        "source": _source(entry, compares, catalogue) if compares else "",
    }


def lora_card(shelved: Shelved, *, usable: bool) -> dict[str, Any]:
    """A LoRA; `usable` where someone takes it up."""
    found = shelved.found
    facts = [found.name, found.base, *found.trigger_words]
    return {
        "id": f"{LORA}:{shelved.id}",
        "stage": language.of(CARD_WORDS["one_lora"]),
        "state": "damaged" if found.problem else "succeeded",
        "title": found.problem or " · ".join(facts),
        "time": shelved.modified,
        "picture": _picture(Path(found.preview) if found.preview else None),
        "usable": bool(found.fits and usable),
        "ended": False,  # what lies with the weights is not deleted here
        "known": False,
        "parents": 0,
        "children": 0,
        "compares": "",
        "source": "",
    }


def _picture(path: Path | None) -> dict[str, str] | None:
    """A file as the page shows it; None where it cannot."""
    kind = KINDS.get(path.suffix.lower()) if path is not None else None
    return {"path": server_path(path), "kind": kind} if path is not None and kind and can_show(path) else None


def _source(entry: Entry, kind: str, catalogue: Catalogue) -> str:
    """The run whose file of the same kind this one took; "" where there is none."""
    for parent in map(catalogue.entry, catalogue.parents(entry.id)):
        made = _picture(catalogue.file(parent)) if parent is not None else None
        if parent is not None and made is not None and made["kind"] == kind:
            return parent.id
    return ""


LONGEST_TITLE = 60  # characters of it where two are compared
_COPIES: dict[str, Callable[[Request, int | None], str]] = {
    "python": as_python,
    "command": as_command,
    "papermill": as_papermill,
}

WORDS = read_words(__file__, "gallery")


class Gallery(listing.Listing):
    """The runs of the runs folder, and the LoRAs of the weights folder.

    Attributes:
        kind, query, family: what is shown, as `Catalogue.find` has them; the kind of LoRAs is `LORA`.
        undo: the run that was deleted last, while it can be brought back.
        compared: the run that is chosen to be compared, or both that are: id, title and kind of file of each.
        comparison: what shows both; None while there are not two.
    """

    NARROWED_BY = ("family",)
    _esm = script("listing", "comparing", "gallery")
    _css = styles("listing", "gallery")
    WORDS: ClassVar[dict[str, Words]] = listing.WORDS | CARD_WORDS | compare.COMPARING_WORDS | WORDS

    family = traitlets.Unicode("").tag(sync=True)
    undo = traitlets.Unicode("").tag(sync=True)
    actions = traitlets.List(traitlets.Unicode()).tag(sync=True)
    compared: traitlets.List[Any] = traitlets.List().tag(sync=True)
    comparison = anywidget.WidgetTrait().tag(sync=True)

    def __init__(self, runs_dir: Path | str | None = None) -> None:
        self._catalogue, self._shelf = Catalogue(runs_dir), LoraShelf()
        self._listeners: dict[str, list[Callable[..., Any]]] = {"use": [], "again": [], "change": [], LORA: []}
        super().__init__()

    def on_use(self, listener: Callable[[Path, str], Any]) -> None:
        """Call `listener` with a file and its kind when someone wants it as an input."""
        self._listen("use", listener)

    def on_again(self, listener: Callable[[Request], Any]) -> None:
        """Call `listener` with the request of a run that is to be run again as it is."""
        self._listen("again", listener)

    def on_change(self, listener: Callable[[Request], Any]) -> None:
        """Call `listener` with the request of a run that is to be changed first."""
        self._listen("change", listener)

    def on_lora(self, listener: Callable[[str, str, str], Any]) -> None:
        """Call `listener` with a LoRA's name, and a stage and a profile that it fits, when someone wants to use it."""
        self._listen(LORA, listener)
        self._show()

    def files(self) -> list[Path]:
        """What the runs that are found made, the file each is for, newest first."""
        found = self._catalogue.find(kind=self.kind, query=self.query, family=self.family)
        return [file for file in map(self._catalogue.file, found) if file is not None]

    def delete(self, run_id: str) -> None:
        """Delete a run; `bring_back` undoes it.

        Raises:
            RunError: it has not ended, or is gone.
        """
        trash.discard(self._run(run_id))
        self.undo = run_id
        self.refresh()

    def bring_back(self) -> None:
        """Undo the last deletion.

        Raises:
            RunError: it cannot be undone any more.
        """
        run_id, self.undo = self.undo, ""
        trash.restore(run_id, runs_dir=self._catalogue.root)
        self.refresh()

    def compare(self, first: str, second: str) -> None:
        """Show what two runs made beside each other.

        Raises:
            RunError: one of them is gone, or made nothing.
            LabError: what they made is not of one kind, or the page cannot show it.
        """
        names = compare.told_apart(self._run(first), self._run(second))
        shown = compare.side_by_side(self._made(first), self._made(second), names)
        before, self.comparison = self.comparison, shown
        self.compared = [self._facts(run_id) for run_id in (first, second)]
        if before is not None:
            before.close()

    def part(self) -> None:
        """End the comparison, or the choice of what is to be compared."""
        before, self.comparison = self.comparison, None
        self.compared = []
        if before is not None:
            before.close()

    def close(self) -> None:
        """End the widget, and what it compares."""
        if self.__dict__.get("_ended") is False:  # __del__ calls this too, also for one whose __init__ raised
            self.part()
        super().close()

    def show_words(self) -> None:
        """Put every text into the language that is shown, also what tells apart those that are compared."""
        super().show_words()
        self._part_from_the_gone()
        if self.comparison is not None:
            first, second = self._compared()
            self.comparison.labels = list(compare.told_apart(self._run(first), self._run(second)))

    def _look(self) -> bool:
        runs, loras = self._catalogue.refresh(), self._shelf.refresh()
        self._part_from_the_gone()
        return runs or loras

    def _find(self) -> Sequence[Entry | Shelved]:
        found: list[Entry | Shelved] = [
            *self._catalogue.find(kind=self.kind, query=self.query, family=self.family),
            *(self._shelf.find(query=self.query) if self.kind in ("", LORA) and not self.family else ()),
        ]
        return sorted(found, key=_when, reverse=True)

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys([*self._catalogue.kinds(), *([LORA] if self._shelf.all else [])]))

    def _card(self, found: Entry | Shelved) -> dict[str, Any]:
        if isinstance(found, Entry):
            return run_card(found, self._catalogue)
        return lora_card(found, usable=bool(self._listeners[LORA]))

    def _act(self, content: Mapping[str, Any]) -> None:
        run_id = str(content.get("run", ""))
        match content.get("kind"):
            case "delete":
                self.delete(run_id)
            case "undo":
                self.bring_back()
            case "copy":
                self._copy(run_id, str(content.get("how")))
            case "use" if run_id.startswith(f"{LORA}:"):
                found = next(each.found for each in self._shelf.all if f"{LORA}:{each.id}" == run_id)
                self._tell(LORA, found.name, *found.fits[0].split("/"))
            case "use":
                entry = self._entry(run_id)
                if entry.main is not None:
                    self._tell("use", self._made(run_id), entry.main.kind)
            case "again" | "change" as action:
                self._tell(action, self._run(run_id).request())
            case "compare" if "with" in content:
                self.compare(str(content["with"]), run_id)
            case "compare":
                self._choose(run_id)
            case "part":
                self.part()

    def _choose(self, run_id: str) -> None:
        """Take a run as the first or the second to be compared; one that is compared already ends that."""
        compared = self._compared()
        if run_id in compared:
            self.part()
        elif compared:
            self.compare(compared[0], run_id)
        else:
            self.compared = [self._facts(run_id)]

    def _part_from_the_gone(self) -> None:
        if any(not (self._catalogue.root / run_id).is_dir() for run_id in self._compared()):
            self.part()

    def _compared(self) -> list[str]:
        return [facts["id"] for facts in self.compared]

    def _facts(self, run_id: str) -> dict[str, str]:
        entry = self._entry(run_id)
        title = entry.title if len(entry.title) <= LONGEST_TITLE else entry.title[: LONGEST_TITLE - 1] + "…"
        return {"id": run_id, "title": title, "kind": run_card(entry, self._catalogue)["compares"]}

    def _entry(self, run_id: str) -> Entry:
        self._run(run_id)  # says what is wrong with an id of which there is no run
        entry = self._catalogue.entry(run_id)
        if entry is None:
            raise RunError(f"The run {run_id} is not in the gallery yet. Try again in a moment.")
        return entry

    def _made(self, run_id: str) -> Path:
        file = self._catalogue.file(self._entry(run_id))
        if file is None:
            raise RunError(f"The run {run_id} made nothing.")
        return file

    def _run(self, run_id: str) -> Run:
        return Run.open(run_id, runs_dir=self._catalogue.root)

    def _listen(self, action: str, listener: Callable[..., Any]) -> None:
        self._listeners[action].append(listener)
        self.actions = [name for name, those in self._listeners.items() if those]

    def _tell(self, action: str, *values: Any) -> None:
        for listener in self._listeners[action]:
            listener(*values)

    def _copy(self, run_id: str, how: str) -> None:
        run = self._run(run_id)
        text = _COPIES[how](run.request(), run.status().seed)
        if not text:
            raise LabError(f"The stage {run.stage} has no notebook, so papermill cannot run it.")
        self.send({"kind": "copy", "run": run_id, "how": how, "text": text})


def _when(each: Entry | Shelved) -> tuple[float, str]:
    return (each.submitted_at, each.id) if isinstance(each, Entry) else (each.modified, each.id)

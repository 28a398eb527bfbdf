"""Earlier results as a strip of thumbnails with seed and settings: those of a stage, or files to choose from.

history = History("text_to_image")     # reads the runs folder
history.on("choose", lambda run: ...)
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab import files
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import STAGE_REQUESTS, fields_of, plain_defaults
from wanavatar_lab.requests.request import prompt_of
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.ui.form import labelled
from wanavatar_lab.ui.language import read_words, shorten
from wanavatar_lab.ui.messages import noticed
from wanavatar_lab.ui.served_files import kind_of, served_path
from wanavatar_lab.ui.thumbnails import answer
from wanavatar_lab.ui.widget import LabWidget, repeat, script, start, styles

MOST_RUNS = 24  # in the strip of a stage; the gallery has them all
LOOK_SECONDS = 3.0
LONGEST_TITLE = 200  # characters of a prompt, which shows one line
# fields that are not named among the settings: shown by themselves, or the same in most runs of a panel
SHOWN_APART = ("prompt", "text", "seed", "profile")


@dataclass(frozen=True)
class Thumbnail:
    """One result in a strip.

    Attributes:
        id: what `chosen` is while it is chosen.
        run, file: whose it is, and the file in the run's folder that is used elsewhere: of a picture in two sizes, the
            larger; "" where there is none.
        link: of that file, for the page; "" where the server does not serve it.
        path: of its file, for the page; "" where the server does not serve it.
        kind: of that file: picture, video or audio; "" where there is none.
        title: its prompt, or the name of what it was made from.
        state: of its run.
        seed: that made it; None where the stage has none.
        settings: its values that are not the defaults, in words.
        time: when it was submitted, in seconds since 1970.
    """

    id: str
    run: str = ""
    file: str = ""
    link: str = ""
    path: str = ""
    kind: str = ""
    title: str = ""
    state: str = "succeeded"
    seed: int | None = None
    settings: str = ""
    time: float = 0.0


class Strip(LabWidget):
    """Thumbnails, of which a person chooses one.

    Attributes:
        label: the key of the text that names the list: what it holds.
        items: the thumbnails, as the page needs them.
        chosen: the id of the one that is chosen; "" for none.
        actions: names of the buttons that the chosen one has.
        uses: the stages whose forms take it, with their names, by kind of file.
        notice: the last error.
    """

    _esm = script("menu", "thumbnails", "dragging", "history")
    _css = styles("menu", "history")
    WORDS = read_words(__file__, "states", "history")

    label = traitlets.Unicode("earlier").tag(sync=True)
    items: traitlets.List[Any] = traitlets.List().tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)
    actions = traitlets.List(traitlets.Unicode()).tag(sync=True)
    uses = traitlets.Dict().tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)

    def show(self, thumbnails: Sequence[Thumbnail]) -> None:
        """Replace the thumbnails."""
        self.items = [asdict(each) for each in thumbnails]

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Send a thumbnail that the page cannot get from its server."""
        if content.get("kind") == "thumbnail":
            item = next((item for item in self.items if item["id"] == content.get("id")), None)
            start(answer(self, content, runs_folder() / item["run"] / item["file"] if item else None))


class History(Strip):
    """The runs of a stage that have ended, newest first.

    Args:
        stage: whose runs.
    """

    def __init__(self, stage: str) -> None:
        self._stage, self._known = stage, dict[str, Thumbnail]()
        self._listeners: dict[str, Callable[..., object]] = {}
        super().__init__()  # which reads the folder, since the names of settings are words
        repeat(self.look, LOOK_SECONDS, self)

    def on(self, action: str, listener: Callable[..., object]) -> None:
        """Call `listener` with a run when a person chooses it (`choose`) or presses another of its buttons.

        With `use`, which is there where `uses` names stages, it also gets a file and the stage that takes it.
        """
        self._listeners[action] = listener
        self.actions = [name for name in self._listeners if name not in ("choose", "use")]

    def look(self) -> None:
        """Read the runs folder again."""
        root = runs_folder()
        names = [path.name for path in files.entries(root) if RUN_ID.fullmatch(path.name)]
        known: dict[str, Thumbnail] = {}
        # an id begins with the time, so that the newest ones are found without reading any
        for run in (Run(root / name) for name in sorted(names, reverse=True)):
            if run.stage == self._stage and (item := self._known.get(run.id) or _ended(run)) is not None:
                known[run.id] = item
                if len(known) == MOST_RUNS:
                    break
        self._known = known
        self.show([*known.values()])

    def show_words(self) -> None:
        """Put every text into the language shown, also the names of settings."""
        super().show_words()
        self._known.clear()
        self.look()

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Do what a person asks for with a run."""
        if content.get("kind") == "thumbnail":
            super().receive(content, buffers)
            return
        with noticed(self):
            run = Run.open(str(content.get("run", "")))
            match str(content.get("kind")):
                case "use" if run.id in self._known:
                    file = run.folder / self._known[run.id].file
                    self._listeners["use"](run, file, str(content.get("stage")))
                case action if action in self._listeners:
                    self._listeners[action](run)


def _ended(run: Run) -> Thumbnail | None:
    """A run that has ended; None while it has not, or if it is gone or damaged."""
    with suppress(RunError):
        status = run.status()
        return thumbnail(run, status) if status.ended else None
    return None


def thumbnail(run: Run, status: Status, file: Path | None = None) -> Thumbnail:
    """A run that has ended.

    Args:
        file: of its artifacts; None for the main one.

    Raises:
        RunError: its request is damaged.
    """
    values, kind = run.read_json("request.json"), STAGE_REQUESTS.get(run.stage)
    views = fields_of(kind) if kind else {}
    larger = file
    if file is None:
        with suppress(LabError):  # it made none
            main = main_artifact(status.artifacts, kind.artifact if kind else "")
            large = (each for each in status.artifacts if (each.kind, each.role) == (main.kind, "upscaled"))
            file, larger = run.path(main), run.path(next(large, main))
    given = [Path(str(values[name])).name for name, view in views.items() if view.is_file and values.get(name)]
    settings = ""
    if (
        kind is not None
        and (profile := str(values.get("profile", "full")))
        and not set(values) - set(views) - {"stage"}
    ):
        with suppress(LabError):  # of a profile of another release
            defaults = plain_defaults(run.stage, profile)
            apart = {name for name, view in views.items() if view.is_file or name in SHOWN_APART}
            changed = {name: values[name] for name in views if name not in apart and name in values}
            changed = {name: value for name, value in changed.items() if _plain(value, views[name]) != defaults[name]}
            settings = labelled(kind, changed)
    kind_of_file = kind_of(file) if file is not None else ""
    return Thumbnail(
        id=run.id,
        run=run.id,
        file=larger.relative_to(run.folder).as_posix() if larger is not None else "",
        link=served_path(larger),
        path=served_path(file) if kind_of_file else "",
        kind=kind_of_file,
        title=shorten(prompt_of(values) or ", ".join(given), LONGEST_TITLE),
        state=status.state,
        seed=status.seed if "seed" in views else None,
        settings=settings,
        time=status.submitted_at or 0.0,
    )


def _plain(value: Any, view: Any) -> Any:
    """A value of request.json in the terms of `plain_defaults`."""
    return value if value is not None else "" if view.kind == "str" else "auto"

"""Choose a file for a field: a sample that ships, what an earlier run made, an upload, or a path.

A picture may also come out of a video: the frame is written beside the uploads, and its path is the value. A voice may
come out of a video as it is, and out of music where `vocals` can separate it.

Files that people choose from: the samples that ship, and what earlier runs made.

What a chosen file looks or sounds like, under the control that chose it; of a recording a part can be chosen.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionStyle
from ipywidgets.widgets.widget_string import TextStyle

from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.files import entries
from wanavatar_lab.requests import STAGE_REQUESTS, FieldView, Request
from wanavatar_lab.runs.run import Run, list_runs
from wanavatar_lab.runs.status import Status
from wanavatar_lab.ui.fields import (
    BESIDE_LABELS,
    ROW,
    WIDE,
    Control,
    bare_button,
    bare_html,
    choose_among,
    dropdown,
    shared,
    small,
)
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.uploads import KINDS
from wanavatar_lab.ui.vocals import VoiceButton
from wanavatar_lab.ui.widget import can_show, server_root

_SAMPLES = Path("data") / "samples"
MOST_LISTED = 40
LONGEST_PROMPT = 40  # characters of it in a list

# by a field's hint: how a sample of it ends; webp there are previews for readers
_ENDINGS = {"picture": (".png", ".jpg"), "audio": (".wav",), "video": (".mp4",), "weights": ()}

# by a field's hint: the kinds of artifacts that will do; a clip that talks has a voice, and every clip has pictures
MADE: dict[str, frozenset[str]] = {
    "picture": frozenset({"picture", "video", "talking"}),
    "audio": frozenset({"audio", "talking"}),
    "video": frozenset({"video", "talking"}),
    "weights": frozenset({"weights"}),
}


def samples_folder() -> Path:
    """Where samples lie: below the server's root, so that a page can show them, or else beside the package."""
    places = [server_root() / _SAMPLES, Path(__file__).resolve().parents[2] / _SAMPLES]
    return next((place for place in places if place.is_dir()), places[0])


def samples(widget: str) -> list[Path]:
    """The samples for a field of this hint, by name; none where the package lies without the repository."""
    return [entry.path for entry in entries(samples_folder()) if entry.path.suffix in _ENDINGS[widget]]


def sample(name: str) -> str:
    """The path of a sample that ships, whatever the working folder is.

    Raises:
        LabError: there is none of that name.
    """
    path = samples_folder() / name
    if not path.is_file():
        raise LabError(f"There is no sample {name!r} in {path.parent}.")
    return str(path)


def earlier(kinds: Collection[str], *, runs_dir: Path | str | None = None) -> list[tuple[str, str]]:
    """What earlier runs made of these kinds, newest first: what people read, and the path; at most `MOST_LISTED`."""
    found: list[tuple[str, str]] = []
    for run in list_runs(runs_dir):
        try:
            status = run.status()
            made = [artifact for artifact in status.artifacts if artifact.kind in kinds]
            title = _title(run, status) if made else ""
        except RunError:
            continue  # deleted since it was listed, or its request is damaged
        for artifact in made:
            words = [title, *([artifact.path] if len(made) > 1 else [])]
            found.append((" · ".join(words), str(run.path(artifact))))
        if len(found) >= MOST_LISTED:
            break
    return found[:MOST_LISTED]


def save_frame(video: str, second: float) -> Path:
    """Write a frame of a video as a picture beside the uploads; the same one has the same name.

    Raises:
        MediaError: the video cannot be read, or ends before.
    """
    # a panel is there sooner where these are read only when someone wants them
    from PIL import Image

    from wanavatar_lab import media
    from wanavatar_lab.ui.uploads import FOLDER

    frame = media.read_frame(video, second)
    folder = server_root() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(frame.tobytes()).hexdigest()[:8]
    path = folder / f"{Path(video).stem}-{second:g}s-{digest}.png"
    media.write_picture(path, Image.fromarray(frame))
    return path


def _title(run: Run, status: Status) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.submitted_at))
    stage = STAGE_REQUESTS.get(run.stage)
    name = language.of(stage.labels) if stage else run.stage
    prompt = str(run.read_json("request.json").get("prompt") or "")
    if len(prompt) > LONGEST_PROMPT:
        prompt = prompt[: LONGEST_PROMPT - 1] + "…"
    return " · ".join(filter(None, (name, when, prompt)))


_PICTURE_WIDTH = "16em"


class Preview(widgets.VBox):
    """A picture, a clip, or a recording with its waveform; nothing where the page cannot show the file.

    A recording of a field `x` whose form has `x_start` and `x_duration` can be cut: its waveform and these two follow
    each other.

    Args:
        view: the field whose file it is.
    """

    def __init__(self, view: FieldView) -> None:
        self._view = view
        self._path: str | None = None
        self._part: tuple[Control, Control] | None = None
        self._made: widgets.Widget | None = None
        self._following = False
        super().__init__(layout=shared(widgets.Layout, margin=f"0 0 0 {BESIDE_LABELS}"))

    def meet(self, controls: Mapping[str, Control]) -> None:
        """Find the fields that say which part of the recording is used."""
        start, duration = (controls.get(f"{self._view.name}_{what}") for what in ("start", "duration"))
        if start is not None and duration is not None:
            self._part = start, duration

    def show(self, path: str | None, complain: Callable[[str], None]) -> None:
        """Show a file, or nothing; `complain` is told what is wrong with it."""
        if path == self._path:
            return
        self._path = path
        if self._made is not None:
            self._made.close()
        self._made, self.children = None, []
        if path is None or not can_show(path):
            return
        try:
            self._made = self._make(path)
        except LabError as error:  # damaged, or not what its name says
            complain(str(error))
            return
        self.children = [self._made] if self._made is not None else []
        self.look_around()

    def look_around(self) -> None:
        """Let the waveform show the part that the form says."""
        if self._part is None or self._made is None or self._following:
            return
        start, duration = self._part
        self._following = True
        try:
            self._made.choose(start.value, duration.value)
        finally:
            self._following = False

    def _make(self, path: str) -> widgets.Widget | None:
        from wanavatar_lab.ui.player import Player
        from wanavatar_lab.ui.waveform import Waveform

        if self._view.widget == "audio":
            waveform = Waveform(path)
            waveform.observe(self._chosen, ["start", "end"])
            return waveform
        if _suffix(path) not in KINDS:
            return None
        player = Player(path)
        player.layout.width = _PICTURE_WIDTH
        return player

    def _chosen(self, _: object) -> None:
        if self._part is None or self._made is None or self._following:
            return
        self._following = True
        try:
            part = self._made.audio_start, self._made.audio_duration
            for control, value in zip(self._part, part, strict=True):
                if control.value != value:
                    control.change(value)
        finally:
            self._following = False


def _suffix(path: str) -> str:
    return "." + path.rpartition(".")[2].lower()


WORDS = read_words(__file__, "file_field")

# by a field's hint, the kinds of files that will do
TAKEN = {"picture": ("picture", "video"), "audio": ("audio", "video"), "video": ("video",), "weights": ("weights",)}
_HIDDEN, _SHOWN = "none", None


class FileControl(Control):
    """Where a file comes from, and which. The value is its path as it was given."""

    STYLE_CLASSES = (*Control.STYLE_CLASSES, "wl-file")

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._path: str | None = None
        self._video: str | None = None  # that a picture is taken from
        self._way = dropdown([], "wl-file-way")
        self._sample, self._earlier = dropdown([("", "")]), dropdown([("", "")])
        self._refresh = bare_button()
        self._typed = widgets.Text(
            style=shared(TextStyle), layout=shared(widgets.Layout, **WIDE), continuous_update=False
        )
        self._upload = widgets.VBox()  # filled when it is first wanted
        looks = {"style": shared(DescriptionStyle), "layout": shared(widgets.Layout)}
        self._second = widgets.BoundedFloatText(min=0.0, max=86_400.0, step=0.1, **looks)
        self._take = bare_button()
        self._frame = widgets.HBox([self._second, self._take], layout=ROW)
        self._boxes = (self._sample, self._earlier, self._typed)
        self._preview = Preview(view)
        self._shown = bare_html()
        which = {"_dom_classes": ["wl-file-which"]}
        self._pages: dict[str, widgets.Box] = {
            "sample": widgets.VBox([self._sample], **which),
            "earlier": widgets.VBox([self._earlier, self._refresh], **which),
            "upload": self._upload,
            "path": widgets.VBox([self._typed], **which),
        }
        # of a weights file, nothing here could say what is in it
        self._ways = [name for name in self._pages if name != "upload" or view.widget != "weights"]
        self._samples = {path.name: str(path) for path in samples(view.widget)}
        inputs = [self._way, *self._pages.values(), self._frame, self._shown, self._preview]
        voice = VoiceButton(lambda: self._path, self.pick, self._complain) if view.widget == "audio" else None
        super().__init__(view, [*inputs, *([voice] if voice else [])])
        self.value = None
        self._way.observe(self._go, "value")
        for box in self._boxes:
            box.observe(self._picked, "value")
        self._refresh.on_click(lambda _: self._list_earlier())
        self._take.on_click(lambda _: self._take_frame())

    def meet(self, controls: Mapping[str, Control]) -> None:
        """Let the preview of a recording find the fields of its part."""
        self._preview.meet(controls)

    def look_around(self) -> None:
        """Let the preview follow these."""
        self._preview.look_around()

    def _read(self) -> str | None:
        return self._path if self._path or self.view.optional else ""

    def _write(self, value: Any) -> None:
        self._path, self._video = str(value) if value else None, None
        same = [path for path in self._samples.values() if value and Path(path) == Path(value).resolve()]
        self._sample.value = same[0] if same else ""
        self._typed.value = "" if same else (self._path or "")
        if same or self._path is None:
            self._way.value = "sample" if self._samples else "path"
        else:
            self._way.value = "path"
        self._show()

    def _go(self, _: object) -> None:
        """Another way was chosen; what was chosen before counts until something else is."""
        if self._way.value == "earlier":
            self._list_earlier()
        self._open()

    def _open(self) -> None:
        """Show the page of the way that is chosen, and what the value is."""
        way = self._way.value
        if way == "upload" and not self._upload.children:
            from wanavatar_lab.ui.uploads import Upload  # its script is read only where someone uploads

            kinds = TAKEN[self.view.widget]
            upload = Upload(accept=",".join(suffix for suffix, kind in KINDS.items() if kind in kinds))
            upload.observe(self._picked, "path")
            self._upload.children = [upload]
        for name, page in self._pages.items():
            page.layout.display = _SHOWN if name == way else _HIDDEN
        listed = {"sample": self._sample, "earlier": self._earlier}.get(way)
        nothing = listed is not None and len(listed.options) == 1
        self._frame.layout.display = _SHOWN if self._video else _HIDDEN
        # said where the box that is shown does not show it: a frame, an upload, or the choice of another way
        shown = {"sample": self._sample, "earlier": self._earlier, "path": self._typed}.get(way)
        unsaid = self._path if self._path and (shown is None or not _same(shown.value, self._path)) else None
        said = [
            small(language.of(WORDS["none"])) if nothing else "",
            small(language.of(WORDS["chosen"]).format(path=unsaid)) if unsaid else "",
        ]
        self._shown.value = "".join(said)

    def _show(self) -> None:
        self._open()
        self._preview.show(self._path if self._path and Path(self._path).is_file() else None, self._complain)

    def _complain(self, text: str) -> None:
        self.error = text

    def _picked(self, change: Any) -> None:
        # an upload has no path while it arrives, which is no wish for nothing
        if self._written or (not change["new"] and change["owner"] not in self._boxes):
            return
        self.pick(str(change["new"] or ""))

    def pick(self, path: str) -> None:
        """Take this file on behalf of a person; of a video, where a picture is wanted, its first frame."""
        with self._writing():  # what another way shows as chosen is so no more, and can be chosen again
            for box in self._boxes:
                if not _same(box.value, path):
                    box.value = ""
        if self.view.widget == "picture" and KINDS.get(Path(path).suffix.lower()) == "video":
            self._video = path
            with self._writing():
                self._second.value = 0.0
            self._take_frame()
            return
        self._path, self._video = path or None, None
        self._changed()
        self._show()

    def _take_frame(self) -> None:
        assert self._video is not None
        try:
            self._path = str(save_frame(self._video, self._second.value))
        except LabError as error:
            self._open()
            self.error = str(error)
            return
        self._changed()
        self._show()

    def _list_earlier(self) -> None:
        found = earlier(MADE[self.view.widget])
        with self._writing():
            choose_among(self._earlier, [(language.of(WORDS["choose"]), ""), *found])
        self._open()

    def _say(self) -> None:
        super()._say()
        label = language.of(self.view.labels)
        self._way.description = label
        ways = {name: language.of(WORDS[name]) for name in self._pages}
        choose_among(self._way, [(ways[name], name) for name in self._ways])
        for name, box in (("sample", self._sample), ("earlier", self._earlier), ("path", self._typed)):
            box.description = language.of(WORDS["which"]).format(label=label, way=ways[name])
        choose_among(self._sample, [(language.of(WORDS["choose"]), ""), *self._samples.items()])
        self._refresh.description = language.of(WORDS["refresh"])
        self._second.description = language.of(WORDS["second"]).format(label=label)
        self._take.description = language.of(WORDS["frame"])
        if self._way.value == "earlier":
            self._list_earlier()
        self._open()


def _same(first: str, second: str) -> bool:
    """Whether two paths, of which the first may be empty, are of one file."""
    return bool(first) and Path(first).resolve() == Path(second).resolve()

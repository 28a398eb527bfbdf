"""The control of a file: a sample that ships, a result of an earlier run, an upload, or a path.

A picture may also be a frame of a video, which is written beside the uploads; its path is the value. A voice may be the
sound of a video as it is, or be separated from music by `vocals`.
"""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.files import entries, printable
from wanavatar_lab.requests import FieldView, Request
from wanavatar_lab.requests.request import prompt_of
from wanavatar_lab.runs.run import list_runs
from wanavatar_lab.runs.status import PARTIAL
from wanavatar_lab.ui.elements import ROW, bare, refill, set_options, small
from wanavatar_lab.ui.fields import Control
from wanavatar_lab.ui.language import language, read_words, shorten, stage_name
from wanavatar_lab.ui.served_files import KINDS, can_show, is_sent, kind_of, served_path, server_root, uploads_folder
from wanavatar_lab.ui.vocals import VoiceButton

if TYPE_CHECKING:
    from wanavatar_lab.ui.history import Strip, Thumbnail

MOST_LISTED = 40  # earlier results in a choice, which a person still reads through
LONGEST_PROMPT = 40  # characters of it there

# by a field's widget hint: the kinds of files it takes
TAKEN = {
    "picture": ("picture", "video"),
    "audio": ("audio", "video"),
    "media": ("audio", "video"),
    "video": ("video",),
    "weights": ("weights",),
}

# and the kinds of artifacts: a talking clip has a voice, and every clip has pictures
MADE = {
    "picture": ("picture", "video", "talking"),
    "audio": ("audio", "talking"),
    "media": ("audio", "video", "talking"),
    "video": ("video", "talking"),
    "weights": ("weights",),
}

WAYS = ("sample", "earlier", "upload", "path")
WORDS = read_words(__file__, "file_field")


class FileControl(Control):
    """Where a file comes from, and which file. The value is its path as it was given.

    The file is shown below. A recording of a field `x` whose form has `x_start` and `x_duration`, or `start` and
    `duration`, can be cut: its waveform and these two fields follow each other.
    """

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._path: str | None = None
        self._video: str | None = None  # of which a picture is a frame
        self._way = bare(widgets.Dropdown, "wl-file-way", options=[])
        # the input of each way but the upload, whose widget is made when it is first chosen
        self._inputs: dict[str, Any] = {
            **{name: bare(widgets.Dropdown, options=[("", "")]) for name in ("sample", "earlier")},
            "path": bare(widgets.Text, continuous_update=False),
        }
        self._refresh, self._take = bare(widgets.Button), bare(widgets.Button)
        self._pages = {name: widgets.VBox([box], _dom_classes=["wl-file-which"]) for name, box in self._inputs.items()}
        self._strips: dict[str, Strip] = {}  # thumbnails of what can be chosen, by way
        self._pages["earlier"].children += (self._refresh,)
        self._pages["upload"] = widgets.VBox()
        self._second = bare(widgets.BoundedFloatText, min=0.0, max=86_400.0, step=0.1)
        self._frame = widgets.HBox([self._second, self._take], layout=ROW)
        self._shown, self._preview = bare(widgets.HTML), bare(widgets.VBox)
        self._previewed: str | None = None
        self._part: tuple[Control, Control] | None = None
        self._waveform: Any = None  # where one is shown
        # an uploaded weights file could not be checked: nothing in a kernel reads one
        self._ways = [name for name in WAYS if name != "upload" or view.widget != "weights"]
        self._samples = {path.name: str(path) for path in samples(view.widget)}
        voice = [VoiceButton(self)] if view.widget == "audio" else []
        parts = [self._way, *self._pages.values(), self._frame, self._shown, self._preview, *voice]
        super().__init__(view, parts, "wl-file", *(f"wl-takes-{kind}" for kind in TAKEN[view.widget]))
        self.value = None
        self._way.observe(self._go, "value")
        for box in self._inputs.values():
            box.observe(self._picked, "value")
        self._refresh.on_click(lambda _: self._list_earlier())
        self._take.on_click(lambda _: self._take_frame())

    def complete(self) -> None:
        """Show the samples of pictures as thumbnails."""
        if self.view.widget == "picture" and "sample" not in self._strips:
            from wanavatar_lab.ui.history import Thumbnail

            shown = {path: served_path(path) for path in self._samples.values()}
            made = [
                Thumbnail(path, file=path, path=link, kind="picture", title=Path(path).stem)
                for path, link in shown.items()
            ]
            self._fill("sample", made)

    def connect(self, controls: Mapping[str, Control]) -> None:
        """Find the fields that say which part of a recording is used."""
        for prefix in ("", f"{self.view.name}_"):
            start, duration = (controls.get(f"{prefix}{what}") for what in ("start", "duration"))
            if start is not None and duration is not None:
                self._part = start, duration

    def form_changed(self) -> None:
        """Let the waveform show the part that the form says."""
        if self._part is not None and self._waveform is not None and not self._by_program:
            with self._writing():  # or the waveform would change the fields in turn
                self._waveform.choose(*(control.value for control in self._part))

    def take(self, path: str) -> None:
        """Take a file that came from elsewhere, as one that was dropped: the way shown becomes its path."""
        with self._writing():
            self._inputs["path"].value, self._way.value = printable(path), "path"
        self.pick(path)

    def pick(self, path: str) -> None:
        """Take this file on behalf of a person; of a video, where a picture is wanted, its first frame."""
        with self._writing():  # what is selected in other ways no longer counts, and can be selected again
            for box in self._inputs.values():
                if not _same(box.value, path):
                    box.value = ""
        if self.view.widget == "picture" and kind_of(path) == "video":
            self._video = path
            with self._writing():
                self._second.value = 0.0
            self._take_frame()
        else:
            self._path, self._video = path or None, None
            self._changed()
            self._show()

    def _read(self) -> str | None:
        return self._path if self._path or self.view.optional else ""

    def _write(self, value: Any) -> None:
        self._path, self._video = str(value) if value else None, None
        samples = [path for path in self._samples.values() if value and Path(path) == Path(value).resolve()]
        self._inputs["sample"].value = samples[0] if samples else ""
        self._inputs["path"].value = "" if samples else printable(self._path or "")
        self._way.value = "sample" if samples or (self._samples and not self._path) else "path"
        self._show()

    def _go(self, _: object) -> None:
        """Another way was chosen; the file chosen before counts until another is."""
        if self._way.value == "earlier":
            self._list_earlier()
        else:
            self._open()

    def _open(self) -> None:
        """Show the inputs of the way that is chosen, and the value where these do not show it."""
        way = self._way.value
        if way == "upload" and not self._pages[way].children:
            from wanavatar_lab.ui.uploads import Upload  # its script is read only where someone uploads

            kinds = TAKEN[self.view.widget]
            upload = Upload(accept=",".join(suffix for suffix, kind in KINDS.items() if kind in kinds))
            upload.observe(self._picked, "path")
            self._pages[way].children = [upload]
        for name, page in self._pages.items():
            page.layout.display = None if name == way else "none"
        self._frame.layout.display = None if self._video else "none"
        box = self._inputs.get(way)
        for name, strip in self._strips.items():
            strip.chosen = self._inputs[name].value
        notes = []
        if isinstance(box, widgets.Dropdown) and len(box.options) == 1:
            notes.append(WORDS.text("none"))
        if self._path and (box is None or not _same(box.value, self._path)):
            notes.append(WORDS.text("chosen", path=self._path))
        self._shown.value = "".join(map(small, notes))

    def _show(self) -> None:
        self._open()
        path = self._path if self._path and Path(self._path).is_file() else None
        if path == self._previewed:
            return
        self._previewed = path
        refill(self._preview)
        self._waveform = None
        is_recording = self.view.widget == "audio" or (kind_of(path or "") == "audio" and self._part is not None)
        # a player shows what the kernel sends, too
        if path is None or not (can_show(path) or (not is_recording and is_sent(path))):
            return
        from wanavatar_lab.ui.player import Player  # these read media, which is slow to import
        from wanavatar_lab.ui.waveform import Waveform

        try:
            if is_recording:
                shown: widgets.DOMWidget = Waveform(path)
                self._waveform = shown
                shown.observe(self._part_chosen, ["start", "end"])
            elif kind_of(path):
                shown = Player(path)
            else:
                return
        except LabError as error:  # it is damaged, or not what its name says
            self.error = str(error)
            return
        self._preview.children = [shown]
        self.form_changed()

    def _part_chosen(self, change: Any) -> None:
        waveform = change["owner"]
        if self._part is not None and not self._by_program:
            with self._writing():  # or the fields would change the waveform in turn
                for control, value in zip(self._part, (waveform.audio_start, waveform.audio_duration), strict=True):
                    if control.value != value:
                        control.change(value)

    def _picked(self, change: Any) -> None:
        # an upload has no path while it arrives, which does not mean that no file is wanted
        if self._by_program or (not change["new"] and change["owner"] not in self._inputs.values()):
            return
        self.pick(str(change["new"] or ""))

    def _take_frame(self) -> None:
        """Write a frame of the video as a picture beside the uploads; the same frame has the same name."""
        # a panel appears sooner where these are imported only when someone needs them
        from PIL import Image

        from wanavatar_lab import media

        assert self._video is not None
        try:
            frame = media.read_frame(self._video, self._second.value)
            digest = hashlib.sha256(frame.tobytes()).hexdigest()[:8]
            path = uploads_folder() / f"{Path(self._video).stem}-{self._second.value:g}s-{digest}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            media.write_picture(path, Image.fromarray(frame))
        except (LabError, OSError) as error:  # the video cannot be read or is shorter, or nothing can be written
            self._open()
            self.error = str(error)
            return
        self._path = str(path)
        self._changed()
        self._show()

    def _list_earlier(self) -> None:
        found = earlier(MADE[self.view.widget])
        box = self._inputs["earlier"]
        with self._writing():
            set_options(box, [(WORDS.text("choose"), ""), *((label, item.id) for label, item in found)])
        self._fill("earlier", [item for _, item in found])
        self._open()

    def _fill(self, way: str, thumbnails: "Sequence[Thumbnail]") -> None:
        """Show these files as what can be chosen in a way."""
        from wanavatar_lab.ui.history import Strip  # a form is drawn sooner without its script

        def chosen(change: Any) -> None:
            """A thumbnail was chosen, or it shows what is."""
            if change["new"] and change["new"] != self._inputs[way].value:
                self._inputs[way].value = change["new"]

        if way not in self._strips:
            strip = self._strips[way] = Strip(label=way, chosen=self._inputs[way].value)
            strip.observe(chosen, "chosen")
            self._pages[way].children += (strip,)
        self._strips[way].show(thumbnails)

    def _write_labels(self) -> None:
        label = language.of(self.view.labels)
        self._way.description = label
        set_options(self._way, [(WORDS.text(name), name) for name in self._ways])
        for name, box in self._inputs.items():
            box.description = WORDS.text("which", label=label, way=WORDS.text(name))
        set_options(self._inputs["sample"], [(WORDS.text("choose"), ""), *self._samples.items()])
        self._refresh.description = WORDS.text("refresh")
        self._second.description = WORDS.text("second", label=label)
        self._take.description = WORDS.text("frame")
        self._go(None)


def _same(first: str, second: str) -> bool:
    """Whether two paths, of which the first may be empty, are of one file."""
    return bool(first) and Path(first).resolve() == Path(second).resolve()


def samples_folder() -> Path:
    """The folder of samples: below the server's root, so that a page can show them, or else beside the package."""
    folders = [root / "data" / "samples" for root in (server_root(), Path(__file__).resolve().parents[2])]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def samples(widget: str) -> list[Path]:
    """The samples for a field of this widget hint, by name; none where the package is installed without them."""
    paths = entries(samples_folder())
    return [path for path in paths if kind_of(path) == widget and path.suffix != ".webp"]  # which are for the README


def sample(name: str) -> str:
    """The path of a sample that ships, whatever the working folder is.

    Raises:
        LabError: there is none of that name.
    """
    path = samples_folder() / name
    if not path.is_file():
        raise LabError(f"There is no sample {name!r} in {path.parent}.")
    return str(path)


def earlier(kinds: Collection[str], *, runs_dir: Path | str | None = None) -> list[tuple[str, "Thumbnail"]]:
    """Artifacts of these kinds of earlier runs, newest first, at most `MOST_LISTED`.

    Returns:
        For each its label, and its thumbnail, whose id is the path.
    """
    from wanavatar_lab.ui.history import thumbnail

    found: list[tuple[str, Thumbnail]] = []
    for run in list_runs(runs_dir):
        with suppress(RunError):  # deleted since it was listed, or its request is damaged
            status = run.status()
            if made := [artifact for artifact in status.artifacts if artifact.kind in kinds]:
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.submitted_at))
                prompt = shorten(prompt_of(run.read_json("request.json")), LONGEST_PROMPT)
                shown = [thumbnail(run, status, run.path(artifact)) for artifact in made]
                seed = "" if shown[0].seed is None else WORDS.text("seed", seed=shown[0].seed)
                title = " · ".join(filter(None, (stage_name(run.stage), when, prompt, seed)))
                is_alone = len(made) == 1 and made[0].role != PARTIAL
                labels = [title] if is_alone else [f"{title} · {artifact.file}" for artifact in made]
                items = [replace(item, id=str(run.path(artifact))) for item, artifact in zip(shown, made, strict=True)]
                if not is_alone:  # of two that show the same, the one of this name
                    items = [replace(item, title=f"{Path(item.id).name} · {item.title}") for item in items]
                found += zip(labels, items, strict=True)
        if len(found) >= MOST_LISTED:
            break
    return found[:MOST_LISTED]

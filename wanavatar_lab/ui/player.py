"""Clips, sound and pictures by URL: frame by frame, looped, two side by side in sync or with a movable edge.

Player("runs/…/talking.mp4")
Player(before, after, labels=("25 steps", "4 steps"))
show(files)                       # everything that a run made
Compare(before, after)            # two pictures, one over the other
"""

import asyncio
import io
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import traitlets
from PIL import Image

from wanavatar_lab.errors import LabError, MediaError
from wanavatar_lab.media import probe, read_frame, read_peaks, read_picture
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.record import Record, joined, record_of_file
from wanavatar_lab.ui.served_files import KINDS, can_show, is_sent, kind_of, run_of, server_path
from wanavatar_lab.ui.widget import LabWidget, Recorded, script, start, styles

SAME_RATIO = 0.02  # relative difference of width/height up to which pictures are overlaid: sides are rounded to pixels
LONGEST_WAVEFORM = 120.0  # seconds; decoding more would block the kernel noticeably
# bytes of a file that is sent whole to a page that serves none; Colab takes outputs of up to 20 MB
LARGEST_COPY = 8 * 1024**2
POSTER_SIDE = 640  # longest side in pixels of the picture that stands for a larger one


class Player(LabWidget):
    """A picture, a recording or a clip, or two clips in sync.

    Args:
        paths: mp4, webm, wav, mp3, png, jpg, webp, ... below the server's root; two are shown side by
            side, clips in sync with the sound of the first.
        labels: the caption of each; the files' names if None.

    Attributes:
        paths: relative to the server's root; one, or two in sync; "" for one that the kernel sends.
        kind: video, audio or picture.
        run, file: of one that a run has made, by which it is dragged into a form.
        loop: whether it plays repeatedly.

    Raises:
        LabError: the page cannot show a file, its kind is not known, or two are not of one kind.
        MediaError: a file is missing or damaged.
    """

    _esm = script("wave", "pair", "dragging", "player")
    _css = styles("player")
    WORDS = read_words(__file__, "player")

    paths = traitlets.List(traitlets.Unicode()).tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    version = traitlets.Unicode("").tag(sync=True)
    kind = traitlets.Unicode("").tag(sync=True)
    fps = traitlets.Float(None, allow_none=True).tag(sync=True)
    frames = traitlets.Int(None, allow_none=True).tag(sync=True)
    peaks = traitlets.List(traitlets.Float()).tag(sync=True)
    heard = traitlets.Bool(False).tag(sync=True)  # whether the first file has sound
    run = traitlets.Unicode("").tag(sync=True)
    file = traitlets.Unicode("").tag(sync=True)
    loop = traitlets.Bool(False).tag(sync=True)

    def __init__(self, *paths: Path | str, labels: Sequence[str] | None = None) -> None:
        files = [Path(path) for path in paths]
        if not 1 <= len(files) <= 2:
            raise LabError(f"A player shows one file, or two side by side; {len(files)} were given.")
        for path in files:
            if not kind_of(path):
                raise LabError(f"{path.name} cannot be played; give a file that ends in {', '.join(KINDS)}.")
        kinds = sorted(set(map(kind_of, files)))
        if len(kinds) > 1:
            raise LabError(f"{files[0].name} and {files[1].name} are {' and '.join(kinds)}; give two of a kind.")
        self._files = files
        infos = [probe(path) for path in files]
        info = infos[0]
        run, file = run_of(files[0]) if len(files) == 1 else ("", "")
        has_waveform = info.audio_rate is not None and (info.duration or 0.0) <= LONGEST_WAVEFORM
        super().__init__(
            paths=["" if is_sent(path) else server_path(path) for path in files],
            labels=list(labels) if labels else [path.name for path in files],
            version=str(max(path.stat().st_mtime_ns for path in files)),
            kind=kinds[0],
            run=run,
            file=file,
            fps=info.fps,
            frames=max(each.frames or 0 for each in infos) or None if info.kind == "video" else None,
            heard=info.audio_rate is not None,
            peaks=read_peaks(files[0]).levels if has_waveform else [],
        )

    def record(self) -> Record:
        """The files, with their labels where these are not their names."""
        named = zip(self._files, self.labels, strict=True)
        return joined((record_of_file(path, "" if label == path.name else label) for path, label in named), across=True)

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Send copies of the files to a page that serves none."""
        if content.get("kind") == "copies":
            start(self._send_copies())

    async def _send_copies(self) -> None:
        for index, path in enumerate(self._files):
            whole, kind, data = await asyncio.to_thread(copy_of, path)
            message = {"kind": "copy", "index": index, "whole": whole, "type": kind}
            self.send(message, [data] if data else None)


def copy_of(path: Path) -> tuple[bool, str, bytes]:
    """A file for a page that serves none: whether it is whole, its media type, and its bytes.

    A file of more than `LARGEST_COPY` bytes is a JPEG of its first frame; a recording is then nothing, as is a file
    that cannot be read any more.
    """
    try:
        if path.stat().st_size <= LARGEST_COPY:
            return True, mimetypes.guess_type(path)[0] or "", path.read_bytes()
        if kind_of(path) == "audio":
            return False, "", b""
        frame = read_picture(path) if kind_of(path) == "picture" else Image.fromarray(read_frame(path, 0.0))
    except (OSError, MediaError):
        return False, "", b""
    frame.thumbnail((POSTER_SIDE, POSTER_SIDE))
    memory = io.BytesIO()
    frame.save(memory, "JPEG", quality=85)
    return False, "image/jpeg", memory.getvalue()


def side_by_side(first: Path, second: Path, labels: tuple[str, str]) -> LabWidget:
    """Clips beside each other in sync; pictures of one shape overlaid with a movable edge, others beside each other.

    Raises:
        LabError: they are not of one kind, or the page cannot show one.
        MediaError: one is missing or damaged.
    """
    infos = [probe(path) for path in (first, second)]
    one, other = ((info.width or 1) / (info.height or 1) for info in infos)
    served = can_show(first) and can_show(second)
    if served and all(info.kind == "picture" for info in infos) and abs(one / other - 1) < SAME_RATIO:
        return Compare(first, second, labels=labels)
    return Player(first, second, labels=labels)


def show(artifacts: Sequence[Path | str]) -> ipywidgets.Widget:
    """One widget for all files of a run that can be seen or heard, in their order.

    Raises:
        LabError: there is none.
    """
    paths = [Path(path) for path in artifacts]
    shown = [Player(path) for path in paths if kind_of(path)]
    if not shown:
        made = ", ".join(path.name for path in paths) or "nothing"
        raise LabError(f"The run made {made}: there is no picture, clip or sound to show.")
    return shown[0] if len(shown) == 1 else Players(shown, _dom_classes=["wl-shown"])


class Players(Recorded, ipywidgets.HBox):
    """Players beside each other."""


class Compare(LabWidget):
    """Two pictures of one shape; sizes may differ, as before and after upscaling.

    Args:
        before, after: pictures below the server's root.
        labels: names of both; "Before" and "After" if None.

    Attributes:
        at: position of the edge, in percent from the left.

    Raises:
        LabError: the page cannot show one of them, or one is no picture.
        MediaError: one is missing or damaged.
    """

    _esm = script("compare")
    _css = styles("compare")
    WORDS = read_words(__file__, "compare")

    before = traitlets.Unicode("").tag(sync=True)
    after = traitlets.Unicode("").tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    sizes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    ratio = traitlets.Float(1.0).tag(sync=True)
    at = traitlets.Float(50.0, min=0.0, max=100.0).tag(sync=True)

    def __init__(self, before: Path | str, after: Path | str, *, labels: tuple[str, str] | None = None) -> None:
        infos = [probe(path) for path in (before, after)]
        for path, info in zip((before, after), infos, strict=True):
            if info.kind != "picture":
                raise LabError(f"{path} is a file of kind {info.kind}; give a picture, or two clips to Player.")
        self._files = Path(before), Path(after)
        super().__init__(
            before=server_path(before),
            after=server_path(after),
            labels=list(labels or ()),
            sizes=[f"{info.width} × {info.height}" for info in infos],
            ratio=(infos[1].width or 1) / (infos[1].height or 1),
        )

    def record(self) -> Record:
        """Both pictures, beside each other."""
        named = self.labels or [self.WORDS.text("before"), self.WORDS.text("after")]
        both = zip(self._files, named, strict=True)
        return joined((record_of_file(path, label) for path, label in both), across=True)

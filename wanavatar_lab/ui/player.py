"""Clips, sound and pictures by URL: frame by frame, looped, two side by side in sync.

Player("runs/…/talking.mp4")
Player.pair(before, after, labels=("25 steps", "4 steps"))
show(files)                       # everything that a run made
"""

from collections.abc import Sequence
from pathlib import Path

import ipywidgets
import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.media import probe, read_peaks
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.served_files import KINDS, kind_of, server_path
from wanavatar_lab.ui.widget import LabWidget, script, styles

LONGEST_WAVEFORM = 120.0  # seconds; decoding more would block the kernel noticeably


class Player(LabWidget):
    """A picture, a recording or a clip, or two clips in sync.

    Args:
        paths: mp4, webm, wav, mp3, png, jpg, webp, ... below the server's root; two are shown as `pair` does.
        labels: the caption of each; the files' names if None.

    Attributes:
        paths: relative to the server's root; one, or two in sync.
        kind: video, audio or picture.
        loop: whether it plays repeatedly.

    Raises:
        LabError: the page cannot show a file, its kind is not known, or two are not of one kind.
        MediaError: a file is missing or damaged.
    """

    _esm = script("wave", "pair", "player")
    _css = styles("player")
    WORDS = read_words(__file__, "player")

    paths = traitlets.List(traitlets.Unicode()).tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    version = traitlets.Unicode("").tag(sync=True)
    kind = traitlets.Unicode("").tag(sync=True)
    fps = traitlets.Float(None, allow_none=True).tag(sync=True)
    frames = traitlets.Int(None, allow_none=True).tag(sync=True)
    peaks = traitlets.List(traitlets.Float()).tag(sync=True)
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
        infos = [probe(path) for path in files]
        info = infos[0]
        has_waveform = info.audio_rate is not None and (info.duration or 0.0) <= LONGEST_WAVEFORM
        super().__init__(
            paths=[server_path(path) for path in files],
            labels=list(labels) if labels else [path.name for path in files],
            version=str(max(path.stat().st_mtime_ns for path in files)),
            kind=kinds[0],
            fps=info.fps,
            frames=max(each.frames or 0 for each in infos) or None if info.kind == "video" else None,
            peaks=read_peaks(files[0]).levels if has_waveform else [],
        )

    @classmethod
    def pair(cls, first: Path | str, second: Path | str, *, labels: tuple[str, str] | None = None) -> "Player":
        """Two clips, or two pictures, side by side. Clips play in sync, with the sound of the first."""
        return cls(first, second, labels=labels)


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
    return shown[0] if len(shown) == 1 else ipywidgets.HBox(shown, _dom_classes=["wl-shown"])

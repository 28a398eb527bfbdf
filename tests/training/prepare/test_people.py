"""Whom a clip is about where several people are in view, by faces whose places are known."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media.samples import mux
from tests.real_face import in_room, openings, voice
from training.prepare.clip_folder import FPS, LIP_MASKS, RATE, read_clip
from training.prepare.clips import Options
from training.prepare.prepare import prepare
from training.prepare.report import Prepared
from wanavatar_lab.metrics.landmarks import LIPS, OVAL, Face, FacesIn, LandmarkSource, Points

SOUND = voice(3.4)
MOUTH = openings(SOUND, len(SOUND) * FPS // RATE)
SKIN = {"ann": (214, 172, 148), "bob": (104, 72, 58)}

Head = tuple[str, float, int, int]  # who, how far their mouth is open, and left and width of their face


class Known(LandmarkSource):
    """The faces of each frame of a video."""

    def __init__(self, frames: Sequence[Sequence[Head]]) -> None:
        self.frames = frames

    def identity(self, video: Path) -> str:
        return "known"

    @contextmanager
    def everyone(self, video: Path) -> Iterator[FacesIn]:
        yield lambda _, seconds: [face(*head) for head in self.frames[round(seconds * FPS)]]


def face(_: str, opening: float, left: int, width: int) -> Face:
    middle, lips = (left + width / 2, 100.0), (left + width / 2, 100 + 0.3 * width)
    return Face(
        oval=np.roll(ellipse(OVAL, *middle, width / 2, 0.65 * width), OVAL // 4, axis=0),  # from the forehead on
        lips_outer=ellipse(LIPS, *lips, 0.25 * width, (0.06 + 0.2 * opening) * width),
        lips_inner=ellipse(LIPS, *lips, 0.2 * width, 0.2 * opening * width),
    )


def ellipse(count: int, x: float, y: float, across: float, down: float) -> Points:
    angles = np.arange(count) * 2 * np.pi / count
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)


def prepared(folder: Path, heads: Sequence[Sequence[Head]]) -> Sequence[Prepared]:
    """The clips of a video of people with these heads, who say the voice in each of its scenes."""
    frames = [
        in_room(
            [(np.full((2 * width, width, 3), SKIN[who], np.uint8), left, 20) for who, _, left, width in each], 220, 320
        )
        for each in heads
    ]
    sound = np.concatenate([SOUND] * (len(heads) // len(MOUTH)))
    (folder / "videos").mkdir()
    coding: dict[str, Any] = {"video": "libx264", "audio": "aac", "samples": sound[:, None], "rate": RATE}
    mux(folder / "videos/two.mp4", frames=frames, video_options={"preset": "ultrafast"}, **coding)
    options = Options(hold_out=0, workers=1)
    return prepare(folder / "videos", folder / "data", Known(heads), options, lambda line: None).clips


def middle_of_lips(clip: Prepared) -> float:
    return float(np.nonzero(read_clip(clip.path).mask(LIP_MASKS, 20))[1].mean() + 0.5)


def test_the_one_who_speaks_is_taken_before_and_after_a_cut(tmp_path: Path) -> None:
    # bob listens and is the larger one, and after the cut they have changed places
    before = [[("bob", 0.0, 20, 90), ("ann", opening, 220, 60)] for opening in MOUTH]
    after = [[("ann", opening, 20, 60), ("bob", 0.0, 200, 90)] for opening in MOUTH]
    first, second = prepared(tmp_path, before + after)
    edge = len(MOUTH) / FPS
    assert first.facts["start"] + first.seconds <= edge <= second.facts["start"]
    for clip, left in ((first, 220), (second, 20)):
        assert clip.measures.lag == 0 and clip.measures.face_found == 1
        assert clip.facts["notes"][0].startswith("2 people in view: the one who speaks is taken, at x = ")
        assert middle_of_lips(clip) == pytest.approx(left + 30, abs=1)


def test_the_person_of_the_other_clips_is_taken_where_nobody_clearly_speaks(tmp_path: Path) -> None:
    alone = [[("ann", opening, 100, 60)] for opening in MOUTH]
    both = [[("bob", opening, 20, 90), ("ann", opening, 220, 60)] for opening in MOUTH]
    first, second = prepared(tmp_path, alone + both)
    assert (first.facts["chosen_by"], first.facts["notes"]) == ("alone", [])
    assert second.facts["notes"][0].startswith("2 people in view: the one of the other clips is taken")
    assert middle_of_lips(second) == pytest.approx(220 + 30, abs=1)

"""Players, contact sheets, before and after: what they are given, and what they refuse."""

import io
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from tests.ui import made_runs
from wanavatar_lab.errors import LabError, MediaError
from wanavatar_lab.media import VideoWriter, read_frame, read_picture
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.player import Compare, Player, copy_of, show
from wanavatar_lab.ui.sweep import ContactSheet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    made_runs.clip(folder / "runs" / "talking.mp4", 1.0, side=64)
    made_runs.sound(folder / "runs" / "voice.wav")
    made_runs.picture(folder / "runs" / "small.png", side=32)
    made_runs.picture(folder / "runs" / "large.png", side=64)
    return folder / "runs"


@pytest.fixture(autouse=True)
def served(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(made.parent))


def test_a_clip_has_its_frames_and_its_sound(made: Path) -> None:
    player = Player(made / "talking.mp4")
    assert (player.paths, player.labels) == (["runs/talking.mp4"], ["talking.mp4"])
    assert (player.kind, player.fps, player.frames) == ("video", 16.0, 16)
    assert len(player.peaks) == 100 and max(player.peaks) > 0.4


def test_a_result_is_known_by_its_run(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(made))
    run_id = "20260102-030405-0abc-upscale"
    mine = made_runs.picture(made / run_id / "upscaled.png", side=8)
    other = made_runs.picture(made / "demo" / "upscaled.png", side=8)
    assert [(each.run, each.file) for each in map(Player, (mine, other, made / "small.png"))] == [
        (run_id, "upscaled.png"),
        ("", ""),
        ("", ""),
    ]
    assert Player(mine, other).file == ""  # two share their controls


def test_sound_and_pictures(made: Path) -> None:
    sound, picture = Player(made / "voice.wav"), Player(made / "small.png")
    assert (sound.kind, sound.frames, len(sound.peaks)) == ("audio", None, 300)
    assert (picture.kind, picture.peaks) == ("picture", [])


def test_a_pair(made: Path) -> None:
    pair = Player(made / "talking.mp4", made / "talking.mp4", labels=("25 steps", "4 steps"))
    assert (len(pair.paths), pair.labels) == (2, ["25 steps", "4 steps"])
    assert pair.heard
    with VideoWriter(made / "silent.mp4", fps=16) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    assert not Player(made / "silent.mp4", made / "silent.mp4").heard  # so that no label says "sound on"
    with pytest.raises(LabError, match="are picture and video; give two of a kind"):
        Player(made / "talking.mp4", made / "small.png")


def test_nothing_of_a_file_is_sent(made: Path) -> None:
    player = Player(made / "talking.mp4")
    state = {name: value for name, value in player.get_state().items() if name not in ("_esm", "_css")}
    assert len(repr(state)) < 6000


def test_what_cannot_be_shown_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is outside of"):
        Player(made_runs.picture(tmp_path / "elsewhere.png", side=32))
    with pytest.raises(MediaError):
        Player(made / "missing.png")
    with pytest.raises(LabError, match="cannot be played"):
        Player(made / "log.txt")
    with pytest.raises(LabError, match="3 were given"):
        Player(*[made / "small.png"] * 3)


def test_show_takes_all_that_can_be_seen_or_heard(made: Path) -> None:
    assert isinstance(show([made / "small.png", made / "manifest.json"]), Player)
    box = show([made / "small.png", made / "voice.wav"])
    assert isinstance(box, ipywidgets.Box) and [child.kind for child in box.children] == ["picture", "audio"]
    with pytest.raises(LabError, match=r"made lora\.safetensors: there is no"):
        show([made / "lora.safetensors"])


def test_a_contact_sheet_is_filled_cell_by_cell(made: Path) -> None:
    sheet = ContactSheet(["seed 1", "seed 2"], ["4 steps"])
    sheet.fill(0, 0, made / "small.png")
    assert [row[0] and row[0]["path"] for row in sheet.cells] == ["runs/small.png", None]
    changes: list[object] = []
    sheet.observe(changes.append, "cells")
    sheet.fill(1, 0, made / "talking.mp4")
    assert len(changes) == 1 and sheet.cells[1][0]["kind"] == "video"
    with pytest.raises(LabError, match="is empty"):
        ContactSheet([], ["c"])


def test_before_and_after(made: Path) -> None:
    compare = Compare(made / "small.png", made / "large.png")
    assert (compare.before, compare.sizes, compare.ratio) == ("runs/small.png", ["32 × 32", "64 × 64"], 1.0)
    with pytest.raises(LabError, match="give a picture"):
        Compare(made / "small.png", made / "voice.wav")


def test_words_follow_the_language(made: Path) -> None:
    player = Player(made / "small.png")
    language.code = "ko"
    assert (player.words["loop"], player.lang) == ("반복", "ko")


def test_a_page_that_serves_no_files_gets_a_copy(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[dict[str, Any], Any]] = []
    player = Player(made / "talking.mp4", made / "talking.mp4")
    monkeypatch.setattr(player, "send", lambda content, buffers=None: sent.append((content, buffers)))
    player.receive({"kind": "copies"})
    assert [content["index"] for content, _ in sent] == [0, 1]
    content, (data,) = sent[0]
    assert (content["kind"], content["whole"], content["type"]) == ("copy", True, "video/mp4")
    assert data == (made / "talking.mp4").read_bytes()


def test_of_a_large_file_it_gets_a_picture(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanavatar_lab.ui.player.LARGEST_COPY", 100)
    monkeypatch.setattr("wanavatar_lab.ui.player.POSTER_SIDE", 48)
    for name in ("talking.mp4", "large.png"):
        whole, kind, data = copy_of(made / name)
        assert (whole, kind) == (False, "image/jpeg")
        poster = Image.open(io.BytesIO(data))
        assert poster.size == (48, 48)
        first = Image.fromarray(read_frame(made / name, 0.0)) if name.endswith("mp4") else read_picture(made / name)
        difference = np.asarray(poster, float) - np.asarray(first.resize((48, 48)), float)
        assert abs(difference).mean() < 8
    assert copy_of(made / "voice.wav") == copy_of(made / "gone.png") == (False, "", b"")

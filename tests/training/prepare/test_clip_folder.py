"""Folders of clips as they are read: ours, and those that were made elsewhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.media.samples import mux, numbered, tone
from training.prepare.clip_folder import (
    FACE_MASKS,
    IMAGES,
    LIP_MASKS,
    SOUND,
    VALID,
    ClipFolder,
    frame_name,
    read_clip,
    read_clips,
)
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import Audio, write_audio


def clip(folder: Path, frames: int = 50, seconds: float = 3.125, size: tuple[int, int] = (12, 8)) -> Path:
    """A clip as somebody else may have made it, `size` being (width, height)."""
    for kind in (IMAGES, FACE_MASKS, LIP_MASKS):
        (folder / kind).mkdir(parents=True)
        for index in range(frames):
            mask = np.zeros((size[1], size[0]), np.uint8)
            mask[2:5, 3:7] = 255
            picture = np.repeat(mask[..., None] // 2 + index, 3, axis=2) if kind == IMAGES else mask
            Image.fromarray(picture).save(folder / kind / frame_name(index))
    write_audio(folder / SOUND, Audio(tone(16_000, seconds), 16_000))
    return folder


def test_a_clip_made_elsewhere_is_read_as_it_is(tmp_path: Path) -> None:
    folder = read_clip(clip(tmp_path / "video_000"))
    assert folder == ClipFolder(tmp_path / "video_000", 50, 12, 8, 16)
    assert folder.image(7).shape == (8, 12, 3) and folder.image(7)[0, 0, 0] == 7
    assert folder.mask(LIP_MASKS, 3).tolist()[2] == [0] * 3 + [255] * 4 + [0] * 5
    assert folder.valid().all() and folder.steps().tolist() == list(range(50))


def test_white_and_black_masks_of_clips_made_elsewhere_are_invalid(tmp_path: Path) -> None:
    path = clip(tmp_path / "a")
    Image.fromarray(np.full((8, 12), 255, np.uint8)).save(path / LIP_MASKS / frame_name(0))
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(path / FACE_MASKS / frame_name(4))
    assert np.flatnonzero(~read_clip(path).valid()).tolist() == [0, 4]
    # what was recorded counts where it was
    (path / VALID).write_text(json.dumps({"valid": [True] * 49 + [False]}))
    assert np.flatnonzero(~read_clip(path).valid()).tolist() == [49]


@pytest.mark.parametrize(("fps", "frames", "seconds"), [(24, 96, 4.0), (25, 100, 4.02), (30, 105, 3.5), (16, 64, 4.05)])
def test_the_rate_of_frames_that_nobody_recorded(tmp_path: Path, fps: int, frames: int, seconds: float) -> None:
    path = clip(tmp_path / "a", frames, seconds)
    folder = read_clip(path)
    assert folder.fps == fps
    steps = folder.steps()
    assert len(steps) == int(frames / fps * 16)
    assert np.abs(steps / fps - np.arange(len(steps)) / 16).max() <= 0.5 / fps + 1e-9


def test_the_video_of_a_clip_tells_its_rate(tmp_path: Path) -> None:
    path = clip(tmp_path / "a", 60, 3.0)
    with pytest.raises(LabError, match=r"60 frames and 3\.00 s of sound, which no usual frame rate explains"):
        read_clip(path)
    mux(path / "sub_clip.mp4", video="libx264", frames=[numbered(k) for k in range(60)], fps=20)
    assert read_clip(path).fps == 20


def test_what_is_wrong_with_a_clip_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"There is no clip .*/a\."):
        read_clip(tmp_path / "a")

    def broken(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return clip(tmp_path / name)

    path = broken("a")
    (path / LIP_MASKS / frame_name(13)).unlink()
    with pytest.raises(LabError, match=r"50 files in images and 49 in lip_masks: frame_0013.png is in images and not"):
        read_clip(path)
    (path / IMAGES / frame_name(13)).unlink()
    (path / FACE_MASKS / frame_name(13)).unlink()
    with pytest.raises(LabError, match=r"images lacks frame_0013.png"):
        read_clip(path)
    path = broken("a")
    Image.fromarray(np.zeros((8, 14), np.uint8)).save(path / FACE_MASKS / frame_name(2))
    with pytest.raises(LabError, match=r"face_masks/frame_0002.png has 14×8 pixels and .* has 12×8"):
        read_clip(path)
    (path / FACE_MASKS / frame_name(2)).write_bytes(b"no picture")
    with pytest.raises(LabError, match="is no PNG picture"):
        read_clip(path)
    path = broken("a")
    (path / SOUND).unlink()
    with pytest.raises(LabError, match=r"has no audio\.wav"):
        read_clip(path)
    path = broken("a")
    shutil.rmtree(path / FACE_MASKS)
    with pytest.raises(LabError, match="has no folder face_masks"):
        read_clip(path)
    (path / FACE_MASKS).mkdir()
    with pytest.raises(LabError, match=r"face_masks is empty"):
        read_clip(path)
    path = broken("a")
    for text, said in (('{"valid": [true]}', "has 1 frames"), ("{}", "is damaged"), ("[", "is damaged")):
        (path / VALID).write_text(text)
        with pytest.raises(LabError, match=said):
            read_clip(path).valid()


def test_a_list_names_clips_absolutely_or_beside_it(tmp_path: Path) -> None:
    one, other = clip(tmp_path / "one"), clip(tmp_path / "other")
    listing = tmp_path / "video_path.txt"
    listing.write_text(f"\ufeff{one}\r\n\n  other \n", encoding="utf-8")
    assert [each.path for each in read_clips(listing)] == [one, other]
    listing.write_text(f"{one}\none\n")
    with pytest.raises(LabError, match="more than once"):
        read_clips(listing)
    listing.write_text("other\ngone\n")
    with pytest.raises(LabError, match=r"There is no clip .*gone"):
        read_clips(listing)
    listing.write_text("\n \n")
    with pytest.raises(LabError, match="names no clip"):
        read_clips(listing)
    listing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabError, match="UTF-8"):
        read_clips(listing)
    with pytest.raises(LabError, match=r"no list of clips at .*/none\.txt"):
        read_clips(tmp_path / "none.txt")


@given(st.binary(max_size=60))
def test_whatever_a_list_holds_it_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    listing = tmp_path_factory.getbasetemp() / "video_path.txt"
    listing.write_bytes(data)
    with pytest.raises(LabError):
        read_clips(listing)

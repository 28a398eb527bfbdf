"""Videos written to files."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.media.samples import COLOURS, decoded_clip, number_in, numbered, stripes, tone
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import (
    Audio,
    BackgroundWriter,
    TalkingClipWriter,
    VideoWriter,
    keep_partial,
    probe,
    read_frames,
)

GROWTH = """
import sys
import numpy as np
from wanavatar_lab.media import Audio, VideoWriter, read_frames

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

path, sound = sys.argv[1], Audio(np.zeros((16_000 * 250, 1), np.float32), 16_000)
frame, early = np.zeros((64, 64, 3), np.uint8), 0
with VideoWriter(path, fps=16, audio=sound) as writer:
    for index in range(4_000):
        frame[index % 64] = index % 256
        writer.write(frame)
        early = resident() if index == 500 else early
written = resident()
count = sum(1 for _ in read_frames(path))
print(count, written - early, resident() - written)
"""


def written(path: Path, frames: list[NDArray[np.uint8]], fps: float | Fraction = 16) -> Path:
    with VideoWriter(path, fps=fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_the_file_is_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    parameters = {"seed": "7", "왜": "“”"}
    with VideoWriter(path, fps=16, audio=Audio(tone(16_000, 1.0), 16_000), metadata=parameters) as writer:
        for number in range(16):
            writer.write(numbered(number))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come first for a player to begin at once"
    assert data[data.index(b"avcC") + 5] == 100, "High profile"
    with av.open(str(path)) as file:
        picture, sound = file.streams.video[0].codec_context, file.streams.audio[0].codec_context
        assert (picture.name, picture.pix_fmt, sound.name) == ("h264", "yuv420p", "aac")
        assert (picture.color_range, picture.colorspace, picture.color_primaries, picture.color_trc) == (1, 1, 1, 1)
        assert json.loads(file.metadata["comment"]) == parameters
    times, pictures, _, _ = decoded_clip(path)
    assert times == pytest.approx([k / 16 for k in range(16)])
    assert [number_in(picture) for picture in pictures] == list(range(16))


def test_saturated_colours_survive_both_ways(tmp_path: Path) -> None:
    frame = next(read_frames(written(tmp_path / "a.mp4", [stripes()] * 3)))
    for index, colour in enumerate(COLOURS):
        shown = frame[8:24, index * 16 + 6 : index * 16 + 10].reshape(-1, 3).astype(int)
        assert np.abs(shown - colour).max() <= 4, f"{colour} came back as {shown.mean(axis=0)}"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2), (3, 5), (16, 9), (161, 91), (64, 33)])
def test_odd_sizes_are_made_even_by_repeating_the_edge(tmp_path: Path, width: int, height: int) -> None:
    ramp = np.linspace(0, 255, width * height).astype(np.uint8).reshape(height, width, 1).repeat(3, axis=2)
    path = written(tmp_path / "a.mp4", [ramp] * 2)
    info = probe(path)
    assert (info.width, info.height) == (width + width % 2, height + height % 2)
    frame = next(read_frames(path))
    assert frame.shape == (info.height, info.width, 3)
    assert np.abs(frame[:height, :width].astype(int) - ramp).mean() < 6
    assert np.abs(frame[:, width - 1].astype(int) - frame[:, -1]).max() <= 12
    assert np.abs(frame[height - 1].astype(int) - frame[-1]).max() <= 12


@pytest.mark.parametrize("fps", [1, 16, 23.976, Fraction(30_000, 1001), 60])
def test_one_frame_is_a_video(tmp_path: Path, fps: float | Fraction) -> None:
    info = probe(written(tmp_path / "a.mp4", [numbered(5)], fps))
    assert (info.kind, info.frames) == ("video", 1)
    assert info.duration == pytest.approx(1 / float(fps), rel=0.01)
    assert info.fps == pytest.approx(float(fps), rel=1e-4)


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "a.mp4")]
    count, while_writing, while_reading = map(int, subprocess.check_output(command, timeout=120).split())
    assert count == 4_000
    # the frames alone would be 49 MB, the sound at its rate in the file 48 MB
    assert while_writing < 16_000_000
    assert while_reading < 16_000_000
    assert probe(tmp_path / "a.mp4").frames == 4_000


def test_picture_and_sound_end_together(tmp_path: Path) -> None:
    for seconds, frames, expected in ((2.03, 16, 33), (0.5, 16, 16)):
        path = tmp_path / "a.mp4"
        with VideoWriter(path, fps=16, audio=Audio(tone(16_000, seconds), 16_000)) as writer:
            for number in range(frames):
                writer.write(numbered(number))
        _, pictures, samples, rate = decoded_clip(path)
        assert len(pictures) == expected
        assert number_in(pictures[-1]) == frames - 1
        assert len(samples) / rate == pytest.approx(expected / 16, abs=1e-4)


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", [numbered(1)])
    before = path.read_bytes()
    with pytest.raises(KeyError), VideoWriter(path, fps=16) as writer:
        writer.write(numbered(2))
        raise KeyError("in the middle")
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.mp4"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    good = numbered(0)
    floats: NDArray[Any] = good.astype(np.float32)
    for bad, said in (
        (floats, "float32 [32, 96, 3]"),
        (good[..., 0], "uint8 [32, 96]"),
        (good[:0], "uint8 [0, 96, 3]"),
        (good[:16], "96×16 and the first one is 96×32"),
    ):
        with pytest.raises(MediaError, match=re.escape(said)), VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
            writer.write(good)
            writer.write(bad)
    with pytest.raises(MediaError, match="No frame"), VideoWriter(tmp_path / "a.mp4", fps=16):
        pass
    with pytest.raises(MediaError, match="does not exist"), VideoWriter(tmp_path / "none" / "a.mp4", fps=16):
        pass
    with pytest.raises(MediaError, match=r"\.mp4"):
        VideoWriter(tmp_path / "a.avi", fps=16)
    for fps in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(MediaError, match="frame rate"):
            VideoWriter(tmp_path / "a.mp4", fps=fps)
    assert list(tmp_path.iterdir()) == []


SEGMENTS = [range(16), range(16, 20), range(20, 40)]


def segments_written(path: Path, writer: VideoWriter, beside: bool) -> bytes:
    with BackgroundWriter(writer) if beside else writer as target:
        for segment in SEGMENTS:
            if isinstance(target, BackgroundWriter):
                target.write(map(numbered, segment))
            else:
                for number in segment:
                    target.write(numbered(number))
                target.flush()
    assert target.frames == writer.frames == 40
    return path.read_bytes()


def test_a_clip_written_beside_its_making_has_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for beside in (False, True):
        path = tmp_path / f"{beside}.mp4"
        voice = Audio(tone(16_000, 2.5), 16_000)
        options: dict[str, Any] = {"fps": 16, "audio": voice, "partial": tmp_path / ".part.mp4"}
        made.append(segments_written(path, TalkingClipWriter(path, start_frame=0, **options), beside))
        path.unlink()
    assert made[0] == made[1]


def test_one_segment_is_written_beside_the_making_of_the_next_and_no_more_wait(tmp_path: Path) -> None:
    go_on, taken = threading.Event(), list[int]()

    def segment(first: int) -> Iterator[NDArray[np.uint8]]:
        for number in range(first, first + 2):
            assert go_on.wait(30)
            taken.append(number)
            yield numbered(number)

    with BackgroundWriter(VideoWriter(tmp_path / "a.mp4", fps=16)) as writer:
        writer.write(segment(0))  # returns, though not a frame can be made yet
        writer.check()
        second = threading.Thread(target=writer.write, args=[segment(2)])
        second.start()
        second.join(0.2)
        assert second.is_alive() and taken == [], "the second segment waits for the first"
        go_on.set()
        second.join(30)
        assert not second.is_alive() and taken[:2] == [0, 1]
    assert taken == [0, 1, 2, 3] and probe(tmp_path / "a.mp4").frames == 4


def fails_after(frames: int) -> Iterator[NDArray[np.uint8]]:
    yield from map(numbered, range(frames))
    yield np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize("how", ["check", "write", "end"])
def test_what_the_thread_fails_with_ends_the_clip_and_the_segments_before_stay(tmp_path: Path, how: str) -> None:
    path, partial = tmp_path / "a.mp4", tmp_path / ".part.mp4"
    with (
        pytest.raises(MediaError, match=r"Frame 5 of a\.mp4 is 8×8"),
        BackgroundWriter(VideoWriter(path, fps=16, partial=partial)) as writer,
    ):
        writer.write(map(numbered, range(4)))
        writer.write(fails_after(1))
        if how == "write":
            writer.write(map(numbered, range(4)))
        while how == "check":
            writer.check()
    assert not path.exists()
    assert keep_partial(partial, tmp_path / "b.mp4") == Fraction(5, 16)


def test_a_segment_at_hand_is_written_before_a_cancellation_ends_the_clip(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for last, said in ((map(numbered, range(6)), ""), (fails_after(6), "The last segment of a.mp4 cannot be written")):
        path, partial = tmp_path / "a.mp4", tmp_path / ".part.mp4"
        with pytest.raises(KeyboardInterrupt), BackgroundWriter(VideoWriter(path, fps=16, partial=partial)) as writer:
            writer.write(last)
            raise KeyboardInterrupt
        assert keep_partial(partial, tmp_path / "b.mp4") == Fraction(6, 16)
        assert said in caplog.text and bool(said) == bool(caplog.text)

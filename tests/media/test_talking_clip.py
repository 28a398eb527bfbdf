"""Picture and voice in sync, measured on files that FFmpeg alone reads back."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.media.samples import clicks, decoded_clip, number_in, numbered, onsets, tone
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, TalkingClipWriter, keep_partial, probe, read_audio, write_talking_clip

CLICK = 0.004  # seconds


def flashing(count: int, at: set[int]) -> Iterator[NDArray[np.uint8]]:
    for index in range(count):
        yield np.full((32, 48, 3), 235 if index in at else 20, np.uint8)


@pytest.mark.parametrize("start_frame", [0, 3])
@pytest.mark.parametrize("fps", [16, 25, 30])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_clicks_and_flashes_fall_together(tmp_path: Path, rate: int, fps: int, start_frame: int) -> None:
    flash_frames = [fps // 2, fps + 1, 2 * fps - 3]
    for seconds, count in ((2.3, 5 * fps), (2.3, 2 * fps), (2.0, 2 * fps - start_frame)):
        # the last click ends with the last sample of the voice
        audio = Audio(clicks(rate, seconds, [*(k / fps for k in flash_frames), seconds - CLICK]), rate)
        path = tmp_path / "clip.mp4"
        frames = flashing(count, {k - start_frame for k in flash_frames})
        info = write_talking_clip(path, frames, fps=fps, audio=audio, start_frame=start_frame)

        times, pictures, samples, file_rate = decoded_clip(path)
        flashes = [time for time, picture in zip(times, pictures, strict=True) if picture.mean() > 128]
        heard = onsets(samples, file_rate)
        assert len(flashes) == 3
        assert len(heard) == 4, "the click at the very end of the voice is gone"
        offsets = np.subtract(heard[:3], flashes)
        assert np.abs(offsets).max() <= 0.5 / fps
        assert np.abs(offsets).max() <= 0.001, "the promise is half a frame; sample accuracy is what this code does"

        assert times == pytest.approx([k / fps for k in range(len(times))], abs=1e-6), "not a constant frame rate"
        picture_end, sound_end = len(times) / fps, len(samples) / file_rate
        assert abs(picture_end - sound_end) < 0.0005
        assert sound_end >= audio.seconds - 0.5 / file_rate
        assert picture_end < audio.seconds + 1 / fps
        assert (info.kind, info.frames, info.audio_rate) == ("video", len(times), file_rate)
        assert info.duration == pytest.approx(picture_end, abs=0.0005)


def test_the_ends_of_the_picture_are_held_and_the_surplus_is_never_asked_for(tmp_path: Path) -> None:
    audio = Audio(tone(16_000, 1.0), 16_000)
    asked = []

    def frames(count: int) -> Iterator[NDArray[np.uint8]]:
        for number in range(count):
            asked.append(number)
            yield numbered(number)

    path = tmp_path / "clip.mp4"
    write_talking_clip(path, frames(8), fps=16, audio=audio, start_frame=3)
    assert [number_in(picture) for picture in decoded_clip(path)[1]] == [0, 0, 0, *range(8), *[7] * 5]
    asked.clear()
    write_talking_clip(path, frames(500), fps=16, audio=audio, start_frame=3)
    assert [number_in(picture) for picture in decoded_clip(path)[1]] == [0, 0, 0, *range(13)]
    assert asked == list(range(13))
    write_talking_clip(path, frames(2), fps=16, audio=Audio(tone(16_000, 0.1), 16_000), start_frame=40)
    assert [number_in(picture) for picture in decoded_clip(path)[1]] == [0, 0]


@pytest.mark.parametrize("count", [1, 15_999, 16_000, 16_001])
def test_the_clip_lasts_as_long_as_the_voice_rounded_up_to_a_frame(tmp_path: Path, count: int) -> None:
    audio = Audio(tone(16_000, 2.0)[:count], 16_000)
    info = write_talking_clip(tmp_path / "c.mp4", iter([numbered(1)]), fps=16, audio=audio, start_frame=0)
    assert info.frames == -(-count * 16 // 16_000)
    assert info.duration == pytest.approx(info.frames / 16, abs=1e-6)


def test_a_rate_that_is_no_whole_number_does_not_drift(tmp_path: Path) -> None:
    fps = Fraction(30_000, 1001)
    flash_frames = [30, 900, 1770]
    audio = Audio(clicks(16_000, 60.0, [float(k / fps) for k in flash_frames]), 16_000)
    path = tmp_path / "clip.mp4"
    write_talking_clip(path, flashing(1_800, set(flash_frames)), fps=fps, audio=audio, start_frame=0)
    times, pictures, samples, rate = decoded_clip(path)
    flashes = [time for time, picture in zip(times, pictures, strict=True) if picture.mean() > 128]
    assert onsets(samples, rate) == pytest.approx(flashes, abs=0.001)


def test_stereo_stays_stereo(tmp_path: Path) -> None:
    voice = tone(48_000, 0.5, 2)
    path = tmp_path / "clip.mp4"
    info = write_talking_clip(path, flashing(8, set()), fps=16, audio=Audio(voice, 48_000), start_frame=0)
    assert info.audio_channels == 2
    middle = slice(4_800, -4_800)
    assert np.abs(read_audio(path).samples[middle] - voice[middle]).max() < 0.02


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_surround_sound_is_mixed_down_to_stereo_and_does_not_clip(tmp_path: Path, level: float) -> None:
    voice, other = tone(48_000, 0.5)[:, 0] * 2 * level, tone(48_000, 0.5, hz=880.0)[:, 0] * 2 * level
    surround = np.stack([other, other, voice, other, other, other], axis=1)
    path = tmp_path / "clip.mp4"
    info = write_talking_clip(path, flashing(8, set()), fps=16, audio=Audio(surround, 48_000), start_frame=0)
    assert info.audio_channels == 2
    mixed = (1 + 0.5**0.5) * other + 0.5**0.5 * voice
    assert (np.abs(mixed).max() > 1) == (level == 1.0)
    mixed /= max(1.0, np.abs(mixed).max())
    for side in read_audio(path).samples.T:
        assert np.dot(side, mixed) / np.dot(mixed, mixed) == pytest.approx(1, abs=0.02)
        assert np.dot(side, mixed) / (np.linalg.norm(side) * np.linalg.norm(mixed)) > 0.99


def test_the_file_itself_says_where_the_sound_begins_and_ends(tmp_path: Path) -> None:
    # read without FFmpeg: the sound's edit list skips AAC's run-in of 1024 samples and lasts as long as the picture
    path = tmp_path / "clip.mp4"
    write_talking_clip(path, flashing(20, set()), fps=16, audio=Audio(tone(16_000, 1.25), 16_000), start_frame=0)
    data = path.read_bytes()
    clock = int.from_bytes(data[data.index(b"mvhd") + 16 :][:4], "big")
    edits = []
    place = data.find(b"elst")
    while place >= 0:
        assert data[place + 4 : place + 12] == b"\0\0\0\0\0\0\0\1"
        edits.append(
            (int.from_bytes(data[place + 12 :][:4], "big") / clock, int.from_bytes(data[place + 16 :][:4], "big"))
        )
        place = data.find(b"elst", place + 1)
    assert edits == [(1.25, 0), (1.25, 1024)]


def numbered_clip(path: Path, partial: Path | None, count: int) -> None:
    """Frames with a number in each, three of them held in front, in segments of 16; 20 frames and then an error."""
    audio = Audio(tone(16_000, 2.6), 16_000)
    with TalkingClipWriter(path, fps=16, audio=audio, start_frame=3, partial=partial) as writer:
        for number in range(count):
            if number == 20 and count < 30:
                raise RuntimeError("the model broke")
            writer.write(numbered(number))
            if number % 16 == 15:
                writer.flush()


def test_a_clip_by_way_of_a_partial_file_is_the_same(tmp_path: Path) -> None:
    direct, path, partial = tmp_path / "direct.mp4", tmp_path / "clip.mp4", tmp_path / ".clip.partial.mp4"
    numbered_clip(direct, None, 45)
    numbered_clip(path, partial, 45)
    assert not partial.exists()
    (times, pictures, samples, _), wanted = decoded_clip(path), decoded_clip(direct)
    assert times == pytest.approx(wanted[0], abs=1e-6)
    assert [number_in(picture) for picture in pictures] == [0, 0, 0, *range(39)]
    assert np.array_equal(samples, wanted[2])
    one, other = path.read_bytes(), direct.read_bytes()
    assert one.index(b"moov") < one.index(b"mdat")
    for box in (b"avcC", b"elst", b"colr"):
        assert one[one.index(box) :][:24] == other[other.index(box) :][:24]


def test_what_a_partial_file_has_is_playable_wherever_it_was_cut(tmp_path: Path) -> None:
    partial, path = tmp_path / ".clip.partial.mp4", tmp_path / "clip.partial.mp4"
    with pytest.raises(RuntimeError, match="the model broke"):
        numbered_clip(tmp_path / "clip.mp4", partial, 25)
    assert [found.name for found in tmp_path.iterdir()] == [partial.name]
    data, counts = partial.read_bytes(), []
    for size in np.linspace(0, len(data), 12).astype(int):
        partial.write_bytes(data[:size])
        seconds = keep_partial(partial, path)
        assert not partial.exists()
        counts.append(int(seconds * 16))
        if not seconds:
            assert not path.exists()
            continue
        assert not probe(path).missing
        _, pictures, samples, rate = decoded_clip(path)
        assert [number_in(picture) for picture in pictures] == [0, 0, 0, *range(20)][: counts[-1]]
        assert abs(len(samples) / rate - seconds) <= 1.5 / 16
    assert counts == sorted(counts) and (counts[0], counts[-1]) == (0, 23)


def test_a_clip_that_cannot_be_made_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    audio = Audio(tone(16_000, 1.0), 16_000)
    path = tmp_path / "clip.mp4"
    with pytest.raises(MediaError, match="start_frame is -1"):
        write_talking_clip(path, flashing(4, set()), fps=16, audio=audio, start_frame=-1)
    with pytest.raises(MediaError, match="No frame"):
        write_talking_clip(path, iter(()), fps=16, audio=audio, start_frame=0)

    def failing() -> Iterator[NDArray[np.uint8]]:
        yield from flashing(4, set())
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        write_talking_clip(path, failing(), fps=16, audio=audio, start_frame=0)
    assert list(tmp_path.iterdir()) == []

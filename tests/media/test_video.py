"""Videos read from files."""

import io
import itertools
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pillow_heif
import pytest
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import ExifTags, Image

from tests.media.samples import COLOURS, mux, number_in, numbered, onsets, stripes, tone
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, probe, read_audio, read_frame, read_frames, write_audio

READABLE = {
    "mp4": "libx264",
    "mov": "libx264",
    "mkv": "libx264",
    "webm": "libvpx",
    "avi": "mpeg4",
    "ts": "libx264",
    "gif": "gif",
}
NO_B = {"bf": "0"}


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "rgb24"])
def test_untagged_and_full_range_colours_are_read_as_players_do(tmp_path: Path, pixels: str) -> None:
    codec = {"yuv420p": "libx264", "yuvj420p": "mjpeg", "rgb24": "png"}[pixels]
    path = mux(tmp_path / "a.mov", video=codec, pixels=pixels, frames=[stripes()] * 2)
    frame = next(read_frames(path))
    for index, colour in enumerate(COLOURS):
        shown = frame[8:24, index * 16 + 6 : index * 16 + 10].reshape(-1, 3).astype(int)
        assert np.abs(shown - colour).max() <= (0 if pixels == "rgb24" else 12)


@pytest.mark.parametrize("suffix", READABLE)
def test_every_container_gives_its_frames_in_order(tmp_path: Path, suffix: str) -> None:
    pixels = "rgb8" if suffix == "gif" else "yuv420p"
    path = mux(tmp_path / f"a.{suffix}", video=READABLE[suffix], pixels=pixels, fps=20)
    assert [number_in(frame) for frame in read_frames(path)] == list(range(24))
    for wanted in (0, 7, 23):
        assert number_in(read_frame(path, wanted / 20)) == wanted
    info = probe(path)
    if suffix == "gif":
        assert (info.kind, info.width, info.height) == ("picture", 96, 32)
    else:
        assert (info.kind, info.width, info.height, info.frames) == ("video", 96, 32, 24)
        # AVI and MPEG-TS count the delay of the codec as time
        assert info.duration == pytest.approx(1.2, abs=0.06)
        assert info.fps == pytest.approx(20, rel=0.06)


@pytest.mark.parametrize(("source", "wanted"), [(30, 16), (25, 16), (16, 16), (10, 16), (24, 25)])
def test_another_frame_rate_takes_the_nearest_frame_and_never_drifts(tmp_path: Path, source: int, wanted: int) -> None:
    path = mux(tmp_path / "a.mp4", video="libx264", fps=source, frames=[numbered(k) for k in range(40 * source)])
    numbers = [number_in(frame) for frame in read_frames(path, fps=wanted)]
    assert len(numbers) == 40 * wanted
    for index, number in enumerate(numbers):
        distance = abs(Fraction(number, source) - Fraction(index, wanted))
        assert distance <= Fraction(1, 2 * source) or number == 40 * source - 1


def test_at_a_lower_rate_frames_are_not_late_after_a_gap(tmp_path: Path) -> None:
    """As of a webcam that leaves frames out: what moves then would not fit what is heard."""
    source, wanted = 30, 16
    times = [k for k in range(4 * source) if k % 10 not in (5, 6, 7)]
    path = mux(tmp_path / "a.mp4", video="libx264", fps=source, frames=list(map(numbered, times)), times=times)
    numbers = [number_in(frame) for frame in read_frames(path, fps=wanted)]
    late = {
        place: number - at for place, number in enumerate(numbers) if not 4 < (at := place * source / wanted) % 10 < 8
    }
    assert max(map(abs, late.values())) <= 0.5, late


def test_two_animations_are_read_at_the_same_time(tmp_path: Path) -> None:
    shades = [Image.new("RGB", (16, 16), (shade,) * 3) for shade in (0, 100, 200)]
    shades[0].save(tmp_path / "a.webp", save_all=True, append_images=shades[1:], duration=100, lossless=True)
    first, second = (read_frames(tmp_path / "a.webp") for _ in range(2))
    found = [(int(a[0, 0, 0]), int(b[0, 0, 0])) for a, b in zip(first, second, strict=True)]
    assert found == [(0, 0), (100, 100), (200, 200)]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_read_as_a_video_too(tmp_path: Path, suffix: str) -> None:
    frames, path = [Image.fromarray(numbered(k)) for k in range(6)], tmp_path / f"a.{suffix}"
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=[100, 100, 300, 100, 100, 100], lossless=True
    )
    info = probe(path)
    assert (info.kind, info.frames, info.duration, info.fps) == ("picture", 6, 0.8, 7.5)
    assert [number_in(frame) for frame in read_frames(path)] == [0, 1, 2, 3, 4, 5]
    assert [number_in(frame) for frame in read_frames(path, fps=10)] == [0, 1, 2, 2, 2, 3, 4, 5]
    assert number_in(read_frame(path, 0.6)) == 4


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_a_cut_animation_moves_as_far_as_it_goes(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    path, noise = tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 255, (10, 64, 64, 3), np.uint8)
    first, *rest = map(Image.fromarray, noise)
    first.save(path, save_all=True, append_images=rest, duration=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    info = probe(path)
    assert (info.kind, info.frames, info.duration) == ("picture", 5, 0.5)
    assert f"a.{suffix} moves as far as frame 5 of" in caplog.text


@pytest.mark.parametrize("lossless", [False, True])
def test_a_cut_animated_webp_has_its_whole_frames(
    tmp_path: Path, lossless: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path, (first, *rest) = tmp_path / "a.webp", [Image.fromarray(numbered(k)) for k in range(10)]
    first.save(path, save_all=True, append_images=rest, duration=100, lossless=lossless)
    whole = path.read_bytes()
    for size in range(len(whole) // 2, len(whole), 3):
        path.write_bytes(whole[:size])
        info = probe(path)
        assert info.frames in range(4, 10) and info.missing == f"the file has {size:,} of {len(whole):,} bytes"
        assert [number_in(frame) for frame in read_frames(path)] == list(range(info.frames or 0))
        assert f"a.webp is cut short and moves as far as frame {info.frames}." in caplog.text


def test_a_gif_that_is_cut_anywhere_behind_its_first_frame_is_read(tmp_path: Path) -> None:
    path, (first, *rest) = tmp_path / "a.gif", [Image.fromarray(numbered(k)) for k in range(10)]
    first.save(path, save_all=True, append_images=rest, duration=100)
    whole = path.read_bytes()
    for size in range(len(whole) // 2, len(whole)):
        path.write_bytes(whole[:size])
        assert probe(path).frames in range(1, 11)


def test_a_raw_stream_is_read_from_any_time(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.h264", video="libx264", frames=[numbered(k) for k in range(50)], fps=25)
    assert [number_in(read_frame(path, at)) for at in (0.2, 0.8, 1.6)] == [5, 20, 40]


def test_frames_of_uneven_length_are_taken_by_their_times(tmp_path: Path) -> None:
    times = [0, 1, 2, 20, 21, 60]
    path = mux(tmp_path / "a.mkv", video="libx264", fps=20, times=times, frames=[numbered(k) for k in range(6)])
    numbers = [number_in(frame) for frame in read_frames(path, fps=10)]
    expected = [sum(time <= 2 * k for time in times) - 1 for k in range(31)]  # none before its time
    assert numbers[:31] == expected
    assert [number_in(frame) for frame in read_frames(path)] == list(range(6))


def test_a_part_is_read_of_a_recording_that_was_cut_behind_its_key_frame(tmp_path: Path) -> None:
    frames, whole, path = [numbered(k) for k in range(75)], tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    mux(whole, video="libx264", fps=25, frames=frames, video_options={"g": "50", "bf": "2"})
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in itertools.islice(source.demux(video=0), 1, 75):
            packet.stream = stream
            target.mux(packet)
    assert [number_in(read_frame(path, at)) for at in (0.7, 1.6, 2.48)] == [50, 50, 63]


def test_start_and_limit_choose_a_part(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mp4", video="libx264", fps=20, frames=[numbered(k) for k in range(200)])
    assert [number_in(frame) for frame in read_frames(path, start=5.02, limit=3)] == [100, 101, 102]
    assert [number_in(frame) for frame in read_frames(path, start=5.0, fps=10, limit=3)] == [100, 102, 104]
    assert [number_in(frame) for frame in read_frames(path, start=9.9)] == [198, 199]
    assert number_in(read_frame(path, 10.0)) == 199
    for start, said in ((10.2, "no frame at 10.2 s"), (-1.0, "-1.0 s"), (float("nan"), "nan s")):
        with pytest.raises(MediaError, match=said):
            read_frame(path, start)
    with pytest.raises(MediaError, match="limit is 0"):
        read_frames(path, limit=0)
    with pytest.raises(MediaError, match="frame rate"):
        read_frames(path, fps=0)


def test_picture_and_sound_share_their_zero(tmp_path: Path) -> None:
    # MPEG-TS begins at 1.4 s in its own time; the sound begins 0.5 s after the picture
    samples = np.zeros((24_000, 1), np.float32)
    samples[:200] = 0.9
    path = mux(
        tmp_path / "a.ts", video="libx264", audio="aac", samples=samples, audio_start=0.5, video_options={"bf": "0"}
    )
    assert onsets(read_audio(path).samples, 48_000) == pytest.approx([0.5], abs=0.03)
    assert number_in(read_frame(path, 0.5)) == 8


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_phone_gives_an_upright_picture(tmp_path: Path, rotation: int) -> None:
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:8, :24] = 255
    path = mux(tmp_path / "a.mp4", video="libx264", frames=[frame] * 3, rotation=rotation)
    read, upright = next(read_frames(path)), np.rot90(frame, rotation // 90)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 4
    info = probe(path)
    assert (info.height, info.width) == upright.shape[:2]


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
    ],
    ids=["left to right", "top to bottom", "on end", "on end, and turned"],
)
def test_a_mirrored_selfie_is_shown_as_players_show_it(
    tmp_path: Path, matrix: tuple[int, int, int, int], shown: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:8, :24] = 255
    path = mux(tmp_path / "a.mp4", video="libx264", frames=[frame] * 3)
    data = path.read_bytes()
    a, b, c, d = (each << 16 for each in matrix)
    plain, mirrored = ([*rows, 0, 0, 1 << 30] for rows in ([1 << 16, 0, 0, 0, 1 << 16, 0], [a, b, 0, c, d, 0]))
    place = data.index(struct.pack(">9i", *plain), data.index(b"tkhd"))
    path.write_bytes(data[:place] + struct.pack(">9i", *mirrored) + data[place + 36 :])
    read, upright = next(read_frames(path)), shown(frame)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 4
    info = probe(path)
    assert (info.height, info.width) == upright.shape[:2]


def test_frames_of_a_camera_that_are_turned_by_their_exif_are_shown_upright(tmp_path: Path) -> None:
    exif, memory = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (96, 32)).save(memory, "JPEG", exif=exif.tobytes())
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream: Any = file.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 32, "yuvj420p"
        packet = av.Packet(memory.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 10)
        file.mux(packet)
    assert next(read_frames(tmp_path / "a.avi")).shape == (96, 32, 3)


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mp4", video="libx264", aspect=Fraction(4, 3))
    assert next(read_frames(path)).shape == (32, 128, 3)
    assert (probe(path).width, probe(path).height) == (128, 32)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_webm_is_transparent_too(tmp_path: Path, codec: str) -> None:
    """As of an avatar to be laid over a scene: what is below its transparency is black or noise."""
    frames = [np.dstack([numbered(number), np.full((32, 96), 255, np.uint8)]) for number in range(60)]
    for frame in frames:
        frame[16:, :, :] = 0
    options = {"g": "25", "auto-alt-ref": "0"}
    path = mux(tmp_path / "a.webm", video=codec, pixels="yuva420p", fps=25, frames=frames, video_options=options)
    read = list(read_frames(path))
    assert [number_in(frame) for frame in read] == list(range(60))
    assert min(frame[20:].min() for frame in read) >= 250
    assert [number_in(frame) for frame in read_frames(path, start=1.0, fps=5)] == [25, 30, 35, 40, 45, 50, 55]


@pytest.mark.parametrize("live", ["0", "1"])
@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("angle", [90, 180])
def test_a_transparent_webm_is_turned_as_its_header_says(tmp_path: Path, angle: int, codec: str, live: str) -> None:
    """As one without transparency is, from its first frame and from a later one."""
    frames = [np.dstack([numbered(number), np.full((32, 96), 255, np.uint8)]) for number in range(30)]
    for frame in frames:
        frame[16:, :, 3] = 0
    same: dict[str, Any] = {"video": codec, "rotation": angle, "fps": 25, "video_options": {"auto-alt-ref": "0"}}
    same["options"] = {"live": live}
    clear = mux(tmp_path / "clear.webm", pixels="yuva420p", frames=frames, **same)
    info, read = probe(clear), list(read_frames(clear))
    assert {frame.shape for frame in read} == {(info.height, info.width, 3)}
    upright = [np.rot90(frame, -angle // 90) for frame in read]
    assert list(map(number_in, upright)) == list(range(30))
    assert min(frame[20:].min() for frame in upright) >= 250
    assert number_in(np.rot90(read_frame(clear, 1.0), -angle // 90)) == 25


@pytest.mark.parametrize(
    "tags",
    [
        (ColorTrc.ARIB_STD_B67, ColorPrimaries.BT2020, Colorspace.BT2020),
        (ColorTrc.BT709, ColorPrimaries.SMPTE432, Colorspace.ITU709),
    ],
)
def test_transparency_changes_no_colours(tmp_path: Path, tags: Any) -> None:
    frame = np.full((32, 64, 4), (20, 200, 60, 255), np.uint8)
    clear = mux(tmp_path / "a.webm", video="libvpx-vp9", pixels="yuva420p", frames=[frame], tags=tags)
    opaque = mux(tmp_path / "b.webm", video="libvpx-vp9", frames=[frame[..., :3]], tags=tags)
    assert read_frame(clear, 0.0)[8, 8] == pytest.approx(read_frame(opaque, 0.0)[8, 8], abs=2)


def test_transparent_frames_are_laid_over_white(tmp_path: Path) -> None:
    frame = np.zeros((16, 32, 4), np.uint8)
    frame[:, :16] = (200, 0, 0, 128)
    path = mux(tmp_path / "a.mov", video="png", pixels="rgba", frames=[frame])
    read = next(read_frames(path))
    assert read[8, 8].tolist() == [227, 127, 127]
    assert read[8, 24].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("suffix", "front"),
    [("mp4", False), ("mp4", True), ("mov", True), ("mkv", False), ("webm", False), ("avi", False), ("ts", False)],
)
def test_a_cut_file_is_read_as_far_as_it_goes_and_the_loss_is_said(
    tmp_path: Path, suffix: str, front: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sound = "libopus" if suffix == "webm" else "aac"
    options = {"movflags": "+faststart"} if front else {}  # the index in front
    # no B-frames, so that the frames before the cut are all there
    path = mux(tmp_path / f"a.{suffix}", video=READABLE[suffix], audio=sound, options=options, video_options=NO_B)
    whole, cut, most = path.read_bytes(), tmp_path / f"cut.{suffix}", 0
    assert probe(path).missing == "" and not caplog.text
    for end in [*range(len(whole) // 16, len(whole), len(whole) // 16), len(whole) - 3]:
        cut.write_bytes(whole[:end])
        caplog.clear()
        try:
            info, numbers = probe(cut), [number_in(frame) for frame in read_frames(cut)]
        except MediaError as error:
            assert len(str(error)) > 20
            continue
        assert numbers == list(range(len(numbers)))
        # a file's last packet may be cut in a way that only the decoder sees
        assert info.frames is not None and 0 <= info.frames - len(numbers) <= 1
        assert most <= len(numbers) <= 24
        most = len(numbers)
        if suffix != "ts" and len(numbers) < 22:  # a transport stream declares no length
            # FFmpeg takes an AVI's length from its frames where the index is gone
            assert re.search(r"\d s of \d\.\d\d s can be read|1 damaged packet", info.missing)
            assert f"cut.{suffix} is cut short or damaged" in caplog.text
    assert most >= (24 if suffix != "avi" else 23)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi"])
def test_any_byte_that_a_file_lacks_is_said(tmp_path: Path, suffix: str) -> None:
    """Lengths in seconds are rounded, and tell nothing of a track whose description is in the part that is gone."""
    video, audio = READABLE[suffix], {"avi": "libmp3lame", "webm": "libopus"}.get(suffix, "aac")
    path = mux(tmp_path / f"a.{suffix}", video=video, audio=audio, frames=[numbered(k) for k in range(8)])
    data, cut = path.read_bytes(), tmp_path / f"cut.{suffix}"
    assert probe(path).missing == read_audio(path).missing == ""
    read_in_part = 0
    for lost in (1, 20, 100, 300, 600):
        cut.write_bytes(data[:-lost])
        said = f"the file has {len(data) - lost:,} of {len(data):,} bytes"
        with suppress(MediaError):  # an MP4 without any description
            assert probe(cut).missing.endswith(said)
            read_in_part += 1
    assert read_in_part
    with open(path, "ab") as file:  # what follows is none of it
        file.write(bytes(range(256)) * 8)
    assert probe(path).missing == ""


def test_a_heic_behind_an_mp4_does_not_keep_it_from_being_read(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    path, photo = mux(tmp_path / "a.mp4", video="libx264", video_options=NO_B), tmp_path / "a.heic"
    Image.fromarray(numbered(9)).save(photo)
    path.write_bytes(path.read_bytes() + photo.read_bytes())
    assert [number_in(frame) for frame in read_frames(path)] == list(range(24))
    assert probe(path).frames == 24


def test_frames_that_are_damaged_are_skipped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = mux(tmp_path / "a.mov", video="png", pixels="rgb24")  # every frame a picture of its own
    data = path.read_bytes()
    places = [match.start() for match in re.finditer(b"IHDR", data)]
    assert len(places) == 24
    broken = bytearray(data)
    broken[places[7] : places[7] + 4] = broken[places[15] : places[15] + 4] = b"XXXX"
    path.write_bytes(broken)
    assert [number_in(frame) for frame in read_frames(path)] == [k for k in range(24) if k not in (7, 15)]
    assert re.search(r"2 damaged packets skipped, the first near 0\.\d\d s", caplog.text)
    # at a rate of its own each time gets the nearest frame that is left
    assert [number_in(frame) for frame in read_frames(path, fps=16)][6:10] == [6, 6, 8, 9]


@pytest.mark.parametrize(("suffix", "options"), [("webm", {"live": "1"}), ("ts", {})])
def test_a_live_recording_that_ends_within_a_block_is_read_up_to_there(
    tmp_path: Path, suffix: str, options: dict[str, str]
) -> None:
    path = mux(tmp_path / f"a.{suffix}", video=READABLE[suffix], options=options, video_options=NO_B)
    whole, cut = path.read_bytes(), tmp_path / f"cut.{suffix}"
    for end in range(len(whole) // 2, len(whole) // 2 + 200, 7):
        cut.write_bytes(whole[:end])
        numbers = [number_in(frame) for frame in read_frames(cut)]
        assert numbers == list(range(len(numbers)))
        assert 3 <= len(numbers) <= 18


def test_a_webp_that_does_not_move_is_no_video(tmp_path: Path) -> None:
    Image.fromarray(numbered(1)).save(tmp_path / "a.webp")
    with pytest.raises(MediaError, match="no picture that moves"):
        read_frames(tmp_path / "a.webp")


def test_what_is_no_video_is_refused_in_clear_words(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is a letter.\n" * 100)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "still.png")
    mux(tmp_path / "a.mp3", audio="libmp3lame")
    for name, said in {
        "missing.mp4": "There is no file",
        ".": "is a folder",
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read",
        "list.mp4": "cannot be read",
        "still.png": "cannot be read",
        "a.mp3": "no picture that moves",
    }.items():
        with pytest.raises(MediaError, match=said):
            read_frames(tmp_path / name)


def test_cover_art_does_not_make_a_song_a_video(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", Audio(tone(16_000, 0.5), 16_000))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    cover = (tmp_path / "a.png").read_bytes()
    fields = [(3).to_bytes(4, "big"), (9).to_bytes(4, "big"), b"image/png", bytes(4), (32).to_bytes(4, "big")]
    fields += [(32).to_bytes(4, "big"), (24).to_bytes(4, "big"), bytes(4), len(cover).to_bytes(4, "big"), cover]
    block = b"".join(fields)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[:42] + b"\6" + len(block).to_bytes(3, "big") + block + data[42:])
    assert probe(tmp_path / "a.flac").kind == "audio"
    assert read_audio(tmp_path / "a.flac").seconds == 0.5
    with pytest.raises(MediaError, match="no picture that moves"):
        read_frames(tmp_path / "a.flac")


def test_limits_come_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mux(tmp_path / "a.mp4", video="libx264", frames=[numbered(k) for k in range(32)])
    live = mux(tmp_path / "a.ts", video="libx264", frames=[numbered(k) for k in range(32)])
    for variable, value, said in (
        ("WANAVATAR_MAX_VIDEO_SECONDS", "1.5", r"longer than 1\.5 s"),
        ("WANAVATAR_MAX_VIDEO_PIXELS", "3000", "96×32 and the limit is 3,000"),
        ("WANAVATAR_MAX_MEDIA_BYTES", "500", "limit is 500"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            for source in (path, live):
                with pytest.raises(MediaError, match=said):
                    list(read_frames(source))
                with pytest.raises(MediaError, match=said):
                    probe(source)

"""Sound read from and written to files."""

import json
import math
import re
import struct
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr  # type: ignore[import-untyped]
from av.stream import Disposition

from tests.media.samples import clicks, mux, number_in, numbered, onsets, tone
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, VideoWriter, probe, read_audio, read_frames, write_audio

VIDEO_AND_SOUND = {
    "mp4": ("libx264", "aac"),
    "mov": ("libx264", "aac"),
    "mkv": ("libx264", "aac"),
    "webm": ("libvpx", "libopus"),
    "ts": ("libx264", "aac"),
}
SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
SOUND = {"wav": "pcm_s16le", "flac": "flac", "m4a": "aac", "mp3": "libmp3lame", "ogg": "libopus", "aiff": "pcm_s16be"}


@pytest.mark.parametrize(
    ("codec", "sample_format", "error"),
    [
        ("pcm_u8", "u8", 1 / 128),
        ("pcm_s16le", "s16", 1 / 32768),
        ("pcm_s24le", "s32", 2**-23),
        ("pcm_s32le", "s32", 1e-7),
        ("pcm_f32le", "flt", 0.0),
        ("pcm_f64le", "dbl", 0.0),
    ],
)
def test_every_sample_format_has_the_same_scale(tmp_path: Path, codec: str, sample_format: str, error: float) -> None:
    samples = tone(16_000, 0.2)
    path = mux(tmp_path / "a.wav", audio=codec, rate=16_000, samples=samples, sample_format=sample_format)
    read = read_audio(path)
    assert read.rate == 16_000
    assert read.samples.dtype == np.float32
    assert np.abs(read.samples - samples).max() <= error


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", range(1, 9))
def test_wav_returns_every_rate_and_channel(tmp_path: Path, rate: int, channels: int) -> None:
    samples = tone(rate, 0.05, channels)
    write_audio(tmp_path / "a.wav", Audio(samples, rate))
    read = read_audio(tmp_path / "a.wav")
    assert (read.rate, read.channels) == (rate, channels)
    assert np.abs(read.samples - samples).max() <= 0.5 / 32768
    info = probe(tmp_path / "a.wav")
    assert (info.kind, info.audio_rate, info.audio_channels) == ("audio", rate, channels)
    assert info.duration == pytest.approx(0.05, abs=1 / rate)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_flac_and_wav_hold_the_same_samples(tmp_path: Path, channels: int) -> None:
    audio = Audio(tone(44_100, 0.3, channels), 44_100)
    for name in ("a.wav", "a.flac"):
        write_audio(tmp_path / name, audio)
    assert np.array_equal(read_audio(tmp_path / "a.wav").samples, read_audio(tmp_path / "a.flac").samples)


def test_writing_what_was_read_changes_nothing_and_loud_samples_are_clipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loud = Audio(np.array([[0.5], [1.5], [-1.0], [-9.0], [1.0]], np.float32), 8_000)
    write_audio(tmp_path / "a.wav", loud)
    clipped = f"The sound of {tmp_path / 'a.wav'} reaches 9.0 times full scale, where it is clipped"
    assert [record.message.partition(".")[0] for record in caplog.records] == [clipped.partition(".")[0]]
    with VideoWriter(tmp_path / "a.mp4", fps=16, audio=loud) as writer:
        writer.write(numbered(0))
    assert f"{tmp_path / 'a.mp4'} reaches 9.0 times" in caplog.records.pop().message
    caplog.clear()
    once = read_audio(tmp_path / "a.wav")
    assert np.allclose(once.samples[:, 0], [0.5, 32767 / 32768, -1, -1, 32767 / 32768], atol=1e-7)
    write_audio(tmp_path / "b.wav", once)
    assert not caplog.records
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize(("rate", "wanted"), [(8_000, 16_000), (44_100, 16_000), (192_000, 16_000), (16_000, 48_000)])
def test_resampling_keeps_pitch_level_length_and_place(tmp_path: Path, rate: int, wanted: int) -> None:
    write_audio(tmp_path / "a.flac", Audio(tone(rate, 1.0), rate))
    read = read_audio(tmp_path / "a.flac", rate=wanted)
    assert read.rate == wanted
    assert len(read.samples) == wanted
    middle = slice(wanted // 10, -wanted // 10)
    assert np.abs(read.samples[middle] - tone(wanted, 1.0)[middle]).max() < 2e-4


@pytest.mark.parametrize("rate", [8_000, 11_025, 15_999, 16_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_voice_is_read_as_librosa_reads_it(tmp_path: Path, rate: int, channels: int) -> None:
    """Wan2.2 reads audio by `librosa.load(path, sr=16000)`: the mean, soxr at HQ, ceil(n · 16000 / rate) samples."""
    for length in (rate // 40, rate // 2, rate // 2 + 1, rate + 7):
        samples = np.random.default_rng(length).normal(0, 0.1, (length, channels)).astype(np.float32)
        soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
        mono, whole = samples.mean(axis=1), math.ceil(length * 16_000 / rate)
        wanted = mono if rate == 16_000 else soxr.resample(mono, rate, 16_000, quality="HQ")[:whole]
        found = read_audio(tmp_path / "a.wav", rate=16_000, mono=True).samples[:, 0]
        assert len(found) == whole
        assert np.abs(found - np.pad(wanted, (0, whole - len(wanted)))).max() <= 1e-6


@pytest.mark.parametrize(("rate", "own"), [(4_000, 8_000), (7_350, 8_000), (384_000, 192_000)])
def test_other_rates_are_resampled_to_the_nearest(tmp_path: Path, rate: int, own: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone(rate, 1.0), rate))
    assert probe(tmp_path / "a.wav").audio_rate == rate
    for wanted in (None, 16_000):
        read = read_audio(tmp_path / "a.wav", rate=wanted)
        assert read.rate == (wanted or own) and len(read.samples) == read.rate
        middle = slice(read.rate // 10, -read.rate // 10)
        assert np.abs(read.samples[middle] - tone(read.rate, 1.0)[middle]).max() < 2e-3


def test_many_channels_become_their_mean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `librosa.load` makes of them."""
    samples = np.random.default_rng(0).normal(0, 0.1, (8_000, 12)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert probe(tmp_path / "a.wav").audio_channels == 12
    for mono in (True, False):
        read = read_audio(tmp_path / "a.wav", mono=mono)
        assert np.allclose(read.samples, samples.mean(axis=1, keepdims=True), atol=1e-6)
    assert "a.wav has 12 channels, which are mixed into one" in caplog.text


def test_mono_is_the_mean_of_stereo(tmp_path: Path) -> None:
    samples = tone(16_000, 0.2, 2)
    mux(tmp_path / "a.wav", audio="pcm_f32le", rate=16_000, samples=samples)
    read = read_audio(tmp_path / "a.wav", mono=True)
    assert np.allclose(read.samples, samples.mean(axis=1, keepdims=True), atol=1e-7)


@pytest.mark.parametrize(("channels", "voice"), [(3, 2), (5, 2), (6, 2), (7, 2), (8, 2), (6, 0), (4, 1)])
@pytest.mark.parametrize("named", [True, False])
def test_a_voice_in_one_front_channel_of_surround_sound_keeps_its_level(
    tmp_path: Path, channels: int, voice: int, named: bool
) -> None:
    samples = np.zeros((16_000, channels), np.float32)
    samples[:, voice] = tone(16_000, 1.0)[:, 0]
    path = tmp_path / "a.wav"
    if named:
        write_audio(path, Audio(samples, 16_000))
    else:
        path.write_bytes(wav_bytes(samples))  # its header has no room for a layout
    mono = read_audio(path, mono=True).samples
    assert mono.shape[1] == 1
    # -3 dB of a sine of 0.5 on one side, all of it in the centre
    assert np.abs(mono).max() == pytest.approx(0.5 if voice == 2 else 0.5**1.5, abs=1e-3)


def test_the_low_frequency_channel_is_not_heard_in_mono(tmp_path: Path) -> None:
    samples = np.zeros((16_000, 6), np.float32)
    samples[:, 3] = tone(16_000, 1.0)[:, 0]
    write_audio(tmp_path / "a.wav", Audio(samples, 16_000))
    assert np.abs(read_audio(tmp_path / "a.wav", mono=True).samples).max() == 0


@pytest.mark.parametrize("rate", [None, 8_000])
def test_two_channels_that_cancel_each_other_give_the_louder_one(
    tmp_path: Path, rate: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    voice = tone(16_000, 1.0)
    write_audio(tmp_path / "a.wav", Audio(np.concatenate([voice, -0.9 * voice], axis=1), 16_000))
    mono = read_audio(tmp_path / "a.wav", mono=True, rate=rate).samples
    assert np.abs(mono).max() == pytest.approx(0.5, abs=5e-3)
    assert "inverted" in caplog.text and "only the left one" in caplog.text
    # the file itself keeps both
    assert read_audio(tmp_path / "a.wav").channels == 2
    caplog.clear()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 2)).astype(np.float32)
    for stereo in (np.zeros_like(noise), noise, np.concatenate([voice, 0 * voice], axis=1)):
        write_audio(tmp_path / "b.wav", Audio(stereo, 16_000))
        read = read_audio(tmp_path / "b.wav", mono=True).samples
        assert np.allclose(read, stereo.mean(axis=1, keepdims=True), atol=1 / 32768)
    assert not caplog.text


def test_a_part_is_the_same_samples_as_in_the_whole(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.flac", audio="flac", rate=22_050, samples=tone(22_050, 2.0, 2), sample_format="s16")
    whole = read_audio(path).samples
    assert np.array_equal(read_audio(path, start=0.5, duration=1.0).samples, whole[11_025 : 11_025 + 22_050])
    assert np.array_equal(read_audio(path, start=1.5).samples, whole[round(1.5 * 22_050) :])
    assert np.array_equal(read_audio(path, duration=99.0).samples, whole)


@pytest.mark.parametrize("suffix", SOUND)
def test_a_click_keeps_its_time_in_every_sound_container(tmp_path: Path, suffix: str) -> None:
    samples = clicks(48_000, 1.5, [0.25, 1.0])
    kind = "flt" if suffix in ("m4a", "mp3", "ogg") else "s16"
    path = mux(tmp_path / f"a.{suffix}", audio=SOUND[suffix], samples=samples, sample_format=kind)
    assert onsets(read_audio(path).samples, 48_000) == pytest.approx([0.25, 1.0], abs=0.002)


@pytest.mark.parametrize("suffix", VIDEO_AND_SOUND)
def test_a_click_keeps_its_time_in_every_video_container(tmp_path: Path, suffix: str) -> None:
    video, audio = VIDEO_AND_SOUND[suffix]
    samples = clicks(48_000, 1.5, [0.25, 1.0])
    path = mux(tmp_path / f"a.{suffix}", video=video, audio=audio, samples=samples, video_options={"bf": "0"})
    # MPEG-TS cannot say how long AAC's run-in is: 1024 samples
    late = 1024 / 48_000 if suffix == "ts" else 0.0
    found = onsets(read_audio(path).samples, 48_000)
    assert found == pytest.approx([0.25 + late, 1.0 + late], abs=0.003)


def test_an_mp4_returns_exactly_the_samples_that_went_in(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.m4a", audio="aac", rate=44_100, samples=clicks(44_100, 1.2345, [1.2345 - 0.004]))
    read = read_audio(path)
    assert len(read.samples) == round(1.2345 * 44_100)
    assert np.abs(read.samples[-20:]).max() > 0.5


def test_sound_that_begins_after_the_picture_gets_silence_in_front(tmp_path: Path) -> None:
    samples = clicks(48_000, 1.0, [0.25])
    path = mux(
        tmp_path / "a.mkv", video="libx264", audio="pcm_s16le", samples=samples, audio_start=0.5, sample_format="s16"
    )
    read = read_audio(path)
    assert onsets(read.samples, 48_000) == pytest.approx([0.75], abs=0.0015)
    assert read.seconds == pytest.approx(1.5, abs=0.0015)


@pytest.mark.parametrize("start", [-0.75, 0.0, 108_000.0])
def test_a_recording_begins_where_its_earliest_track_does(tmp_path: Path, start: float) -> None:
    """Sound that begins long before 0 is no encoder's priming, and a live recording may count from a clock's time."""
    path = mux(
        tmp_path / "a.mkv",
        video="libx264",
        audio="pcm_s16le",
        samples=clicks(48_000, 1.0, [0.25, 0.75]),
        audio_start=start,
        times=[round(start * 16) + k for k in range(16)],
        frames=[numbered(k) for k in range(16)],
        sample_format="s16",
        options={"avoid_negative_ts": "disabled"},
    )
    assert onsets(read_audio(path).samples, 48_000) == pytest.approx([0.25, 0.75], abs=0.0015)
    assert [number_in(frame) for frame in read_frames(path, fps=16)] == [*range(16)]
    info = probe(path)
    assert (info.frames, info.missing) == (16, "") and info.duration == pytest.approx(1.0, abs=0.07)


def test_of_several_tracks_the_one_that_players_play_is_heard(tmp_path: Path) -> None:
    """A film whose first track is another language, a recording whose first microphone was silent."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        tracks: list[Any] = [file.add_stream("pcm_s16le", rate=rate, layout="mono") for rate in (8_000, 16_000)]
        tracks[0].disposition, tracks[1].disposition = Disposition(0), Disposition.default
        for track, level in zip(tracks, (0, 10_000), strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, track.rate), level, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = track.rate, 0, Fraction(1, track.rate)
            file.mux(track.encode(frame))
    heard = read_audio(path)
    assert heard.rate == probe(path).audio_rate == 16_000
    assert heard.samples.min() == pytest.approx(10_000 / 32_768)


def test_a_hole_in_the_timestamps_becomes_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start in (0, 48_000):
            block = (clicks(16_000, 1.0, [0.25]) * 32767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            file.mux(stream.encode(frame))
    read = read_audio(path)
    assert onsets(read.samples, 16_000) == pytest.approx([0.25, 3.25], abs=0.0015)
    assert read.seconds == pytest.approx(4.0, abs=0.0015)


def test_metadata_travels_in_the_comment(tmp_path: Path) -> None:
    parameters = {"seed": "7", "prompt": "안녕 “x”"}
    for name in ("a.wav", "a.flac"):
        write_audio(tmp_path / name, Audio(tone(16_000, 0.1), 16_000), metadata=parameters)
        with av.open(str(tmp_path / name)) as file:
            tags = {key.lower(): value for key, value in file.metadata.items()}
        assert json.loads(tags["comment"]) == parameters


@pytest.mark.parametrize(
    ("samples", "rate", "said"),
    [
        (np.zeros((4, 1), np.float64), 16_000, "float64 [4, 1]"),
        (np.zeros(4, np.float32), 16_000, "float32 [4]"),
        (np.zeros((0, 1), np.float32), 16_000, "no samples"),
        (np.zeros((4, 9), np.float32), 16_000, "9 channels"),
        (np.zeros((4, 0), np.float32), 16_000, "0 channels"),
        (np.zeros((4, 1), np.float32), 4_000, "4000 Hz"),
        (np.zeros((4, 1), np.float32), 400_000, "400000 Hz"),
        (np.full((4, 1), np.nan, np.float32), 16_000, "not numbers"),
        (np.full((4, 1), -np.inf, np.float32), 16_000, "not numbers"),
    ],
)
def test_impossible_audio_is_refused(samples: np.ndarray, rate: int, said: str) -> None:
    with pytest.raises(MediaError, match=re.escape(said)):
        Audio(samples, rate)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_file_with_samples_that_are_no_numbers_is_refused(tmp_path: Path, bad: float) -> None:
    samples = tone(16_000, 0.5)
    samples[4_321] = bad
    path = mux(tmp_path / "a.wav", audio="pcm_f32le", rate=16_000, samples=samples)
    with pytest.raises(MediaError, match="not numbers"):
        read_audio(path)


def test_what_is_no_sound_is_refused_in_clear_words(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp4").write_text("This is a letter.\n" * 100)
    mux(tmp_path / "silent.mp4", video="libx264")
    with wave.open(str(tmp_path / "nothing.wav"), "wb") as nothing:
        nothing.setparams((1, 2, 16_000, 0, "NONE", ""))
    (tmp_path / "slow.wav").write_bytes(wav_bytes(tone(4_000, 0.5), rate=400))
    for name, said in {
        "missing.wav": "There is no file",
        ".": "is a folder",
        "empty.wav": "is empty",
        "text.mp4": "cannot be read",
        "silent.mp4": "has no sound",
        "nothing.wav": "no sound",
        "slow.wav": "400 Hz",
    }.items():
        with pytest.raises(MediaError, match=said):
            read_audio(tmp_path / name)


def test_what_is_asked_for_has_to_make_sense(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", Audio(tone(16_000, 1.0), 16_000))
    for options, said in (
        ({"start": 1.0}, "no sound after 1 s"),
        ({"start": -0.1}, "-0.1 s"),
        ({"start": float("nan")}, "nan s"),
        ({"duration": 0.0}, "0 s"),
        ({"duration": -1.0}, "-1.0 s"),
        ({"rate": 4_000}, "4000 Hz"),
    ):
        with pytest.raises(MediaError, match=said):
            read_audio(tmp_path / "a.wav", **options)


def test_limits_come_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.flac", Audio(tone(48_000, 4.0, 2), 48_000))
    monkeypatch.setenv("WANAVATAR_MAX_AUDIO_SECONDS", "2.5")
    with pytest.raises(MediaError, match=r"longer than 2\.5 s.*WANAVATAR_MAX_AUDIO_SECONDS"):
        read_audio(tmp_path / "a.flac")
    assert read_audio(tmp_path / "a.flac", start=1.0, duration=1.0).seconds == 1.0
    # what little is in the file unpacks to more than is allowed
    monkeypatch.setenv("WANAVATAR_MAX_AUDIO_SECONDS", "3600")
    write_audio(tmp_path / "b.flac", Audio(np.zeros((48_000 * 60, 8), np.float32), 48_000))
    monkeypatch.setenv("WANAVATAR_MAX_MEDIA_BYTES", "1000000")
    with pytest.raises(MediaError, match="when decoded"):
        read_audio(tmp_path / "b.flac")
    assert read_audio(tmp_path / "b.flac", duration=0.1).channels == 8
    monkeypatch.setenv("WANAVATAR_MAX_MEDIA_BYTES", "1000")
    with pytest.raises(MediaError, match="limit is 1,000"):
        read_audio(tmp_path / "b.flac")


def wav_bytes(samples: np.ndarray, rate: int = 16_000, stated: int | None = None) -> bytes:
    """A 16-bit WAV of samples `[T, C]` whose header states so many bytes of sound."""
    data = np.rint(samples * 32768).astype("<i2").tobytes()
    size, frame = len(data) if stated is None else stated, 2 * samples.shape[1]
    head = struct.pack("<IHHIIHH", 16, 1, samples.shape[1], rate, rate * frame, frame, 16)
    riff = struct.pack("<I", min(36 + size, 0xFFFFFFFF))
    return b"RIFF" + riff + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + data


# the last part of the file that may be gone without a loss that its container lets anyone notice
UNNOTICED = {"wav": 0.005, "flac": 0.005, "m4a": 0.0, "mp3": 0.0, "ogg": 1.0, "aiff": 0.005}


@pytest.mark.parametrize("suffix", SOUND)
def test_a_cut_file_is_read_as_far_as_it_goes_and_the_loss_is_said(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "flt" if suffix in ("m4a", "mp3", "ogg") else "s16"
    path = mux(tmp_path / f"a.{suffix}", audio=SOUND[suffix], sample_format=kind)
    data, whole = path.read_bytes(), read_audio(path)
    assert whole.missing == "" and not caplog.text
    cut, read_in_part = tmp_path / f"cut.{suffix}", 0
    for end in [*range(len(data) // 16, len(data), len(data) // 16), len(data) - 20, len(data) - 3]:
        cut.write_bytes(data[:end])
        caplog.clear()
        try:
            read = read_audio(cut)
        except MediaError as error:
            assert len(str(error)) > 20
            continue
        read_in_part += 1
        same = min(len(read.samples), len(whole.samples))
        # a lossy codec's last frame before the cut lacks the overlap with the next one
        assert np.abs(read.samples[:same] - whole.samples[:same])[: max(0, same - 2_400)].max(initial=0) < 1e-6
        assert len(read.samples) <= len(whole.samples)
        if whole.seconds - read.seconds > UNNOTICED[suffix]:
            said = re.match(r"(\d\.\d\d) s of 1\.5\d s can be read", read.missing)
            assert said is not None and float(said[1]) == pytest.approx(read.seconds, abs=0.03)
            assert f"cut.{suffix} is cut short or damaged: {read.missing}" in caplog.text
    # an M4A with its index at the end and an Ogg cut in its first page hold nothing that can be decoded
    assert read_in_part >= {"m4a": 2, "ogg": 4, "flac": 12}.get(suffix, 17)


@pytest.mark.parametrize("xing", ["1", "0"])
def test_of_an_mp3_whose_last_frame_is_incomplete_the_others_are_read(tmp_path: Path, xing: str) -> None:
    path = mux(tmp_path / "a.mp3", audio="libmp3lame", samples=tone(48_000, 2.0), options={"write_xing": xing})
    data, cut = path.read_bytes(), tmp_path / "cut.mp3"
    cut.write_bytes(data[:-20])
    read = read_audio(cut)
    # a frame is 24 ms; without the Xing header nothing states the encoder's priming and padding
    assert 0 < read_audio(path).seconds - read.seconds <= 0.0241
    assert re.fullmatch(r"(2\.0\d|1\.99) s of 2\.0\d s can be read; 1 damaged packet skipped.*", read.missing)
    cut.write_bytes(data + b"TAG" + bytes(125))  # a tag at the end is no loss
    assert (read_audio(cut).seconds, read_audio(cut).missing) == (read_audio(path).seconds, "")


def test_damage_in_the_middle_is_skipped_and_leaves_the_rest_in_its_place(tmp_path: Path) -> None:
    samples = clicks(48_000, 4.0, [0.25, 3.5])
    path = mux(tmp_path / "a.flac", audio="flac", samples=samples, sample_format="s16")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    (tmp_path / "b.flac").write_bytes(data)
    read = read_audio(tmp_path / "b.flac")
    assert read.seconds == 4.0
    assert onsets(read.samples, 48_000) == pytest.approx([0.25, 3.5], abs=0.002)


@pytest.mark.parametrize(("name", "seconds"), [("english_male", 5.690), ("chinese", 4.503)])
@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_recorder_that_left_its_length_open_is_read_to_the_end(
    tmp_path: Path, name: str, seconds: float, size: int
) -> None:
    data = bytearray((SAMPLES / f"{name}.wav").read_bytes())
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "open.wav").write_bytes(data)
    read = read_audio(tmp_path / "open.wav")
    assert read.seconds == pytest.approx(seconds, abs=5e-4)
    assert probe(tmp_path / "open.wav").duration == pytest.approx(seconds, abs=5e-4)
    assert np.array_equal(read.samples, read_audio(SAMPLES / f"{name}.wav").samples)
    assert read.missing == ""


@pytest.mark.parametrize("stated", [None, 0, 0xFFFFFFFF, 1_000], ids=["own", "zero", "open", "too few"])
def test_a_stream_with_a_header_in_every_piece_is_read_whole_and_without_clicks(
    tmp_path: Path, stated: int | None
) -> None:
    samples = tone(16_000, 9.0, 2)
    pieces = [wav_bytes(samples[place : place + 48_000], stated=stated) for place in range(0, len(samples), 48_000)]
    (tmp_path / "a.wav").write_bytes(b"".join(pieces))
    read = read_audio(tmp_path / "a.wav")
    assert np.abs(read.samples - samples).max() <= 0.5 / 32768
    assert probe(tmp_path / "a.wav").duration == 9.0
    assert read.missing == ""


def test_a_stream_whose_only_header_states_its_first_piece_is_read_whole(tmp_path: Path) -> None:
    samples = tone(16_000, 3.0)
    (tmp_path / "a.wav").write_bytes(wav_bytes(samples, stated=1_000))
    read = read_audio(tmp_path / "a.wav")
    assert np.abs(read.samples - samples).max() <= 0.5 / 32768
    assert probe(tmp_path / "a.wav").duration == 3.0


@pytest.mark.parametrize("stated", [0, 1, 4_000_000])
def test_a_wav_that_states_a_wrong_number_of_bytes_a_second_lacks_nothing(tmp_path: Path, stated: int) -> None:
    data = bytearray(wav_bytes(tone(16_000, 1.0)))
    data[28:32] = stated.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    read = read_audio(tmp_path / "a.wav")
    assert (read.seconds, read.missing) == (1.0, "") and probe(tmp_path / "a.wav").duration == 1.0


def test_what_follows_the_sound_of_a_wav_is_not_heard(tmp_path: Path) -> None:
    samples = tone(16_000, 1.0)
    for tail in (b"LIST\4\0\0\0INFO", b"TAG" + bytes(125), b"\0", b"id3 \x10\0\0\0" + bytes(16)):
        (tmp_path / "a.wav").write_bytes(wav_bytes(samples) + tail)
        read = read_audio(tmp_path / "a.wav")
        assert (read.seconds, read.missing) == (1.0, "")


def test_writing_refuses_other_kinds_and_missing_folders(tmp_path: Path) -> None:
    audio = Audio(tone(16_000, 0.1), 16_000)
    with pytest.raises(MediaError, match=r"\.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", audio)
    with pytest.raises(MediaError, match="does not exist"):
        write_audio(tmp_path / "none" / "a.wav", audio)
    assert list(tmp_path.iterdir()) == []

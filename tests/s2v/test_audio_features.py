"""Speech features: the reference's buckets, and long audio window by window."""

import gc
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from tests import toys
from tests.s2v.toy import GOLDEN, golden_tensors, relative_error
from wanavatar_lab import media
from wanavatar_lab.s2v.audio_features import SAMPLE_RATE, AudioFeatures, encode_audio, hidden_states

ROOT = Path(__file__).resolve().parents[2]
Encoder = tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor]


def features_of(length: int, layers: int = 2, dim: int = 3) -> torch.Tensor:
    return torch.randn(layers, length, dim, generator=torch.Generator().manual_seed(length))


def reference_buckets(features: torch.Tensor, fps: float, frames_per_segment: int) -> torch.Tensor:
    """[layers, dim, frames of all segments] as the reference computes them, with everything in memory."""
    total = int(features.shape[1] / 50 * 30)
    at_30 = F.interpolate(features.transpose(1, 2), size=total, mode="linear", align_corners=True)
    segments = int(total / (frames_per_segment * (30 / fps))) + 1
    buckets = torch.zeros(*at_30.shape[:2], segments * frames_per_segment)
    for frame in range(buckets.shape[2]):
        index = int(np.round(frame / fps * 30))
        if index < total:
            buckets[:, :, frame] = at_30[:, :, index]
    return buckets


def test_buckets_equal_the_reference_implementation() -> None:
    golden = golden_tensors("s2v_loop_a/pipeline.safetensors")
    features = AudioFeatures.from_tensor(golden["audio_features_50hz"])
    assert features.num_segments(16, 16) == 2
    found = torch.cat([features.bucket(segment, 16, 16) for segment in range(2)], dim=2)
    assert relative_error(found.permute(2, 0, 1), golden["audio_bucket"]) <= 1e-5


def test_features_of_a_file_equal_the_reference_implementation(tmp_path: Path) -> None:
    golden = golden_tensors("audio_a/io.safetensors")
    soundfile.write(tmp_path / "voice.wav", golden["waveform"].numpy(), SAMPLE_RATE, subtype="FLOAT")
    heard = media.read_audio(tmp_path / "voice.wav", rate=SAMPLE_RATE, mono=True).samples[:, 0]
    encoder = Wav2Vec2Model.from_pretrained(GOLDEN / "audio_a").eval()
    features = encode_audio(heard, encoder, Wav2Vec2FeatureExtractor.from_pretrained(GOLDEN / "audio_a"))
    for found, wanted in zip(features.read(0, features.length), golden["features_50hz"], strict=True):
        assert relative_error(found, wanted) <= 1e-5
    # at 30 frames a second every frame is one of the interpolated features
    assert relative_error(features.bucket(0, 30, 80)[..., :77].transpose(1, 2), golden["features_30hz"]) <= 1e-5
    assert features.num_segments(16, 16) == 3
    bucket = torch.cat([features.bucket(segment, 16, 16) for segment in range(3)], dim=2)
    assert relative_error(bucket.permute(2, 0, 1), golden["bucket"]) <= 1e-5


@given(st.integers(2, 700), st.sampled_from([16, 25, 30]), st.integers(1, 24).map(lambda n: 4 * n))
def test_buckets_of_any_length_equal_the_dense_formula(length: int, fps: int, frames_per_segment: int) -> None:
    features = features_of(length)
    wanted = reference_buckets(features, fps, frames_per_segment)
    lazy = AudioFeatures.from_tensor(features)
    count = lazy.num_segments(fps, frames_per_segment)
    buckets = [lazy.bucket(segment, fps, frames_per_segment) for segment in range(count)]
    assert {tuple(bucket.shape) for bucket in buckets} == {(2, 3, frames_per_segment)}
    assert relative_error(torch.cat(buckets, dim=2), wanted) <= 1e-5
    assert not lazy.bucket(count, fps, frames_per_segment).any()


def test_a_bucket_looks_only_at_its_own_time() -> None:
    features, seen = features_of(30_000), []

    def read(start: int, stop: int) -> torch.Tensor:
        seen.append((start, stop))
        return features[:, start:stop]

    lazy = AudioFeatures(30_000, read)
    lazy.bucket(100, 16, 80)
    # 80 frames at 16 fps are 5 seconds, from second 500 on
    ((start, stop),) = seen
    assert 24_990 <= start <= 25_000
    assert 25_240 <= stop <= 25_260


@given(st.integers(1, 3000), st.sampled_from([16, 25, 30]), st.integers(1, 24).map(lambda n: 4 * n))
def test_there_are_as_many_segments_as_the_reference_makes(length: int, fps: int, frames_per_segment: int) -> None:
    count = AudioFeatures(length, lambda start, stop: torch.zeros(1, stop - start, 1)).num_segments(
        fps, frames_per_segment
    )
    at_30 = int(length / 50 * 30)
    assert count == int(at_30 / (frames_per_segment * 30 / fps)) + 1
    # the segments hold all of the audio, and only the last may begin after its end
    assert count * frames_per_segment / fps > at_30 / 30
    assert (count - 1) * frames_per_segment / fps <= at_30 / 30


@given(st.integers(2, 500), st.data())
def test_a_part_is_what_lies_between_two_times(length: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, length - 1))
    last = data.draw(st.integers(first + 1, length))
    features = features_of(length)
    whole = AudioFeatures.from_tensor(features)
    part = whole[first:last]
    assert len(part) == last - first
    assert torch.equal(part.read(0, part.length), features[:, first:last])
    to_the_end = whole[first:]
    assert torch.equal(to_the_end.read(0, to_the_end.length), features[:, first:])
    assert len(whole[first : length + 50]) == length - first


@cache
def toy_encoder() -> Encoder:
    return toys.audio_encoder()


@cache
def trained_encoder() -> Encoder:
    folder = ROOT / "weights" / "pocket" / "audio_encoder"
    return Wav2Vec2Model.from_pretrained(folder).eval(), Wav2Vec2FeatureExtractor.from_pretrained(folder)


@cache
def speech(seconds: float) -> np.ndarray:
    """The samples that ship, four voices in turn, as often as it takes.

    Harder on windows than one voice: repeated every five seconds, its context holds all that the whole file does.
    """
    paths = sorted((ROOT / "data" / "samples").glob("*.wav"))
    spoken = np.concatenate([media.read_audio(path, rate=SAMPLE_RATE, mono=True).samples[:, 0] for path in paths])
    return np.resize(spoken, round(seconds * SAMPLE_RATE))


@cache
def whole_file(trained: bool) -> torch.Tensor:
    """Features of 70 s, encoded at once."""
    encoder = trained_encoder() if trained else toy_encoder()
    features = encode_audio(speech(70.0), *encoder, whole_seconds=math.inf)
    return features.read(0, features.length)


def window_error(trained: bool, context_seconds: float) -> float:
    encoder = trained_encoder() if trained else toy_encoder()
    windows = {"whole_seconds": 60.0, "window_seconds": 30.0, "context_seconds": context_seconds}
    features = encode_audio(speech(70.0), *encoder, **windows)
    found = features.read(0, features.length)
    assert torch.isfinite(found).all()
    return relative_error(found, whole_file(trained))


def test_short_audio_is_encoded_whole() -> None:
    encoder, processor = toy_encoder()
    samples = speech(2.0)
    features = encode_audio(samples, encoder, processor)
    inputs = processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
    with torch.no_grad():
        wanted = torch.cat(hidden_states(encoder, inputs))
    assert features.length == wanted.shape[1] == 99
    assert relative_error(features.read(0, 99), wanted) <= 1e-6
    tensor = encode_audio(torch.from_numpy(samples).double().requires_grad_(), encoder, processor)
    assert torch.equal(tensor.read(0, 99), features.read(0, 99))


@settings(max_examples=40)
@given(st.integers(400, 12_000))
def test_a_window_has_the_frames_of_the_whole(samples: int) -> None:
    audio = speech(70.0)[:samples]
    whole = encode_audio(audio, *toy_encoder())
    # windows of 0.1 s, so that every remainder comes up, with more context than the 8 frames that layer 0 looks around
    windows = encode_audio(audio, *toy_encoder(), whole_seconds=0.0, window_seconds=0.1, context_seconds=0.2)
    assert windows.length == whole.length
    found, wanted = windows.read(0, windows.length), whole.read(0, whole.length)
    assert found.shape == wanted.shape
    assert relative_error(found[0], wanted[0]) <= 1e-5


def test_windows_of_a_toy_encoder_are_close_to_the_whole() -> None:
    short, long = window_error(trained=False, context_seconds=0.0), window_error(trained=False, context_seconds=1.0)
    print(f"toy wav2vec2, windows against the whole file: {short:.2e} without context, {long:.2e} with 1 s")
    assert short <= 0.03
    assert long <= 1e-4


def test_windows_of_the_trained_encoder_are_close_to_the_whole() -> None:
    short, long = window_error(trained=True, context_seconds=0.5), window_error(trained=True, context_seconds=10.0)
    print(f"trained wav2vec2, windows against the whole file: {short:.2e} with 0.5 s of context, {long:.2e} with 10 s")
    assert long <= short <= 0.2
    assert long <= 0.075


def test_ten_minutes_are_heard_whole_and_of_more_the_log_says_how(caplog: pytest.LogCaptureFixture) -> None:
    encoder, processor = toy_encoder()

    def refuse(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        raise InterruptedError(f"{inputs[0].shape[1] / SAMPLE_RATE:g} s")

    with encoder.register_forward_pre_hook(refuse):
        with pytest.raises(InterruptedError, match=r"^600 s$"):
            encode_audio(speech(600.0), encoder, processor)
        assert caplog.text == ""
        features = encode_audio(speech(630.0), encoder, processor)
        assert "630.0 s of voice are heard in windows of 300 s with 150 s on either side" in caplog.text
        with pytest.raises(InterruptedError, match=r"^450.* s$"):
            features.bucket(0, 16, 80)


def test_where_memory_is_too_short_the_voice_is_heard_in_windows(caplog: pytest.LogCaptureFixture) -> None:
    encoder, processor = toy_encoder()

    def small_device(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[1] > 51 * SAMPLE_RATE:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with encoder.register_forward_pre_hook(small_device):
        features = encode_audio(speech(70.0), encoder, processor)
        found = features.read(0, features.length)
    assert "70.0 s of voice are heard in windows of 30 s with 10 s on either side, since memory is too" in caplog.text
    assert relative_error(found, whole_file(trained=False)) <= 1e-2

    def broken_device(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with encoder.register_forward_pre_hook(broken_device), pytest.raises(RuntimeError, match="illegal memory access"):
        encode_audio(speech(2.0), encoder, processor)


def window_tensors() -> list[torch.Tensor]:
    """All features of a window's size that are in memory."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) is torch.Tensor]
    return [tensor for tensor in tensors if tensor.ndim == 3 and tensor.shape[::2] == (3, 16) and tensor.shape[1] > 500]


def test_only_one_window_is_held() -> None:
    encoder, processor = toy_encoder()
    encoded: list[int] = []
    hook = encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape[1]))
    others = {id(tensor) for tensor in window_tensors()}
    windows = {"whole_seconds": 60.0, "window_seconds": 30.0, "context_seconds": 10.0}
    features = encode_audio(speech(600.0), encoder, processor, **windows)
    with hook:
        assert encoded == []
        for segment in range(features.num_segments(16, 80)):
            assert torch.isfinite(features.bucket(segment, 16, 80)).all()
            if segment in (29, 89):
                # 30 s at 50 Hz, of storage and not only of view
                sizes = [found.untyped_storage().nbytes() for found in window_tensors() if id(found) not in others]
                assert len(sizes) == 1 and sizes[0] <= 3 * 1500 * 16 * 4
    # read in order, each window is encoded once: 30 s and 10 s on either side
    assert len(encoded) == 20
    assert max(encoded) <= 50.1 * SAMPLE_RATE


def test_features_read_backwards_are_the_same() -> None:
    windows = {"whole_seconds": 60.0, "window_seconds": 30.0, "context_seconds": 10.0}
    features = encode_audio(speech(70.0), *toy_encoder(), **windows)
    onwards = [features.bucket(segment, 16, 80) for segment in range(14)]
    backwards = [features.bucket(segment, 16, 80) for segment in reversed(range(14))]
    for one, other in zip(onwards, reversed(backwards), strict=True):
        assert torch.equal(one, other)


def test_silence_gives_finite_features() -> None:
    features = encode_audio(np.zeros(SAMPLE_RATE), *toy_encoder())
    assert torch.isfinite(features.read(0, features.length)).all()


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((16_000, 2)), r"waveform is \(16000, 2\); need mono"),
        (np.zeros(399), "399 samples"),
        (np.zeros(0), "0 samples"),
        (np.array([0.0] * 998 + [np.nan, np.inf]), "2 samples that are NaN or infinite"),
    ],
)
def test_a_waveform_that_does_not_fit_is_refused(waveform: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_audio(waveform, *toy_encoder())


@pytest.mark.parametrize("shape", [(90, 16), (1, 25, 90, 16)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"audio_features is \(.*need \[layers, T, dim\]"):
        AudioFeatures.from_tensor(torch.zeros(shape))

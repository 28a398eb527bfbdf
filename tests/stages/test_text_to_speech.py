"""The stage text_to_speech from a text to a file: espeak-ng's voices as they ship, and a toy VoxCPM2."""

import importlib.util
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaTokenizerFast

from tests import toys
from tests.toy_voxcpm2 import CONFIG, PUBLISHED_CONFIG, write_tokenizer, write_voxcpm2
from wanavatar_lab import jobs, media
from wanavatar_lab.errors import LabError, RequestError, WeightsError
from wanavatar_lab.memory import Workload, activation_bytes
from wanavatar_lab.memory.components import PUBLISHED
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import TextToSpeech
from wanavatar_lab.requests.text_to_speech import VOICES
from wanavatar_lab.runs.made_with import read_settings
from wanavatar_lab.runs.run import Run
from wanavatar_lab.stages import text_to_speech
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.text_to_speech import END, finished
from wanavatar_lab.tools.loudness import loudness_of, measure_loudness
from wanavatar_lab.ui.file_field import earlier
from wanavatar_lab.weights import WEIGHTS

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
HELLO = {"en": "Hello, how are you?", "ko": "안녕하세요, 반갑습니다.", "zh": "你好，很高兴见到你。"}
PART = 0.16  # seconds that VoxCPM2 makes at a time
needs_voxcpm = pytest.mark.skipif(
    importlib.util.find_spec("voxcpm") is None, reason="the extra `voices` is not installed"
)


@pytest.fixture(autouse=True)
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")


def speak(**values: Any) -> tuple[media.Audio, Run]:
    run = jobs.run_here(TextToSpeech(**{"profile": "pocket", **values}))
    status = run.status()
    assert status.state == "succeeded", status.error
    (artifact,) = status.artifacts
    assert (artifact.kind, artifact.file) == ("audio", "voice.wav")
    return media.read_audio(run.path(artifact)), run


def said(audio: media.Audio) -> np.ndarray:
    """The samples without the silence at the end."""
    assert not audio.samples[-round(END * audio.rate) :].any()
    samples: np.ndarray = audio.samples[: -round(END * audio.rate), 0]
    return samples


def pitch(audio: media.Audio) -> float:
    """The fundamental frequency in Hz: the period at which most of the sound repeats, from 60 to 400 Hz."""
    samples = said(audio)
    size = 1 << (2 * len(samples)).bit_length()
    repeats = np.fft.irfft(np.abs(np.fft.rfft(samples, size)) ** 2)
    shortest, longest = audio.rate // 400, audio.rate // 60
    return float(audio.rate / (shortest + np.argmax(repeats[shortest:longest])))


@pytest.mark.parametrize("language", HELLO)
def test_a_text_becomes_a_voice_of_a_sane_level(language: str) -> None:
    audio, run = speak(text=HELLO[language], seed=3)
    assert (audio.rate, audio.channels) == (22_050, 1) and 1 < audio.seconds < 5
    loudness = measure_loudness(run.folder / "voice.wav")
    assert loudness.integrated == pytest.approx(-20, abs=0.1) and (loudness.true_peak or 0) <= -1
    facts = run.manifest()["facts"]
    assert (facts["language"], facts["sample_rate"]) == (language, 22_050)
    assert facts["engine"].startswith("espeak-ng 1.") and facts["seconds"] == pytest.approx(audio.seconds, abs=1e-3)
    made = read_settings(run.folder / "voice.wav").to_request()
    assert made == TextToSpeech(profile="pocket", text=HELLO[language], seed=3)
    assert any(HELLO[language] in label for label, _ in earlier(("audio",)))  # as a voice of speech to video


def test_the_same_text_and_seed_are_the_same_bytes_whatever_was_said_before() -> None:
    first, _ = speak(text=HELLO["en"], seed=1)
    speak(text=HELLO["ko"], seed=1)
    time.sleep(1.1)  # without a seed, espeak-ng takes the second of the day
    again, _ = speak(text=HELLO["en"], seed=1)
    other, _ = speak(text=HELLO["en"], seed=2)
    assert np.array_equal(first.samples, again.samples) and not np.array_equal(first.samples, other.samples)


def test_the_speakers_are_as_high_as_their_names_say() -> None:
    found = {name: pitch(speak(text="Mum may go home now.", voice=name)[0]) for name in VOICES}
    ordered = [found[name] for name in ("woman", "deep_woman", "man", "deep_man")]
    assert all(higher > 1.2 * lower for higher, lower in pairwise(ordered)) and ordered[0] < 240 and ordered[-1] > 60


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_rate_is_the_pace(language: str) -> None:
    seconds = {rate: len(said(speak(text=3 * HELLO[language], speaking_rate=rate)[0])) for rate in (0.625, 1.0, 2.0)}
    assert seconds[0.625] / seconds[1.0] == pytest.approx(1.6, rel=0.1)
    assert seconds[1.0] / seconds[2.0] == pytest.approx(2, rel=0.2)  # espeak-ng leaves out pauses as well


def test_markup_is_read_out_and_not_followed() -> None:
    plain, _ = speak(text="one two")
    marked, _ = speak(text='<break time="60s"/> one [[t,u:]] two')
    assert plain.seconds + 1 < marked.seconds < 20


def test_a_text_does_not_end_at_a_zero() -> None:
    whole, cut = (speak(text=text, seed=1)[0] for text in ("one two  three", "one two\0 three"))
    assert np.array_equal(whole.samples, cut.samples)


def test_what_espeak_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = json.loads((PROFILES["pocket"].weights("text_to_speech", "weights") / "voices.json").read_text())
    folder = tmp_path / "weights" / "pocket" / "text_to_speech"
    folder.mkdir(parents=True)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    table["languages"]["en"]["name"] = "xx"
    (folder / "voices.json").write_text(json.dumps(table))
    run = jobs.run_here(TextToSpeech(profile="pocket", text="Hello"))
    assert run.status().error == "espeak-ng could not speak: it has no voice 'xx+f2'"
    (folder / "voices.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"voices\.json is no table of voices.*git checkout"):
        text_to_speech.load(PROFILES["pocket"], "cpu")


def test_without_espeak_the_stage_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(LabError, match="uv pip install espeakng-loader"):
        text_to_speech.load(PROFILES["pocket"], "cpu")


def test_the_level_is_that_of_what_is_heard() -> None:
    rate, time = 16_000, np.arange(5 * 16_000) / 16_000
    tone = (0.01 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    voice = finished(np.concatenate([tone, 0 * tone]), rate).samples
    # a sine of 1 kHz in one channel whose peak is at -17 dBFS has -20 LUFS, whatever the pauses
    assert np.abs(voice).max() == pytest.approx(10 ** (-17 / 20), rel=0.03)
    assert voice.dtype == np.float32 and not voice[len(tone) :].any()
    word = finished(tone[:800], rate)  # of 0.05 s, less than the measurement takes
    assert word.seconds == 0.4 and loudness_of(word).integrated == pytest.approx(-20, abs=0.1)
    click = tone.copy()
    click[8_000] = 1
    assert np.abs(finished(click, rate).samples).max() == pytest.approx(10 ** (-1 / 20), rel=0.02)
    assert not finished(np.zeros(100, np.float32), rate).samples.any()


@given(st.text(max_size=60))
def test_every_text_has_a_language_and_letters(text: str) -> None:
    try:
        request = TextToSpeech(text=text)
    except RequestError:
        assert not any(character.isalnum() for character in text)
    else:
        assert request.spoken_language() in HELLO


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello", "en"),
        ("42", "en"),
        ("안녕하세요 John", "ko"),
        ("그는 서울(首尔)에 산다", "ko"),
        ("我用 Python", "zh"),
        ("Say 你 in one word of English", "en"),
    ],
)
def test_the_language_goes_by_the_letters(text: str, language: str) -> None:
    assert TextToSpeech(text=text).spoken_language() == language
    assert TextToSpeech(text=text, language="zh").spoken_language() == "zh"


def problems(**values: Any) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        TextToSpeech(**{"text": "Hello", **values}).check_inputs()
    return dict(caught.value.problems)


def test_a_voice_is_imitated_with_consent_and_from_enough_sound(tmp_path: Path) -> None:
    good = str(SAMPLES / "english_female.wav")
    assert problems(reference_recording=good) == {
        "consent": "is required with reference_recording: the person has to agree"
    }
    assert (
        "choose the profile full"
        in problems(reference_recording=good, consent=True, profile="pocket")["reference_recording"]
    )
    assert "choose the profile full" in problems(manner="cheerful", profile="pocket")["manner"]
    assert "give both" in problems(reference_text="Hello")["reference_recording"]
    both = {"reference_recording": good, "consent": True, "reference_text": "Hello"}
    assert "empty one" in problems(**both, manner="sad")["manner"]
    TextToSpeech(text="Hello", **both).check_inputs()
    for seconds, found in ((2.0, "2.0"), (15.5, "more than 15")):
        short = toys.voice(tmp_path / f"{seconds}.wav", seconds)
        said = problems(reference_recording=str(short), consent=True)["reference_recording"]
        assert said.endswith(f"has {found} s of sound; give 3 to 15 s of one person who speaks")
    (tmp_path / "text.wav").write_text("no sound")
    assert "reference_recording" in problems(reference_recording=str(tmp_path / "text.wav"), consent=True)


def test_without_the_extra_the_full_models_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "VoxCPM2").mkdir()
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(sys.modules, "voxcpm", None)
    with pytest.raises(LabError, match=r"the extra `voices`.*uv pip install -e '\.\[voices\]'.*pocket"):
        text_to_speech.load(PROFILES["full"], "cpu")


@pytest.fixture(scope="module")
def voxcpm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with a toy VoxCPM2 in the published layout."""
    folder = tmp_path_factory.mktemp("weights")
    write_voxcpm2(folder / "VoxCPM2")
    return folder


@needs_voxcpm
def test_the_full_model_speaks_and_imitates_a_recording(voxcpm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(voxcpm2))
    like = {"reference_recording": str(SAMPLES / "english_female.wav"), "consent": True}
    given: dict[str, Any] = {"profile": "full", "text": "Hello there", "num_inference_steps": 2, "seed": 3}
    plain, run = speak(**given)
    assert plain.rate == 48_000 and len(said(plain)) == round(4 * PART * 48_000)
    assert run.manifest()["facts"]["weights"].keys() == {"model.safetensors", "audiovae.pth"}
    again, _ = speak(**given)
    assert np.array_equal(plain.samples, again.samples)
    others = [
        speak(**given | changed)[0]
        for changed in (
            {"seed": 4},
            {"voice": "man"},
            {"manner": "cheerful"},
            like,
            {**like, "reference_text": "Hello! I am only a picture."},
        )
    ]
    everything = [plain, *others]
    for place, audio in enumerate(everything):
        assert not any(np.array_equal(audio.samples, other.samples) for other in everything[:place])
    fast, _ = speak(**given, speaking_rate=2.0)
    assert len(said(fast)) == pytest.approx(len(said(plain)) / 2, rel=0.05)


@needs_voxcpm
def test_a_voice_that_finds_no_end_is_stopped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voxcpm2(tmp_path / "VoxCPM2", ends=False, max_length=270)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    audio, run = speak(profile="full", text="Hi", num_inference_steps=1, seed=1)
    parts = round(len(said(audio)) / 48_000 / PART)
    assert 4 < parts < 30
    assert f"was stopped after {parts * PART:.0f} s" in (run.folder / "log.txt").read_text()


@needs_voxcpm
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voxcpm2(folder := tmp_path / "VoxCPM2")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))

    def refused() -> str:
        with pytest.raises(WeightsError) as caught:
            text_to_speech.load(PROFILES["full"], "cpu")
        assert "wanavatar-lab weights download VoxCPM2" in str(caught.value)
        return str(caught.value)

    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "stop_head.weight"}, folder / "model.safetensors"
    )
    assert "1 tensor missing: stop_head.weight" in refused()
    save_file({**tensors, "stop_head.weight": torch.zeros(2, 3)}, folder / "model.safetensors")
    assert "is not a checkpoint of VoxCPM2" in refused()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "lm_config": {}}))
    assert "is not a checkpoint of VoxCPM2" in refused()
    whole = (folder / "audiovae.pth").read_bytes()
    torch.save({"state_dict": {"decoder": print}}, folder / "audiovae.pth")
    assert "was refused" in refused()
    (folder / "audiovae.pth").write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    assert "lacks tokenizer.json" in refused()


@needs_voxcpm
def test_the_published_model_is_as_large_as_its_plan_says(tmp_path: Path) -> None:
    """Counted on the meta device with the published config, whose files have 577 tensors of 2 bytes, and 311 of 4."""
    from voxcpm.model.voxcpm2 import AudioVAEV2, VoxCPM2Model, VoxCPMConfig

    write_tokenizer(tmp_path)
    config = VoxCPMConfig.model_validate(PUBLISHED_CONFIG)
    with torch.device("meta"):
        vae = AudioVAEV2(config.audio_vae_config)
        model = VoxCPM2Model(config, LlamaTokenizerFast.from_pretrained(tmp_path), vae, device="cpu")
    own = {name: each.numel() for name, each in model.named_parameters() if not name.startswith("audio_vae.")}
    decoder = [each.numel() for each in vae.parameters()]
    speech, audio_vae = PUBLISHED["text_to_speech"]
    assert (len(own), len(decoder)) == (577, 311)
    assert (sum(own.values()), sum(decoder)) == (speech.parameters, audio_vae.parameters)
    assert (speech.gpu_bytes, audio_vae.gpu_bytes) == (2 * speech.parameters, 4 * audio_vae.parameters)
    assert (2 * max(own.values()), 4 * max(decoder)) == (speech.largest_layer, audio_vae.largest_layer)
    # the files have a header each, and the size of the download is theirs with the tokenizer's
    assert 0 < (speech.file_bytes or 0) - speech.gpu_bytes < 100_000
    assert 0 < (WEIGHTS["VoxCPM2"].size or 0) - (speech.file_bytes or 0) - (audio_vae.file_bytes or 0) < 4_000_000
    cache = 2 * config.max_length * (28 + 8) * 2 * 2 * 128  # bytes of keys and values
    assert cache < activation_bytes(Workload("text_to_speech", 0, 0), (speech, audio_vae))["speech_model"]


@needs_voxcpm
@pytest.mark.gpu
def test_the_full_model_leaves_the_gpu_and_comes_back(
    voxcpm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(voxcpm2))
    models = text_to_speech.load(PROFILES["full"], "cuda")
    request, context = TextToSpeech(text="Hello", num_inference_steps=2), StageContext(tmp_path, 1)
    before = torch.cuda.memory_allocated()
    first, rate, _ = models.speak(request, context)
    held = torch.cuda.memory_allocated() - before
    models.offload_to_host()  # type: ignore[attr-defined]
    assert rate == 48_000 and torch.cuda.memory_allocated() - before < 0.1 * held
    again, _, _ = models.speak(request, context)
    assert np.array_equal(first, again)

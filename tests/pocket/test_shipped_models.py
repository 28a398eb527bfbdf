"""The toy models that ship do what they are for: quick variants of the figures in weights/pocket/README.md.

Through the pipelines as users call them, at the profile's own steps and guidance, on avatars, prompts and voices that
were held out of training. The full figures come from the `evaluate` of each model. Of the clips, which take seconds
each, `make test` makes one of speech, and `make test-slow` the others.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import wanavatar_lab
from training.pocket.image_to_video import evaluate as moving
from training.pocket.judge.reading import Reader
from training.pocket.talking.figures import silence_figures
from training.pocket.talking.sources import Pipeline, reference_picture
from training.pocket.talking.spoken import Spoken, silence
from training.pocket.upscale import evaluate as enlarging
from training.pocket.upscale.pictures import Pictures
from training.pocket.world import palette
from training.pocket.world.pose import MOUTH
from wanavatar_lab import media, metrics
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.stages import image_to_video, speech_to_video
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.upscale import enlarge, read_network

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS, SAMPLES = ROOT / "weights", ROOT / "data" / "samples"
FRAMES = 80


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load()


@pytest.fixture(scope="module")
def talker() -> Pipeline:
    return Pipeline(WEIGHTS)


def spoken(name: str) -> Spoken:
    sound = media.read_audio(SAMPLES / f"{name}.wav", rate=16_000, mono=True).samples[:, 0]
    sound = np.pad(sound, (0, FRAMES * 1000))[: FRAMES * 1000].astype(np.float32)
    return Spoken(name, name, sound, sound, np.zeros((FRAMES, len(MOUTH)), np.float32))


@pytest.mark.parametrize("clips", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_lips_follow_this_voice_and_no_other_and_the_person_stays(clips: int, talker: Pipeline, reader: Reader) -> None:
    # nobody's mouth is known here, so it is held against the loudness alone
    voices = [spoken("english_female"), spoken("english_male")]
    found = []
    for number, (said, other) in enumerate(list(zip(voices, voices[::-1], strict=True))[:clips]):
        talking = talker.talk(said, number)
        start = talking.start_frame * 1000
        opening = reader.opening(talking.frames)
        found.append(metrics.lip_sync(opening, said.clean[start:], other=other.clean[start:]))
        person = metrics.likeness(talking.reference, talking.frames, reader, [])
        assert max(person.segments[0].values()) <= 10  # CIEDE2000
    assert np.mean([sync.r for sync in found]) >= 0.65
    assert all(abs(sync.lag) <= 1 for sync in found)
    assert np.mean([sync.r_other for sync in found if sync.r_other is not None]) <= 0.3


@pytest.mark.slow
def test_a_second_segment_joins_without_a_jump_and_shows_the_same_person(talker: Pipeline, reader: Reader) -> None:
    voices = [spoken(name).sound for name in ("english_female", "english_male")]
    sound = np.concatenate(voices)
    said = Spoken("two", "two", sound, sound, np.zeros((2 * FRAMES, len(MOUTH)), np.float32))
    talking = talker.talk(said, 3)
    borders = metrics.segment_borders(len(talking.frames), first=FRAMES - talking.start_frame)
    jumps = metrics.border_jumps(talking.frames, borders)
    # a blink there may double it; frames that have nothing to do with each other have ten times as much
    assert max(jumps.at_borders) <= 3 * jumps.median
    first, second = metrics.likeness(talking.reference, talking.frames, reader, borders).segments
    assert all(second[region] - first[region] <= 2 for region in first)  # CIEDE2000


@pytest.mark.slow
def test_who_has_nothing_to_say_keeps_the_mouth_shut(talker: Pipeline, reader: Reader) -> None:
    assert silence_figures(talker.talk(silence(FRAMES), 4), reader)["mean"] <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_the_mouth_stays_shut_in_a_pause(noise: float, talker: Pipeline, reader: Reader) -> None:
    """Two seconds of speech, three of digital silence or of noise at -60 dB, two of speech."""
    sound = voice_at_once("english_female")
    gap = (noise * np.random.default_rng(0).standard_normal(48_000)).astype(np.float32)
    sound = np.concatenate([sound[:32_000], gap, sound[32_000:64_000]])
    talking = talker.talk(Spoken("pause", "", sound, sound, np.zeros((112, len(MOUTH)), np.float32)), 0)
    opening = reader.opening(talking.frames)
    times = np.arange(len(opening)) + talking.start_frame
    # lips close a little after a sound and part a little before it
    pause = opening[(times >= 32 + 2) & (times < 80 - 2)]
    assert pause.mean() <= 0.2 * opening[(times < 32) | (times >= 80)].mean()


@pytest.mark.slow
def test_a_lead_in_lets_the_lips_follow_the_first_syllable(reader: Reader, tmp_path: Path) -> None:
    """r of opening and loudness in the first half second, through the stage, of voices that begin at once.

    Over the four voices of data/samples and three seeds each, the mean was 0.62 with a lead-in and 0.47 without.
    """
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    Image.fromarray(reference_picture(3)).save(tmp_path / "person.png")
    found: dict[bool, list[float]] = {True: [], False: []}
    for name, lead_in in itertools.product(("korean", "chinese"), found):
        sound = voice_at_once(name)[:32_000]
        media.write_audio(tmp_path / "voice.wav", media.Audio(sound[:, None], 16_000))
        request = SpeechToVideo(
            profile="pocket", image=str(tmp_path / "person.png"), audio=str(tmp_path / "voice.wav"), lead_in=lead_in
        )
        (clip,) = speech_to_video.run(request, models, StageContext(tmp_path, 3))
        frames = np.stack(list(itertools.islice(media.read_frames(tmp_path / clip.path), 8)))
        found[lead_in].append(metrics.correlation(reader.opening(frames), metrics.loudness(sound, frames=8)))
    assert np.mean(found[True]) >= np.mean(found[False]) + 0.1


def voice_at_once(name: str) -> NDArray[np.float32]:
    """A voice of data/samples at 16 kHz from its first sound on."""
    sound = media.read_audio(SAMPLES / f"{name}.wav", rate=16_000, mono=True).samples[:, 0]
    return sound[np.argmax(np.abs(sound) > 0.1 * np.abs(sound).max()) :]


@pytest.fixture(scope="module")
def mover() -> image_to_video.Models:
    stage, profile = "image_to_video", PROFILES["pocket"]
    return image_to_video.Models(
        profile.weights(stage, WEIGHTS), profile.shared_parts(stage, WEIGHTS), torch.float32, "cpu"
    )


@pytest.mark.slow
@pytest.mark.parametrize("movement", ["zoom in", "tilt right", "pan left"])
def test_what_a_prompt_names_moves(movement: str, mover: image_to_video.Models, reader: Reader, tmp_path: Path) -> None:
    asked = next(clip for clip in moving.asked_clips(1, 33) if clip.movement == movement)
    clip = moving.make(asked, mover, tmp_path, {})
    figures = moving.clip_figures(clip, asked, reader)
    assert figures["found"][movement] >= 1
    if movement == "tilt right":
        alone = moving.make(asked, mover, tmp_path / "alone", {}, "high_alone")
        assert moving.clip_figures(alone, asked, reader)["error"] > figures["error"]


@pytest.mark.slow  # the judge of test_text_to_image_figures.py reads colours too, among other words
def test_pictures_have_the_colours_that_prompts_name(reader: Reader) -> None:
    pipeline = wanavatar_lab.load("text_to_image", profile="pocket", device="cpu")
    pipeline.set_progress_bar_config(disable=True)
    wanted = [("blue", "green"), ("red", "purple"), ("black", "yellow"), ("pink", "teal"), ("grey", "red")]
    prompts = [f"a woman with long {hair} hair, {ground} background" for hair, ground in wanted]
    made = pipeline(
        prompt=prompts,
        height=128,
        width=128,
        num_inference_steps=4,
        guidance_scale=1.0,
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
    ).images
    right = []
    for picture, (hair, ground) in zip(made, wanted, strict=True):
        seen = metrics.region_colours(np.asarray(picture.convert("RGB"))[None], reader)
        right.append(nearest(seen["hair"].colour, palette.HAIR) == hair)
        right.append(nearest(seen["background"].colour, palette.BACKGROUND) == ground)
    assert np.mean(right) >= 0.8


def nearest(colour: NDArray[np.float64], names: dict[str, palette.Rgb]) -> str:
    """The named colour that is nearest to one in RGB, 0..1."""
    lab = metrics.srgb_to_lab(colour)
    away = {
        name: float(metrics.delta_e2000(lab, metrics.srgb_to_lab(np.divide(rgb, 255)))) for name, rgb in names.items()
    }
    return min(away, key=lambda name: away[name])


def test_enlarging_beats_bicubic(tmp_path: Path) -> None:
    network = read_network(WEIGHTS / "pocket" / "upscale" / "rrdbnet_x2.safetensors", "cpu")
    pictures = Pictures.draw(4, 128, 1, "held_out")
    gains = []
    for small, large in zip(enlarging.as_pictures(pictures.small), enlarging.as_pictures(pictures.large), strict=True):
        made = Image.fromarray(enlarge(np.asarray(small), network, 0, StageContext(tmp_path, 0)))
        plain = small.resize(large.size, Image.Resampling.BICUBIC)
        gains.append(enlarging.psnr(made, large) - enlarging.psnr(plain, large))
    assert np.mean(gains) >= 1

"""Speech for a drawn person: sound and the matching mouth track.

    python -m training.pocket.drawn_speech --out data/samples/said     # regenerate the bundled speech

There are four sources:

espeak   espeak-ng, an optional tool, speaks corpus sentences held out from training
corpus   held-out voices of the speech corpus (`training/pocket/speech`), which is built locally and not bundled
samples  the bundled samples; they have no phonemes, so the mouth is estimated from the sound
shipped  bundled sentences with their mouth tracks, the same on every machine
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from training.pocket.speech.augment import at_speed
from training.pocket.speech.clips import Corpus
from training.pocket.speech.mouth import relative_loudness, speech_mouth
from training.pocket.speech.sentences import sentences
from training.pocket.speech.synthesise import Synthesiser, joined
from training.pocket.speech.utterance import SpeechToolMissing
from training.pocket.speech.visemes import viseme_events
from training.pocket.speech.voices import Delivery, own_voices
from training.pocket.world.pose import MOUTH
from training.prepare.clip_folder import FPS, RATE
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import read_audio

Source = Literal["auto", "espeak", "corpus", "samples", "shipped"]
ROOT = Path(__file__).resolve().parents[2]
CORPUS, SAMPLES = ROOT / "data/pocket/speech", ROOT / "data/samples"
SAID, MOUTHS = SAMPLES / "said", "mouths.safetensors"
SHIPPED, SHIPPED_SECONDS = 15, 6.0  # bundled utterances of one voice, and the seconds of each
PACES = (1.0, 0.88, 1.14, 0.94, 1.07)
ENOUGH = 0.7  # of the requested time; silence fills the rest instead of a cut-off sentence
PAUSES = (0.15, 0.35)  # seconds between sentences (min, max)
_PER_FRAME = RATE // FPS


@dataclass(frozen=True, eq=False)
class Utterance:
    """Speech with its mouth track.

    Attributes:
        name: file name without suffix.
        sound: float32 [F · 1000] at 16 kHz.
        mouth: float32 [F, len(MOUTH)], mouth track at 16 fps.
    """

    name: str
    sound: NDArray[np.float32]
    mouth: NDArray[np.float32]

    @classmethod
    def of(cls, name: str, sound: NDArray[np.float32], mouth: NDArray[np.float32]) -> "Utterance":
        """Trim or zero-pad a sound of any length to the frames of `mouth`."""
        wanted = len(mouth) * _PER_FRAME
        return cls(name, np.pad(sound[:wanted], (0, max(0, wanted - len(sound)))), mouth)

    def lasting(self, seconds: float) -> "Utterance":
        """The same utterance, trimmed or padded with silence."""
        frames = round(seconds * FPS)
        missing = max(0, frames - len(self.mouth))
        return Utterance.of(self.name, self.sound, np.pad(self.mouth[:frames], ((0, missing), (0, 0))))


def utterances(count: int, seconds: float, *, seed: int = 0, source: Source = "auto") -> list[Utterance]:
    """`count` different utterances of one voice (of several with "samples"), each `seconds` long.

    `auto` takes the first source that is available, in the order espeak, corpus, samples.

    Raises:
        LabError: the source is not available.
    """
    makers: dict[str, Callable[[int, float, int], list[Utterance]]] = {
        "espeak": _by_espeak,
        "corpus": _from_corpus,
        "samples": _from_samples,
        "shipped": _shipped,
    }
    if source != "auto":
        return makers[source](count, seconds, seed)
    try:
        return _by_espeak(count, seconds, seed)
    except SpeechToolMissing:
        return (_from_corpus if CORPUS.exists() else _from_samples)(count, seconds, seed)


def guessed_mouth(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Estimate a mouth track [F, len(MOUTH)] from sound without phonemes.

    Louder speech opens the mouth wider; a high spectral centroid spreads the lips, a low one rounds them. The mouth is
    shut in silence, but bilabials (m, b, p) do not close it.
    """
    frames = len(sound) // _PER_FRAME
    loud = relative_loudness(sound, frames=frames)
    pieces = sound[: frames * _PER_FRAME].reshape(frames, _PER_FRAME) * np.hanning(_PER_FRAME).astype(np.float32)
    power = np.abs(np.fft.rfft(pieces, axis=1)) ** 2
    hertz = np.fft.rfftfreq(_PER_FRAME, 1 / RATE)
    centre = (power @ hertz) / np.maximum(power.sum(axis=1), 1e-12)
    said = np.minimum(1, 4 * loud)
    tracks = {
        "open": 0.95 * loud**0.7,
        "wide": said * np.clip((centre - 700) / 1500, -0.3, 1),
        "round": said * np.clip((700 - centre) / 500, 0, 1),
        "teeth": said * np.clip(centre / 2000, 0.2, 0.8),
    }
    return np.stack([tracks.get(name, np.zeros(frames)) for name in MOUTH], axis=1).astype(np.float32)


def ship(folder: Path) -> None:
    """Write the bundled speech: an Ogg file per utterance, and one safetensors file with all mouth tracks.

    Raises:
        SpeechToolMissing: espeak-ng is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = _by_espeak(SHIPPED, SHIPPED_SECONDS, seed=0)
    for each in said:
        soundfile.write(folder / f"{each.name}.ogg", each.sound, RATE, format="OGG", subtype="VORBIS")
    save_file({each.name: each.mouth.astype(np.float16) for each in said}, folder / MOUTHS)


def _shipped(count: int, seconds: float, seed: int) -> list[Utterance]:
    """The bundled speech; it is the same for every seed."""
    if count > SHIPPED:
        raise LabError(f"{SHIPPED} utterances ship, not {count}. Request fewer, or choose another speech source.")
    if not (SAID / MOUTHS).is_file():
        raise LabError(f"There is no speech in {SAID}. Restore it: `git checkout -- data/samples`.")
    mouths = sorted(load_file(SAID / MOUTHS).items())[:count]
    return [
        Utterance.of(
            name, read_audio(SAID / f"{name}.ogg", rate=RATE, mono=True).samples[:, 0], mouth.astype(np.float32)
        ).lasting(seconds)
        for name, mouth in mouths
    ]


def _by_espeak(count: int, seconds: float, seed: int) -> list[Utterance]:
    generator = random.Random(seed)
    # every sixth voice is held out from training
    voice = generator.choice(own_voices()[5::6])
    delivery = Delivery(rate=generator.randint(150, 180), range_=60)
    lines = sentences("en", "held_out")
    generator.shuffle(lines)
    made, place = [], 0
    with Synthesiser([voice]) as synthesiser:
        for number in range(count):
            parts, total = [], 0.0
            while total < seconds:
                parts.append(synthesiser.speak(lines[place % len(lines)], voice, "en", delivery))
                place += 1
                total += parts[-1].duration + PAUSES[0]
            said = joined(parts, generator, pauses=PAUSES)
            sound = said.samples * np.float32(0.7 / max(1e-6, float(np.abs(said.samples).max())))
            mouth = speech_mouth(viseme_events(said), relative_loudness(sound)).mouth.numpy()
            made.append(Utterance.of(f"said_{number:02d}", sound, mouth).lasting(seconds))
    return made


def _from_corpus(count: int, seconds: float, seed: int) -> list[Utterance]:
    corpus = Corpus(CORPUS)
    places = corpus.indices("held_out", kind="sentences")
    by_voice: dict[str, list[int]] = {}
    for i in places:
        by_voice.setdefault(corpus.clips[i].voice, []).append(i)
    # the voice with the most sentences; its sentences repeat after the last one
    order = max(by_voice.values(), key=len)
    random.Random(seed).shuffle(order)
    said = [(corpus.samples(i), corpus.mouth(i)) for i in order]
    return _joined(said, count, seconds)


def _from_samples(count: int, seconds: float, seed: int) -> list[Utterance]:
    paths = sorted(SAMPLES.glob("*.wav"))
    if not paths:
        raise LabError(f"There are no samples in {SAMPLES}. Restore them: `git checkout -- data/samples`.")
    random.Random(seed).shuffle(paths)
    read = [torch.from_numpy(read_audio(path, rate=RATE, mono=True).samples[:, 0]) for path in paths]
    # There are only four samples: reuse each at other speeds, which also shifts the pitch like another voice.
    sounds = [at_speed(sound[None], pace)[0].numpy() for pace in PACES for sound in read]
    return _joined([(sound, guessed_mouth(sound)) for sound in sounds], count, seconds)


def _joined(
    said: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], count: int, seconds: float
) -> list[Utterance]:
    """Concatenate the sounds and mouth tracks in order into `count` utterances, cycling through them."""
    wanted, place = round(seconds * FPS), 0
    made = []
    for number in range(count):
        sounds: list[NDArray[np.float32]] = []
        mouths: list[NDArray[np.float32]] = []
        while sum(map(len, mouths)) < ENOUGH * wanted:
            sound, mouth = said[place % len(said)]
            whole = Utterance.of("", sound, mouth)
            sounds.append(whole.sound)
            mouths.append(whole.mouth)
            place += 1
        joined_ = Utterance.of(f"said_{number:02d}", np.concatenate(sounds), np.concatenate(mouths))
        made.append(joined_.lasting(seconds))
    return made


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket.drawn_speech", description=ship.__doc__)
    parser.add_argument("--out", type=Path, default=SAID, help="output folder for the bundled speech")
    ship(parser.parse_args(words).out)


if __name__ == "__main__":
    main()

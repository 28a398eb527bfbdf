"""flite: English voices built from recordings of people, with the time of every phoneme.

`awb`, `rms` and `slt` are statistical models of three speakers, `kal16` concatenates recordings of a fourth. They
differ from espeak-ng in sound and timing, so they show, in training and held out, whether lips follow speech or one
synthesiser. Their licence permits any use (Carnegie Mellon University, 1999-2016).
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.pocket.speech.utterance import Phoneme, SpeechToolMissing
from training.pocket.speech.voices import Delivery, Voice

# flite's ARPABET symbols in IPA.
_IPA = dict(
    pair.split("=")
    for pair in (
        "aa=ɑ ae=æ ah=ʌ ao=ɔ aw=aʊ ax=ə axr=ɚ ay=aɪ b=b ch=tʃ d=d dh=ð dx=ɾ eh=ɛ er=ɝ ey=eɪ f=f g=ɡ hh=h hv=h ih=ɪ "
        "iy=i jh=dʒ k=k l=l m=m n=n ng=ŋ ow=oʊ oy=ɔɪ p=p r=ɹ s=s sh=ʃ t=t th=θ uh=ʊ uw=u v=v w=w y=j z=z zh=ʒ "
        "pau= ssil="
    ).split()
)
_NORMAL_RATE = 175


def speak(text: str, voice: Voice, delivery: Delivery) -> tuple[NDArray[np.int16], int, list[Phoneme]]:
    """Speak English `text`: samples int16 [T], their rate in Hz, and the phonemes (IPA) with their times in seconds.

    Raises:
        SpeechToolMissing: flite is not installed, or exits with an error.
    """
    program = shutil.which("flite")
    if program is None:
        raise SpeechToolMissing("flite", "there is no program of that name on PATH")
    # flite's models degrade when their pitch is shifted as far as espeak-ng's can be
    shift = 2 ** ((delivery.pitch - 50) / 50 * 0.35)
    with tempfile.TemporaryDirectory(prefix="flite-") as folder:
        path = Path(folder) / "speech.wav"
        command = [program, "-voice", voice.name, "-psdur", "-o", str(path)]
        command += ["--setf", f"duration_stretch={_NORMAL_RATE / delivery.rate:.3f}"]
        command += ["--setf", f"f0_shift={shift:.3f}", "-t", text]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not path.exists():
            raise SpeechToolMissing("flite", f"it exited with code {done.returncode}: {done.stderr.strip()!r}")
        samples, rate = soundfile.read(path, dtype="int16")
    phonemes: list[Phoneme] = []
    start = 0.0
    for entry in done.stdout.split():
        symbol, _, end = entry.rpartition(":")
        phonemes.append(Phoneme(_IPA[symbol], start, float(end)))
        start = float(end)
    return samples, int(rate), phonemes

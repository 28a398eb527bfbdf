"""espeak-ng through its C library: sound, and the start of every phoneme in it.

The library reports the sample at which each phoneme begins (`sample` of `espeak_EVENT`), so the times are exact; the
command-line program does not report them. The library keeps state in the process, and a clip differs by a few samples
after other clips: for identical bytes, speak the same texts in the same order in a fresh process.

Reference: speak_lib.h of espeak-ng 1.51.
"""

import ctypes
import ctypes.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.pocket.speech.phonemes import VISEME_OF, VOWELS
from training.pocket.speech.utterance import Phoneme, SpeechToolMissing
from training.pocket.speech.voices import Delivery, Voice

# espeak-ng's names of languages with several accents, or with another name there.
ACCENTS = {"en": ("en-us", "en", "en-us", "en-gb-x-rp", "en-gb-scotland"), "zh": ("cmn-latn-pinyin",)}

_SYNCHRONOUS = 2
_PHONEME_EVENTS, _AS_IPA, _DO_NOT_EXIT = 0x1, 0x2, 0x8000
_PHONEME = 7
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_VOWEL_LETTERS = frozenset(letter for letter, viseme in VISEME_OF.items() if viseme in VOWELS) - {"j", "w"}
_NASALS_AND_LIQUIDS = frozenset("mnɲŋɱɳlɫɭʎɹɻrɾɽʁ")
_VOWEL_TRANSITION = 0.03  # seconds by which espeak-ng marks a vowel late after a nasal or a liquid


class Espeak:
    """An open espeak-ng library; a context manager, one per process at a time.

    Args:
        voices: the voices that will speak; those with a `definition` are installed as espeak-ng variants.

    Raises:
        SpeechToolMissing: the library is not installed.
    """

    def __init__(self, voices: Sequence[Voice]) -> None:
        self._library = _load()
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-ng-")
        self.rate = self._initialize(None)
        _mirror_data(self._data_folder(), Path(self._folder.name), voices)
        self._initialize(self._folder.name)
        self._blocks: list[NDArray[np.int16]] = []
        self._marks: list[tuple[int, str]] = []
        self._callback = _Callback(self._collect)  # keep a reference, since the C library holds none
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> "Espeak":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def speak(
        self, text: str, voice: Voice, accent: str, delivery: Delivery
    ) -> tuple[NDArray[np.int16], list[Phoneme]]:
        """Speak `text`: samples int16 [T] at `self.rate` Hz, and the phonemes (IPA) with their times in seconds.

        Raises:
            ValueError: espeak-ng has no such voice in this accent, or produced no sound.
        """
        name = f"{accent}+{voice.name}"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}; `espeak-ng --voices` lists the available ones.")
        for parameter, value in ((_RATE, delivery.rate), (_PITCH, delivery.pitch), (_RANGE, delivery.range_)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        self._marks.clear()
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        if not self._blocks or not self._marks:
            raise ValueError(f"espeak-ng produced no sound for {text!r} with the voice {name!r}.")
        samples = np.concatenate(self._blocks)
        return samples, _phonemes(self._marks, self.rate, len(samples) / self.rate)

    def _initialize(self, folder: str | None) -> int:
        path = folder.encode() if folder else None
        rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, _PHONEME_EVENTS | _AS_IPA | _DO_NOT_EXIT)
        if rate <= 0:
            raise SpeechToolMissing("espeak-ng", f"its data cannot be read from {folder or 'the usual place'}")
        return rate

    def _data_folder(self) -> Path:
        path = ctypes.c_char_p()
        self._library.espeak_Info(ctypes.byref(path))
        return Path((path.value or b"").decode())

    def _collect(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._blocks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while events[i].type != 0:
            if events[i].type == _PHONEME:
                # names have at most eight bytes, which may cut a multi-byte letter
                self._marks.append((events[i].sample, events[i].id.string.decode("utf-8", errors="ignore")))
            i += 1
        return 0


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _phonemes(marks: Sequence[tuple[int, str]], rate: int, duration: float) -> list[Phoneme]:
    symbols = [symbol for _, symbol in marks]
    starts = [sample / rate for sample, _ in marks]
    for i in range(1, len(starts)):
        # after a nasal or a liquid, espeak-ng marks a vowel at the end of the transition into it, not at its start
        if symbols[i][:1] in _VOWEL_LETTERS and symbols[i - 1][-1:] in _NASALS_AND_LIQUIDS:
            starts[i] -= min(_VOWEL_TRANSITION, 0.3 * (starts[i] - starts[i - 1]))
    ends = [*starts[1:], duration]
    return [Phoneme(*each) for each in zip(symbols, starts, ends, strict=True) if each[2] > each[1]]


def _load() -> ctypes.CDLL:
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise SpeechToolMissing("espeak-ng", f"the library {name} cannot be loaded") from error


def _mirror_data(data: Path, folder: Path, voices: Sequence[Voice]) -> None:
    """Mirror espeak-ng's data in `folder` by symlinks, with these voices as its variants."""
    root = folder / "espeak-ng-data"
    variants = root / "voices" / "!v"
    variants.mkdir(parents=True)
    for source, target in ((data, root), (data / "voices", root / "voices")):
        for entry in source.iterdir():
            if entry.name not in {"voices", "!v"}:
                (target / entry.name).symlink_to(entry)
    for voice in voices:
        if voice.engine != "espeak":
            continue
        if voice.definition:
            (variants / voice.name).write_text(voice.definition, encoding="utf-8")
        elif (data / "voices" / "!v" / voice.name).exists():
            (variants / voice.name).symlink_to(data / "voices" / "!v" / voice.name)
        else:
            raise ValueError(f"This espeak-ng has no variant {voice.name!r}; use release 1.51 or later.")

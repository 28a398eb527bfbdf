"""espeak-ng speaks one text, in a process of its own.

    echo '{"text": "Hello", "voice": "en-us+f2", "rate": 160, "pitch": 50, "seed": 1}' | python espeak_process.py

Answers on standard output: a line of JSON with the rate in Hz and espeak-ng's version, and then the samples, int16,
mono. The library keeps state, by which a text differs by some samples after another one: in a fresh process the same
text and seed give the same bytes. It is under the GPL, and this file, which nothing imports, is all that loads it:
docs/voices.md.

Reference: speak_lib.h of espeak-ng 1.52.
"""

import ctypes
import json
import sys
from typing import Any

import espeakng_loader

_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH = 1, 3  # of espeak_PARAMETER

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def speak(text: str, voice: str, rate: int, pitch: int, seed: int) -> tuple[bytes, int, str]:
    """Samples of a text, their rate in Hz, and the library's version.

    Args:
        text: what is said, as it is: neither SSML nor phonemes are read out of it.
        voice: language and variant, such as en-us+f2.
        rate: words per minute, 80 to 450; more is reached by a second step of the library.
        pitch: 0 to 99, 50 is the voice's own.
        seed: of the noise in breath and consonants.

    Raises:
        OSError: the library cannot be loaded.
        ValueError: its data cannot be read, it has no such voice, or it made no sound.
    """
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Info.restype = ctypes.c_char_p
    # the folder is said, since the library has been built elsewhere
    hertz = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _DO_NOT_EXIT)
    if hertz <= 0:
        raise ValueError(f"its data cannot be read from {espeakng_loader.get_data_path()}")
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"it has no voice {voice!r}")
    for parameter, value in ((_RATE, rate), (_PITCH, pitch)):
        library.espeak_SetParameter(parameter, value, 0)
    # by itself it takes the time of day
    library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
    blocks: list[bytes] = []

    @_Callback
    def collect(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            blocks.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(collect)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
    if not blocks:
        raise ValueError(f"it has no sound for {text!r}")
    return b"".join(blocks), int(hertz), library.espeak_Info(None).decode()


if __name__ == "__main__":
    samples, hertz, version = speak(**json.load(sys.stdin))
    sys.stdout.buffer.write(json.dumps({"rate": hertz, "version": version}).encode() + b"\n" + samples)

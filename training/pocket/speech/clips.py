"""The speech corpus file: reading and writing.

It is one safetensors file. Each clip's sound is an Ogg Vorbis stream at about 28 kb/s, 13 MB an hour (int16: 115 MB,
FLAC: 57 MB), since the corpus is copied to the training machine. Decoding keeps the timing to the sample, and the
loudness per frame agrees with the original at r = 0.999. Opus at that rate is no smaller and encodes five times slower.
The file also holds viseme events and, ready for training, mouth tracks and loudness at 16 fps.
"""

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from training.pocket.speech.ogg import with_serial
from training.pocket.speech.sentences import Split
from training.pocket.speech.utterance import RATE
from training.pocket.world.pose import MOUTH
from training.pocket.world.visemes import FPS, NAMES, Sound
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import whole_file

SAMPLES_PER_FRAME = RATE // FPS
_FORMAT = "wanavatar-lab pocket speech 1"
# libsndfile's compression level 0..1; higher means lower Vorbis quality, 0.9 gives about 28 kb/s
_COMPRESSION = 0.9


@dataclass(frozen=True)
class Clip:
    """Metadata of a clip: text, voice and delivery; `frames` video frames at 16 fps, `frames * 1000` samples."""

    split: Split
    kind: str
    language: str
    voice: str
    engine: str
    rate: int
    pitch: int
    text: str
    frames: int


@dataclass(frozen=True)
class Recorded:
    """A clip to be written, with its sound (float32 [frames * 1000]) and its tracks."""

    clip: Clip
    samples: NDArray[np.float32]
    events: Sequence[Sound]
    mouth: NDArray[np.float32]
    visemes: NDArray[np.int64]
    loudness: NDArray[np.float64]


class Corpus:
    """A corpus built by `corpus.py`; sound is decoded on first use and cached.

    Attributes:
        clips: every clip, train and held out.
    """

    def __init__(self, path: Path | str) -> None:
        """Open a corpus.

        Raises:
            LabError: there is no corpus at `path`, or the file is damaged or of another format.
        """
        file = Path(path)
        file = file / "speech.safetensors" if file.is_dir() else file
        if not file.exists():
            raise LabError(
                f"There is no speech corpus at {file}. Build it: "
                f"`python -m training.pocket.speech.corpus --out {file.parent}`."
            )
        try:
            with safe_open(file, framework="np") as stored:
                header = json.loads((stored.metadata() or {}).get("corpus", "{}"))
                if header.get("format") != _FORMAT:
                    raise LabError(f"{file} is not a speech corpus of this release; build it again.")
                self._tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise LabError(f"{file} is damaged ({error}); build the speech corpus again.") from error
        self.clips = [Clip(**each) for each in header["clips"]]
        self._decoded: dict[int, NDArray[np.float32]] = {}
        self._first_frame = np.concatenate([[0], np.cumsum([clip.frames for clip in self.clips])])

    def indices(self, split: Split, *, kind: str | None = None) -> list[int]:
        """Indices into `clips` of one split, optionally of one kind."""
        return [i for i, clip in enumerate(self.clips) if clip.split == split and kind in (None, clip.kind)]

    def seconds(self, split: Split) -> float:
        """Total duration of one split in seconds."""
        return sum(self.clips[i].frames for i in self.indices(split)) / FPS

    def samples(self, index: int) -> NDArray[np.float32]:
        """The sound of a clip, [frames * 1000] at 16 kHz."""
        if index not in self._decoded:
            start, end = self._tensors["audio_ends"][[index, index + 1]]
            sound, _ = soundfile.read(io.BytesIO(self._tensors["audio"][start:end].tobytes()), dtype="float32")
            wanted = self.clips[index].frames * SAMPLES_PER_FRAME
            self._decoded[index] = np.pad(sound[:wanted], (0, max(0, wanted - len(sound))))
        return self._decoded[index]

    def preload(self, split: Split, *, threads: int = 4) -> None:
        """Decode all sound of one split now (an hour takes a few seconds and 230 MB)."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self.samples, self.indices(split)))

    def mouth(self, index: int) -> NDArray[np.float32]:
        """The mouth of a clip, [frames, len(MOUTH)], in the order of `world.pose.MOUTH`."""
        return self._framed("mouth", index).astype(np.float32)

    def visemes(self, index: int) -> NDArray[np.int64]:
        """The dominant viseme of each frame, [frames], as indices into `world.visemes.NAMES`."""
        return self._framed("visemes", index).astype(np.int64)

    def loudness(self, index: int) -> NDArray[np.float32]:
        """The loudness of the clean sound per frame, [frames]; see `metrics.loudness`."""
        return self._framed("loudness", index).astype(np.float32)

    def events(self, index: int) -> list[Sound]:
        """The viseme events of a clip, times in seconds from its start."""
        first, last = self._tensors["event_ends"][[index, index + 1]]
        rows = zip(*(self._tensors[f"event_{name}"][first:last].tolist() for name in _EVENT), strict=True)
        return [Sound(start, end, NAMES[viseme], loud) for start, end, viseme, loud in rows]

    def window(self, index: int, first: int, frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`frames` frames starting at frame `first`: sound [frames * 1000] and mouth [frames, len(MOUTH)].

        Beyond the end of the clip, padded with silence and a mouth at rest.

        Raises:
            ValueError: the window starts outside the clip.
        """
        clip = self.clips[index]
        if not 0 <= first < clip.frames:
            raise ValueError(f"The window starts at frame {first}; the clip has frames 0 to {clip.frames - 1}.")
        sound = self.samples(index)[first * SAMPLES_PER_FRAME : (first + frames) * SAMPLES_PER_FRAME]
        mouth = self.mouth(index)[first : first + frames]
        missing = frames - len(mouth)
        return np.pad(sound, (0, missing * SAMPLES_PER_FRAME)), np.pad(mouth, ((0, missing), (0, 0)))

    def _framed(self, name: str, index: int) -> NDArray[Any]:
        return np.asarray(self._tensors[name][self._first_frame[index] : self._first_frame[index + 1]])


def write_corpus(path: Path, recorded: Sequence[Recorded], *, threads: int = 4) -> None:
    """Write a corpus file atomically.

    Raises:
        ValueError: the length of a clip's sound or tracks does not match its frames.
    """
    for each in recorded:
        lengths = len(each.samples) / SAMPLES_PER_FRAME, len(each.mouth), len(each.visemes), len(each.loudness)
        if any(length != each.clip.frames for length in lengths):
            raise ValueError(f"A clip of {each.clip.frames} frames has sound and tracks of {lengths} frames.")
    with ThreadPoolExecutor(threads) as pool:
        streams = list(pool.map(lambda each: _encoded(*each), enumerate(recorded)))
    events = [event for each in recorded for event in each.events]
    tensors: dict[str, NDArray[Any]] = {
        "audio": np.frombuffer(b"".join(streams), dtype=np.uint8),
        "audio_ends": np.cumsum([0, *map(len, streams)]),
        "event_ends": np.cumsum([0, *(len(each.events) for each in recorded)]),
        "event_start": np.array([event.start for event in events], dtype=np.float32),
        "event_end": np.array([event.end for event in events], dtype=np.float32),
        "event_viseme": np.array([NAMES.index(event.viseme) for event in events], dtype=np.uint8),
        "event_loudness": np.array([event.loudness for event in events], dtype=np.float32),
        "mouth": np.concatenate([each.mouth for each in recorded]).astype(np.float16),
        "visemes": np.concatenate([each.visemes for each in recorded]).astype(np.uint8),
        "loudness": np.concatenate([each.loudness for each in recorded]).astype(np.float16),
    }
    # one metadata entry: safetensors writes several in an order that varies between processes
    header = {"format": _FORMAT, "mouth": MOUTH, "clips": [asdict(each.clip) for each in recorded]}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"corpus": json.dumps(header, ensure_ascii=False)})


_EVENT = ("start", "end", "viseme", "loudness")


def _encoded(index: int, each: Recorded) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, each.samples, RATE, format="OGG", subtype="VORBIS", compression_level=_COMPRESSION)
    return with_serial(buffer.getvalue(), index)

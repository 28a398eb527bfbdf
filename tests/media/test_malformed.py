"""Media files damaged in every way: none crashes the process, none keeps it for more than five seconds.

A child process reads the files one after another; a crash or a file that takes too long ends it and is a failure
that names the file. Every file has to end in valid media or in `MediaError`.
"""

import json
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.media.samples import mux, numbered, tone

SECONDS_PER_FILE = 5.0
FILES_PER_SEED = 24
HEADERS = (
    *(
        b"RIFF\xff\xff\xff\x7fWAVEfmt ",
        b"RIFF\x10\0\0\0AVI LIST",
        b"\0\0\0\x18ftypmp42",
        b"\0\0\0\x08moov",
        b"OggS\0\2",
    ),
    *(b"\x1a\x45\xdf\xa3", b"fLaC\0\0\0\x22", b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"\xff\xfb\x90\x64", b"\xff\xf1\x50\x80"),
    *(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0\0\x10JFIF", b"GIF89a", b"RIFF\x24\0\0\0WEBPVP8 ", b"BM"),
    *(
        b"II*\0",
        b"OggS\0\2",
        b"FORM\0\0\0\x20AIFFCOMM",
        b"G" * 4,
        b"FLV\1\5",
        b"\x30\x26\xb2\x75",
        b"caff\0\1\0\0",
        b"#!AMR\n",
        b"",
    ),
)


CHILD = """
import json, resource, sys
import numpy as np
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import probe, read_audio, read_frames, read_picture

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

def look(path):
    info = probe(path)
    assert info.kind in ("picture", "video", "audio")
    assert info.kind == "picture" or info.duration > 0
    assert info.kind == "audio" or (info.width > 0 and info.height > 0)

def hear(path):
    audio = read_audio(path, rate=16_000, mono=True)
    assert audio.samples.shape == (len(audio.samples), 1) and np.isfinite(audio.samples).all()

def watch(path):
    shapes = {frame.shape for frame in read_frames(path)}
    assert len(shapes) == 1

def sample(path):
    for frame in read_frames(path, fps=16, start=0.3):
        assert frame.dtype == np.uint8 and frame.ndim == 3

def see(path):
    image = read_picture(path)
    assert image.mode == "RGB" and min(image.size) > 0

for line in sys.stdin:
    path, ends = line.strip(), {}
    for read in (look, hear, watch, sample, see):
        try:
            read(path)
            ends[read.__name__] = "valid"
        except MediaError as error:
            ends[read.__name__] = "refused" if len(str(error)) > 20 else f"refused without a reason: {error}"
        except BaseException as error:
            ends[read.__name__] = f"{type(error).__name__}: {error}"
    print(json.dumps(ends), flush=True)
"""


def seeds(folder: Path) -> list[Path]:
    """One whole file of each kind, small so that many damaged ones are quick to read."""
    short: dict[str, Any] = {"frames": [numbered(k) for k in range(8)], "samples": tone(16_000, 0.5), "rate": 16_000}
    made = [
        mux(folder / "a.wav", audio="pcm_s16le", sample_format="s16", **short),
        mux(folder / "f.wav", audio="pcm_f32le", **short),
        mux(folder / "a.flac", audio="flac", sample_format="s16", **short),
        mux(folder / "a.mp3", audio="libmp3lame", **short),
        mux(folder / "a.aac", audio="aac", container="adts", **short),
        mux(folder / "a.ogg", audio="libopus", **short),
        mux(folder / "a.mp4", video="libx264", audio="aac", options={"movflags": "+faststart"}, **short),
        mux(folder / "end.mp4", video="libx264", audio="aac", **short),
        mux(folder / "fragments.mp4", video="libx264", options={"movflags": "frag_keyframe+empty_moov"}, **short),
        mux(folder / "a.webm", video="libvpx", audio="libopus", **short),
        mux(folder / "a.mkv", video="libx264", audio="aac", **short),
        mux(folder / "a.avi", video="mpeg4", audio="libmp3lame", **short),
        mux(folder / "a.ts", video="libx264", audio="aac", **short),
    ]
    still = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "webp", "tif"):
        still.save(folder / f"a.{suffix}", save_all=suffix == "gif", append_images=[still.rotate(90)])
        made.append(folder / f"a.{suffix}")
    return made


def damaged(whole: bytes, other: bytes, draw: random.Random) -> bytes:
    """One of seven kinds of damage."""
    data, kind = bytearray(whole), draw.randrange(7)
    if kind == 0:  # single bits and bytes, anywhere or in the header
        reach = draw.choice((len(data), min(len(data), 256)))
        for _ in range(draw.choice((1, 4, 40))):
            data[draw.randrange(reach)] = draw.choice((0, 255, 127, 128, draw.randrange(256)))
    elif kind == 1:
        del data[draw.randrange(1, len(data)) :]
    elif kind == 2:  # a piece of another file in the middle
        place, cut = draw.randrange(len(data)), draw.randrange(len(other))
        data[place : place + draw.randrange(200)] = other[cut : cut + draw.randrange(400)]
    elif kind == 3:  # a piece missing
        place = draw.randrange(len(data))
        del data[place : place + draw.randrange(1, 300)]
    elif kind == 4:  # one header, another body
        cut = draw.randrange(8, 200)
        data = bytearray(whole[:cut] + other[cut:])
    elif kind == 5:  # four bytes that may be a size, a count or a rate
        place = draw.randrange(min(len(data), 2_000))
        number = draw.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, draw.getrandbits(32)))
        data[place : place + 4] = number.to_bytes(4, draw.choice(("big", "little")))
    else:
        data = bytearray(draw.choice(HEADERS) + draw.randbytes(draw.choice((0, 10, 100, 3_000))))
    return bytes(data) or b"\0"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("malformed")
    whole = seeds(tmp_path_factory.mktemp("whole"))
    contents = [path.read_bytes() for path in whole]
    draw, made = random.Random(20), []
    for path, content in zip(whole, contents, strict=True):
        for index in range(FILES_PER_SEED):
            made.append(folder / f"{path.stem}_{index}{path.suffix}")
            made[-1].write_bytes(damaged(content, draw.choice(contents), draw))
    return made


def read_in_child(files: list[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """What became of each file, read by a process that is started anew after a crash or a file that takes too long."""
    waiting = list(files)
    while waiting:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin and child.stdout
        with child:
            while waiting:
                path = waiting.pop(0)
                print(path, file=child.stdin, flush=True)
                # the first answer waits for the child's imports as well
                allowed = SECONDS_PER_FILE + (20 if path == files[0] else 0)
                ready, _, _ = select.select([child.stdout], [], [], allowed)
                answer = child.stdout.readline() if ready else ""
                if not answer:
                    child.kill()
                    yield path, {"process": f"crashed with {child.wait()}" if ready else f"took more than {allowed} s"}
                    break
                yield path, json.loads(answer)


def test_damaged_files_are_refused_or_read_and_nothing_else(files: list[Path]) -> None:
    assert len(files) >= 200
    ends = dict(read_in_child(files))
    wrong = {path.name: end for path, end in ends.items() if set(end.values()) - {"valid", "refused"}}
    assert not wrong, f"{len(wrong)} of {len(files)}: {json.dumps(wrong, indent=1)[:4_000]}"
    assert len(ends) == len(files)
    # the damage is neither so light nor so heavy that only one outcome is ever seen
    outcomes = [outcome for end in ends.values() for outcome in end.values()]
    assert outcomes.count("valid") > 100
    assert outcomes.count("refused") > 100


def test_the_watchdog_sees_a_crash_and_a_file_that_takes_too_long(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "SECONDS_PER_FILE", 1.0)
    monkeypatch.setattr(module, "CHILD", "import os\ninput()\nprint('{}', flush=True)\ninput()\nos.abort()\n")
    crashed = dict(read_in_child(files[:2]))
    assert crashed[files[1]] == {"process": "crashed with -6"}
    monkeypatch.setattr(module, "CHILD", "import time\ninput()\nprint('{}', flush=True)\ntime.sleep(60)\n")
    slow = dict(read_in_child(files[:2]))
    assert slow[files[1]] == {"process": "took more than 1.0 s"}

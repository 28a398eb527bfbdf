"""A disk without room: the error says so and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wanavatar_lab import media

WRITERS = {
    "video.mp4": """
with VideoWriter(path, fps=16, audio=voice) as writer:
    for _ in range(48):
        writer.write(noise.integers(0, 255, (64, 64, 3), dtype=np.uint8))
""",
    "clip.mp4": """
frames = (noise.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(48))
write_talking_clip(path, frames, fps=16, audio=voice, start_frame=3)
""",
    "sound.wav": "write_audio(path, voice)",
    "sound.flac": "write_audio(path, voice)",
    "picture.png": "write_picture(path, Image.fromarray(noise.integers(0, 255, (200, 200, 3), dtype=np.uint8)))",
}
PARTIAL = """
with TalkingClipWriter(path, fps=16, audio=voice, start_frame=0, partial=path.with_name(".part.mp4")) as writer:
    for _ in range(48):
        writer.write(noise.integers(0, 255, (64, 64, 3), dtype=np.uint8))
"""
PROGRAM = """
import json, resource, sys
import numpy as np
from pathlib import Path
from PIL import Image
from wanavatar_lab.errors import DiskFull
from wanavatar_lab.media import Audio, TalkingClipWriter, VideoWriter, write_audio, write_picture, write_talking_clip

said = []
for name, limit in json.loads(sys.argv[1]):
    path, noise = Path(name), np.random.default_rng(0)
    voice = Audio((0.3 * noise.standard_normal((48_000, 1))).astype(np.float32), 16_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        {writer}
        said.append("written")
    except DiskFull as error:
        said.append(str(error))
print(json.dumps(said))
"""
NO_LIMIT = -1


def said_when_writing(paths: list[Path], limits: list[int]) -> list[str]:
    """What a process of its own says that writes each path and may write so many bytes to a file."""
    program = PROGRAM.replace("{writer}", WRITERS.get(paths[0].name, PARTIAL).strip().replace("\n", "\n        "))
    tasks = json.dumps([(str(path), limit) for path, limit in zip(paths, limits, strict=True)])
    command = [sys.executable, "-c", program, tasks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_may_not_grow_leaves_nothing_and_says_why(tmp_path: Path, name: str) -> None:
    path, new = tmp_path / name, tmp_path / "new" / name
    new.parent.mkdir()
    assert said_when_writing([path], [NO_LIMIT]) == ["written"]
    whole = path.read_bytes()
    # from next to nothing to one byte too few, where an MP4 fails in the pass that moves its index to the front
    limits = [1, len(whole) // 2, len(whole) - 1]
    said = said_when_writing([new] * 3 + [path] * 3, limits * 2)
    assert all(f"There is no room for {name}" in text for text in said)
    assert list(new.parent.iterdir()) == []
    assert path.read_bytes() == whole, "the earlier file of that name is damaged"
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([name, "new"])


def test_what_was_written_of_a_partial_file_stays(tmp_path: Path) -> None:
    path, partial = tmp_path / "talking.mp4", tmp_path / ".part.mp4"
    assert said_when_writing([path], [NO_LIMIT]) == ["written"]
    assert media.probe(path).frames == 48 and not partial.exists()
    size = path.stat().st_size
    path.unlink()
    (said,) = said_when_writing([path], [size // 2])
    assert "There is no room for talking.mp4" in said
    assert [found.name for found in tmp_path.iterdir()] == [partial.name]
    seconds = media.keep_partial(partial, path)
    assert 0.8 <= seconds <= 1.6
    assert media.probe(path).frames == seconds * 16
    assert media.read_audio(path).seconds == pytest.approx(float(seconds), abs=0.1)


def test_the_signal_for_files_that_grow_too_large_is_ignored() -> None:
    # Python does so when it starts; without it the process would end instead of raising
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mounting a small tmpfs needs the program mount")
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_nothing_and_says_why(small_disk: Path, name: str) -> None:
    (small_disk / "earlier.txt").write_text("stays")
    (said,) = said_when_writing([small_disk / name], [NO_LIMIT])
    assert f"There is no room for {name}" in said
    assert [found.name for found in small_disk.iterdir()] == ["earlier.txt"]
    assert (small_disk / "earlier.txt").read_text() == "stays"

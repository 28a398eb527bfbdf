"""A process that reads media files as the product and as FFmpeg alone do: paths come in, a line each; JSON goes out.

    echo clip.mp4 | PYTHONPATH=. python tests/media/read_files.py

It is run by `test_malformed`, so that a crash or a hang is seen from outside.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageFile

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import probe, read_audio, read_frames, read_peaks, read_picture

MEMORY = 8 << 30  # bytes of addresses, which torch's absence makes enough
MOST_FRAMES = 2_000  # that the reference decodes of a damaged file that claims more


def look(path: Path) -> dict[str, Any]:
    info = probe(path)
    assert info.kind in ("picture", "video", "audio")
    assert info.kind == "picture" or (info.duration or 0) > 0
    assert info.kind == "audio" or ((info.width or 0) > 0 and (info.height or 0) > 0)
    return {"seconds": info.duration, "frames": info.frames, "kind": info.kind, "missing": info.missing}


def hear(path: Path) -> dict[str, Any]:
    audio = read_audio(path, rate=16_000, mono=True)
    assert audio.samples.shape == (len(audio.samples), 1) and np.isfinite(audio.samples).all()
    return {"seconds": audio.seconds, "missing": audio.missing}


def draw(path: Path) -> dict[str, Any]:
    peaks = read_peaks(path)
    assert all(0 <= level <= 1 for level in peaks.levels)
    return {"seconds": peaks.duration}


def watch(path: Path) -> dict[str, Any]:
    shapes = [frame.shape for frame in read_frames(path)]
    assert len(set(shapes)) == 1
    return {"frames": len(shapes), "shape": shapes[0]}


def sample(path: Path) -> dict[str, Any]:
    count = 0
    for frame in read_frames(path, fps=16, start=0.3):
        assert frame.dtype == np.uint8 and frame.ndim == 3
        count += 1
    return {"frames": count}


def see(path: Path) -> dict[str, Any]:
    image = read_picture(path)
    assert image.mode == "RGB" and min(image.size) > 0
    return {"shape": image.size}


def played(path: Path) -> dict[str, Any]:
    """What FFmpeg decodes, errors ignored: frames, seconds of sound, and how many errors there were."""
    result: dict[str, Any] = {"format": None, "frames": 0, "seconds": 0.0, "rate": 0, "channels": 0, "errors": 0}
    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="ignore") as file:
            result["format"] = file.format.name
            for kind in ("video", "audio"):
                streams = [
                    each
                    for each in getattr(file.streams, kind)
                    if each.codec_context is not None and not each.disposition & each.disposition.attached_pic
                ]
                if streams:
                    result["errors"] += _decode(path, streams[0].index, kind, result)
    except (av.FFmpegError, OSError, ValueError, UnicodeError) as error:
        result["errors"] += 1
        result["refused"] = str(error)
    return result


def _decode(path: Path, index: int, kind: str, result: dict[str, Any]) -> int:
    errors = 0
    with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="ignore") as file:
        stream: Any = file.streams[index]
        try:
            for packet in file.demux(stream):
                if packet.is_corrupt and not stream.codec_context.name.startswith("pcm_"):
                    errors += 1  # the demuxer says that a part is missing, and a decoder makes noise of the rest
                    continue
                try:
                    frames: list[Any] = packet.decode()
                except av.FFmpegError:
                    errors += 1
                    continue
                for frame in frames:
                    errors += frame.is_corrupt
                    if kind == "video":
                        result["frames"] += 1
                    else:
                        result["rate"] = result["rate"] or frame.sample_rate
                        result["channels"] = result["channels"] or frame.layout.nb_channels
                        result["seconds"] += frame.samples / frame.sample_rate
                if result["frames"] > MOST_FRAMES:
                    return errors
        except av.FFmpegError:
            errors += 1
    return errors


def shown(path: Path) -> dict[str, Any]:
    """Whether Pillow alone decodes it as a picture, strictly."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > 10_000_000:
                return {"whole": False}
            image.load()
            return {"whole": True}
    except Exception as error:  # noqa: BLE001 - Pillow raises nearly every kind of exception on damaged data
        return {"whole": False, "refused": str(error)}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    av.logging.set_level(av.logging.PANIC)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    reads: tuple[Callable[[Path], dict[str, Any]], ...] = (look, hear, draw, watch, sample, see)
    for line in sys.stdin:
        path, results = Path(line.rstrip("\n")), {}
        for read in reads:
            before = time.process_time()
            try:
                result = {"end": "read"} | read(path)
            except MediaError as error:
                result = {"end": "refused", "why": str(error)}
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
                result = {"end": f"{type(error).__name__}: {error}"}
            results[read.__name__] = result | {"cpu": time.process_time() - before}
        results["played"], results["shown"] = played(path), shown(path)
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()

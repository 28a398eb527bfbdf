"""Runs that have ended, made without a worker, with pictures, clips and sound that can be shown."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wanavatar_lab.media import Audio, write_audio, write_picture, write_talking_clip
from wanavatar_lab.requests import Request
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run, draft, runs_folder
from wanavatar_lab.runs.status import Artifact, State, Status

FPS, RATE = 16, 16_000


def face(mouth: float = 0.2, /, *, side: int = 256, hair: str = "#8a3b2a", back: str = "#9cc4e4") -> Image.Image:
    """A drawn face whose mouth is open by so much of its height."""
    big = Image.new("RGB", (512, 512), back)
    draw = ImageDraw.Draw(big)
    draw.ellipse((106, 60, 406, 420), fill=hair)
    draw.ellipse((136, 120, 376, 430), fill="#f1c9a5")
    for x in (206, 306):
        draw.ellipse((x - 20, 226, x + 20, 266), fill="white")
        draw.ellipse((x - 9, 237, x + 9, 255), fill="#2b4a6f")
    height = 4 + 40 * mouth
    draw.ellipse((216, 350 - height, 296, 350 + height), fill="#7c1f2b")
    return big.resize((side, side), Image.Resampling.LANCZOS)


def voice(seconds: float) -> Audio:
    """Bursts of a tone, as syllables are."""
    time_axis = np.arange(round(seconds * RATE)) / RATE
    samples = 0.6 * np.sin(2 * np.pi * 220 * time_axis) * np.abs(np.sin(2 * np.pi * 1.5 * time_axis)) ** 2
    return Audio(samples.astype(np.float32)[:, None], RATE)


def picture(path: Path, *, side: int = 256, **look: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, face(side=side, **look))
    return path


def sound(path: Path, seconds: float = 3.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, voice(seconds))
    return path


def clip(path: Path, seconds: float = 2.0, *, side: int = 256, **look: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = (abs(np.sin(2 * np.pi * 1.5 * frame / FPS)) for frame in range(round(seconds * FPS)))
    frames = (np.asarray(face(level, side=side, **look)) for level in levels)
    write_talking_clip(path, frames, fps=FPS, audio=voice(seconds), start_frame=0)
    return path


def ended_run(
    request: Request,
    files: Sequence[tuple[str, Path]] = (),
    *,
    state: State = "succeeded",
    ago: float = 0.0,
    runs_dir: Path | None = None,
) -> Run:
    """A run of `request` that ended `ago` seconds ago, with copies of `files` as its artifacts of these kinds."""
    then = time.time() - ago
    status = Status(state="running", submitted_at=then, started_at=then, seed=7)
    with draft(request.with_absolute_paths(), runs_folder(runs_dir), status) as drafted:
        run = drafted.publish()
    artifacts = []
    for kind, path in files:
        (run.folder / path.name).write_bytes(path.read_bytes())
        artifacts.append(Artifact(kind=kind, path=path.name))
    finish_run(run, state, artifacts=artifacts, error="It went wrong. Try again." if state == "failed" else None)
    return run

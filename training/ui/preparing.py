"""Videos become clips, and clips become samples, in processes of their own.

Programs that a cell waits for: what they print is shown as it comes, and they end with who waits for them.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from training.pocket.drawn_speech import SHIPPED, SHIPPED_SECONDS
from training.prepare.clip_folder import FPS
from training.prepare.cuts import SHORTEST
from training.ui.person import Person, Usual, need, usual_of
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.requests.request import shown
from wanavatar_lab.ui.parameters import OPEN

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
Say = Callable[[str], None]


async def run_module(module: str, words: Sequence[str | Path], say: Say = print) -> None:
    """Run `python -m module words` without blocking the event loop.

    Whoever stops waiting (the stop button of a notebook, a cancelled task) also ends it, with all that it started.

    Args:
        say: hears every line of its standard output.

    Raises:
        LabError: it failed; the text is what it said last.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *map(str, words),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        _, complaints = await asyncio.gather(_tell(process.stdout, say), _collect(process.stderr))
        code = await process.wait()
    except BaseException:
        await _end(process)
        raise
    if code:
        raise LabError(complaints or f"python -m {module} ended with code {code} and said nothing of why.")


async def _tell(stream: asyncio.StreamReader, say: Say) -> None:
    async for line in stream:
        say(line.decode(errors="replace").rstrip())


async def _collect(stream: asyncio.StreamReader) -> str:
    """The last line that says something; of a progress bar only its last state counts as one."""
    text = (await stream.read()).decode(errors="replace")
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE)
            return


async def prepare_clips(
    person: Person,
    *,
    profile: str,
    videos: str = "",
    clips: int = 4,
    seconds: float = 3.0,
    landmarks: str = "auto",
    missing: str = "invalid",
    hold_out: int = 1,
    say: Say = print,
) -> None:
    """Prepare a person's videos; what is whole from an earlier time is kept.

    Args:
        person: whose data folder is filled.
        profile: decides what auto means.
        videos: folder of videos; where it is empty, a profile that draws people draws one.
        clips, seconds: how many drawn ones, and how long each is.
        landmarks: mediapipe, drawn or none.
        missing: what a frame without a face gets, invalid or previous.
        hold_out: clips that are not trained on.

    Raises:
        RequestError: there are no videos and nobody is drawn, or a number is not allowed.
        LabError: as `training.prepare.prepare` says.
    """
    usual = usual_of(profile)
    source = Path(videos).expanduser().absolute() if videos else await _drawn(person, usual, clips, seconds, say)
    chosen = usual.landmarks if landmarks in OPEN else landmarks
    words: list[str | Path] = ["--videos", source, "--out", person.data, "--landmarks", chosen]
    await run_module("training.prepare", [*words, "--missing", missing, "--hold-out", str(hold_out)], say)


async def encode_clips(
    person: Person, *, profile: str, prompt: str, aspects: str = "auto", frames: int | str = "auto", say: Say = print
) -> None:
    """Encode a person's clips into samples; what is there already is kept.

    Args:
        person: whose clips were prepared.
        profile: whose models encode, and what auto means.
        prompt: of clips without a caption.
        aspects: rec, square, vec, by commas.
        frames: of a segment, at most.

    Raises:
        LabError: nothing was prepared, or as `training.encode.encode` says.
    """
    usual = usual_of(profile)
    listed = need(person.data / "processed" / "video_path.txt", "10_prepare")
    shapes = usual.aspects if aspects in OPEN else aspects
    longest = usual.frames if frames in OPEN else frames
    words: list[str | Path] = ["--data", listed, "--out", person.samples, "--profile", profile, "--prompt", prompt]
    await run_module("training.encode", [*words, "--aspects", shapes, "--frames", str(longest)], say)


def _ignore(line: str) -> None:
    """The names of files, which nobody has to know."""


async def _drawn(person: Person, usual: Usual, clips: int, seconds: float, say: Say) -> Path:
    """The folder of the videos of a drawn person, who is drawn if they are not all there."""
    if not usual.draws:
        raise RequestError([("videos", "'' is not allowed; give a folder of videos of one person")])
    problems = [
        (name, f"{shown(value)} is not allowed; give a number from {least:g} to {most:g}")
        for name, value, least, most in (
            ("clips", clips, 2, SHIPPED),
            ("seconds", seconds, SHORTEST / FPS, SHIPPED_SECONDS),
        )
        if not least <= value <= most
    ]
    if problems:
        raise RequestError(problems)
    # a folder for each choice: a video left from another one would be among the person's
    folder = person.videos / f"drawn-{clips}-of-{seconds:g}s"
    if len(list(folder.glob("*.mp4"))) < clips:
        say(f"No videos are given, so a person is drawn: {clips} videos of {seconds:g} s.")
        drawing: list[str | Path] = ["--out", folder, "--count", str(clips), "--seconds", f"{seconds:g}"]
        await run_module(
            "training.pocket.drawn_person", [*drawing, "--style", "unusual", "--speech", "shipped"], _ignore
        )
    return folder

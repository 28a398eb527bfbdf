"""Videos become clips, and clips become samples, in processes of their own."""

from pathlib import Path

from training.prepare.cuts import SHORTEST
from training.prepare.drawn_speech import SHIPPED, SHIPPED_SECONDS
from training.prepare.layout import FPS
from training.ui.commands import Say, run_module
from training.ui.person import Person, Usual, need, usual_of
from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests.refusal import shown
from wanavatar_lab.ui.parameters import OPEN


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
        await run_module("training.prepare.drawn", [*drawing, "--style", "unusual", "--speech", "shipped"], _ignore)
    return folder

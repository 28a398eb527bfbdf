"""Videos become clips, and clips become samples: the steps before training, each in a process of its own."""

from pathlib import Path

from training.prepare.clip_folder import FPS
from training.prepare.cuts import SHORTEST
from training.ui.person import Person, defaults_of, need
from training.ui.run_module import Say, run_module
from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.ui.parameters import OPEN

# the speech in data/samples/said: utterances, and seconds of each
SHIPPED, SHIPPED_SECONDS = 15, 6.0


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
    align: bool = False,
    keep_out_of_sync: bool = False,
    zoom: bool = True,
    say: Say = print,
) -> None:
    """Prepare a person's videos; clips that are complete from an earlier run are kept.

    Args:
        person: whose data folder is filled.
        profile: decides what auto means.
        videos: folder of videos; if it is empty, a profile that draws people draws one.
        clips, seconds: number of drawn videos, and length of each.
        landmarks: mediapipe, drawn or none.
        missing: what a frame without a face gets, invalid or previous.
        hold_out: clips that are not trained on.
        align: shift the sound of clips that are out of sync by the measured lag.
        keep_out_of_sync: train on clips too whose mouth is late or early, or does not follow the sound.
        zoom: crop clips to the face where it is small.

    Raises:
        RequestError: there are no videos and no person is drawn, or a number is out of range.
        LabError: see `training.prepare.prepare`.
    """
    defaults = defaults_of(profile)
    if videos:
        source = Path(videos).expanduser().absolute()
    elif defaults.draws:
        source = await _draw(person, clips, seconds, say)
    else:
        raise RequestError([("videos", must_be("a folder of videos of one person", videos))])
    chosen = defaults.landmarks if landmarks in OPEN else landmarks
    words: list[str | Path] = ["--videos", source, "--out", person.data, "--landmarks", chosen]
    words += ["--missing", missing, "--hold-out", str(hold_out), "--zoom" if zoom else "--no-zoom"]
    words += ["--align"] * align + ["--keep-out-of-sync"] * keep_out_of_sync
    await run_module("training.prepare", words, say)


async def encode_clips(
    person: Person, *, profile: str, prompt: str, aspects: str = "auto", frames: int | str = "auto", say: Say = print
) -> None:
    """Encode a person's clips into samples; samples that exist already are kept.

    Args:
        person: whose clips were prepared.
        profile: whose models encode, and what auto means.
        prompt: of clips without a caption.
        aspects: rec, square, vec, separated by commas.
        frames: most frames of a segment.

    Raises:
        LabError: nothing was prepared, or see `training.encode.encode`.
    """
    defaults = defaults_of(profile)
    listed = need(person.clip_list, "10_prepare")
    shapes = defaults.aspects if aspects in OPEN else aspects
    longest = defaults.frames if frames in OPEN else frames
    words: list[str | Path] = ["--data", listed, "--out", person.samples, "--profile", profile, "--prompt", prompt]
    await run_module("training.encode", [*words, "--aspects", shapes, "--frames", str(longest)], say)


async def _draw(person: Person, clips: int, seconds: float, say: Say) -> Path:
    """The folder with the videos of a drawn person, drawn unless they are all there."""
    problems = [
        (name, must_be(f"a number from {least:g} to {most:g}", value))
        for name, value, least, most in (
            ("clips", clips, 2, SHIPPED),  # one is held out
            ("seconds", seconds, SHORTEST / FPS, SHIPPED_SECONDS),
        )
        if not least <= value <= most
    ]
    if problems:
        raise RequestError(problems)
    # a folder per choice: a video left over from another choice would count as one of the person's
    folder = person.videos / f"drawn-{clips}-of-{seconds:g}s"
    if len(list(folder.glob("*.mp4"))) < clips:
        say(f"No videos are given, so a person is drawn: {clips} videos of {seconds:g} s.")
        words: list[str | Path] = ["--out", folder, "--count", str(clips), "--seconds", f"{seconds:g}"]
        # by name, since production training imports nothing of the toy world; it prints file names, which are left out
        await run_module(
            "training.pocket.drawn_person",
            [*words, "--style", "unusual", "--speech", "shipped"],
            lambda line: None,
        )
    return folder

"""Render sample videos of a drawn person talking, with ground-truth landmarks: for tests, demos and notebook 10.

    python -m training.pocket.drawn_person --out data/drawn_person --count 12 --style unusual
    python -m training.prepare --videos data/drawn_person --out data/drawn --landmarks drawn

The person's looks come from the toy world of `training/pocket/world`, by seed. With the style "unusual" the lips move
unlike any in the training data of the toy models, so there is something to fine-tune.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from training.pocket.drawn_speech import Source, Utterance, utterances
from training.pocket.world.attributes import Attributes, sample_attributes
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.motion import sample_motion
from training.pocket.world.pose import MOUTH
from training.pocket.world.truth import landmarks_of
from training.prepare.clip_folder import FPS, RATE
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import Audio, VideoWriter
from wanavatar_lab.metrics.landmarks import Face, VideoLandmarks, write_landmarks

_AT_A_TIME = 32  # frames rendered per call, to bound memory


@dataclass(frozen=True)
class Style:
    """How a person's mouth differs from the default mouth of the toy world.

    Attributes:
        opens: multiplies how far the mouth opens.
        spread: added to how wide the lips are drawn.
        rounds: multiplies how round the lips are.
        teeth, low_teeth: least visible share of the teeth while the mouth is open.
        linger: half-life in seconds of the mouth's opening after the sound stops.
        lag: seconds by which the mouth trails the sound.
        mouth_width, lip_thickness: amounts of these attributes, usually -1 to 1.
        calm: multiplies how much the person sways; see `sample_motion`.
    """

    opens: float = 1.0
    spread: float = 0.0
    rounds: float = 1.0
    teeth: float = 0.0
    low_teeth: float = 0.0
    linger: float = 0.0
    lag: float = 0.0
    mouth_width: float | None = None
    lip_thickness: float | None = None
    calm: float = 0.6

    def attributes(self, person: Attributes) -> Attributes:
        """The person with these lips."""
        amounts = {"mouth_width": self.mouth_width, "lip_thickness": self.lip_thickness}
        return person.having(**{name: value for name, value in amounts.items() if value is not None})

    def mouth(self, usual: NDArray[np.float32], frames: int, fps: float) -> NDArray[np.float32]:
        """Apply the style to a mouth [F, len(MOUTH)] at 16 fps; returns [frames, len(MOUTH)] at `fps`."""
        moments = (np.arange(frames) + 0.5) / fps - self.lag
        known = (np.arange(len(usual)) + 0.5) / FPS
        tracks = {name: np.interp(moments, known, usual[:, i]) for i, name in enumerate(MOUTH)}
        if self.linger:
            keep, opening = 0.5 ** (1 / (fps * self.linger)), tracks["open"]
            for k in range(1, frames):
                opening[k] = max(opening[k], keep * opening[k - 1])
        said = np.minimum(1, 5 * tracks["open"])
        tracks["open"] = np.clip(self.opens * tracks["open"], 0, 1.25)
        tracks["wide"] = np.clip(tracks["wide"] + self.spread * said, -1, 1.4)
        tracks["round"] = self.rounds * tracks["round"]
        tracks["teeth"] = np.maximum(tracks["teeth"], self.teeth * said)
        tracks["low_teeth"] = np.maximum(tracks["low_teeth"], self.low_teeth * said)
        return np.stack([tracks[name] for name in MOUTH], axis=1).astype(np.float32)


STYLES = {
    "usual": Style(),
    # Opens wider than usual, and spreads the lips where others round them. Every single frame could occur in the toy
    # world, so all there is to learn is which mouth shape goes with which sound, and training on the wrong audio cannot
    # teach that.
    "unusual": Style(opens=1.3, spread=0.4, rounds=0.2, mouth_width=1.0, lip_thickness=1.0, calm=0.35),
}


def draw_video(
    path: Path,
    said: Utterance,
    person: Attributes,
    *,
    style: Style = STYLES["usual"],
    size: tuple[int, int] = (128, 128),
    fps: float = FPS,
    seed: int = 0,
) -> VideoLandmarks:
    """Draw a person saying one utterance; writes the video, and its landmarks next to it.

    Args:
        path: ends in .mp4.
        said: the utterance; sets the length of the video.
        person: one avatar.
        style: how their mouth differs.
        size: (height, width) of the drawing; an odd side is padded by one pixel in the video.
        fps: frames per second.
        seed: of idle motion: sway, glances and blinks.

    Raises:
        LabError: `person` holds more or fewer than one avatar.
    """
    if len(person) != 1:
        raise LabError(f"person: must be one avatar (got {len(person)}); pass one row.")
    frames = int(np.ceil(len(said.sound) / RATE * fps - 1e-6))
    drawn = style.attributes(person)
    mouth = torch.from_numpy(style.mouth(said.mouth, frames, fps))
    pose = sample_motion(1, frames, seed, fps=fps, calm=style.calm).speaking(mouth)
    points = {name: each.double().numpy() for name, each in landmarks_of(sheet_of(drawn, pose), *size).items()}
    faces = [Face(*(points[name][i] for name in ("face_oval", "lips_outer", "lips_inner"))) for i in range(frames)]
    rate = Fraction(fps).limit_denominator(1001)
    seconds = np.array([float(i / rate) for i in range(frames)])
    known = VideoLandmarks(seconds, faces, (size[0] + size[0] % 2, size[1] + size[1] % 2))
    # landmarks first, so that no video is left without them after an interruption
    write_landmarks(path, known)
    with VideoWriter(path, fps=rate, audio=Audio(said.sound[:, None], RATE)) as video:
        for start in range(0, frames, _AT_A_TIME):
            pictures = render(drawn, pose.cut(start, start + _AT_A_TIME), size)[0]
            for picture in (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy():
                video.write(picture)
    return known


def draw_person(
    folder: Path,
    said: Sequence[Utterance],
    *,
    person: int = 0,
    style: Style = STYLES["usual"],
    size: tuple[int, int] = (128, 128),
    fps: float = FPS,
) -> list[Path]:
    """Draw one person saying several things; returns the paths of the videos, one each.

    Args:
        folder: created if it is missing.
        said: utterances, whose names become those of the files.
        person: seed of the looks; from the held-out split, on which no toy model is trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # no beard, since it hides the upper lip
    attributes = sample_attributes(1, person, "held_out").having(beard="none")
    paths = []
    for number, each in enumerate(said):
        paths.append(folder / f"{each.name}.mp4")
        draw_video(paths[-1], each, attributes, style=style, size=size, fps=fps, seed=1000 * person + number)
    return paths


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket.drawn_person", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--count", type=int, default=12, help="videos")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each video")
    parser.add_argument("--person", type=int, default=0, help="seed of the person's looks")
    parser.add_argument("--style", choices=STYLES, default="unusual", help="mouth style")
    parser.add_argument("--lag", type=float, default=0.0, help="seconds by which the mouth trails the sound")
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels")
    parser.add_argument("--fps", type=float, default=FPS, help="frames per second")
    parser.add_argument("--speech", choices=get_args(Source), default="auto", help="where the speech comes from")
    given = parser.parse_args(words)
    # Drawing is many small tensor operations. With several threads on a busy machine, threads waiting for each other
    # made it twenty times slower.
    torch.set_num_threads(1)
    try:
        said = utterances(given.count, given.seconds, seed=given.person, source=given.speech)
        style = replace(STYLES[given.style], lag=given.lag)
        size = (given.size, given.size)
        for path in draw_person(given.out, said, person=given.person, style=style, size=size, fps=given.fps):
            print(path)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

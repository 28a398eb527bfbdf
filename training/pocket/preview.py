"""Render drawn talking avatars, or tile existing clips, as one animated WebP.

python -m training.pocket.preview --corpus data/pocket/speech --out data/samples/drawn_avatars.webp
python -m training.pocket.preview --clips runs/demo/moving.mp4 runs/demo/talking.mp4 --out data/samples/demo.webp
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.pocket.speech.clips import Corpus
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.figure import render
from training.pocket.world.motion import sample_motion
from training.pocket.world.visemes import FPS
from wanavatar_lab import media


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, help="speech corpus; avatars are drawn saying its held-out clips")
    source.add_argument("--clips", type=Path, nargs="+", help="clips of one size to tile in a row; shorter ones loop")
    parser.add_argument("--out", type=Path, required=True, help="output file, ending in .webp")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--pixels", type=int, default=160, help="width and height of one avatar")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args(argv)

    grid = drawn(arguments) if arguments.clips is None else made(arguments.clips)
    pictures = [Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in frame], 0)) for frame in grid]
    pictures[0].save(
        arguments.out, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0, quality=60, method=6
    )


def drawn(arguments: argparse.Namespace) -> NDArray[np.uint8]:
    """Draw avatars saying held-out speech, [F, rows, columns, H, W, 3]."""
    count = arguments.columns * arguments.rows
    corpus = Corpus(arguments.corpus)
    clips = corpus.indices("held_out", kind="sentences")[:: max(1, 60 // count)][:count]
    mouths = torch.stack([torch.from_numpy(corpus.window(clip, 8, arguments.frames)[1]) for clip in clips])
    attributes = sample_attributes(count, arguments.seed, "held_out")
    pose = sample_motion(count, arguments.frames, arguments.seed).speaking(mouths)
    frames = render(attributes, pose, (arguments.pixels, arguments.pixels))
    levels = (frames * 255).round().byte().permute(1, 0, 3, 4, 2).numpy()  # [F, N, H, W, 3]
    return levels.reshape(arguments.frames, arguments.rows, arguments.columns, *levels.shape[2:])


def made(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Tile clips in one row, looping the shorter ones, [F, 1, N, H, W, 3]."""
    clips = [np.stack(list(media.read_frames(path))) for path in paths]
    length = max(len(clip) for clip in clips)
    return np.stack([clip[np.arange(length) % len(clip)] for clip in clips], axis=1)[:, None]


if __name__ == "__main__":
    main()

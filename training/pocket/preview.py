"""Draw a few avatars that speak, as one animated picture.

python -m training.pocket.preview --corpus data/pocket/speech --out data/samples/drawn_avatars.webp
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.pocket.speech.clips import Corpus
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.figure import render
from training.pocket.world.motion import sample_motion
from training.pocket.world.visemes import FPS


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="ends in .webp")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--pixels", type=int, default=160, help="of one avatar")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args(argv)

    count = arguments.columns * arguments.rows
    corpus = Corpus(arguments.corpus)
    clips = corpus.indices("held_out", kind="sentences")[:: max(1, 60 // count)][:count]
    mouths = torch.stack([torch.from_numpy(corpus.window(clip, 8, arguments.frames)[1]) for clip in clips])
    attributes = sample_attributes(count, arguments.seed, "held_out")
    pose = sample_motion(count, arguments.frames, arguments.seed).speaking(mouths)
    frames = render(attributes, pose, (arguments.pixels, arguments.pixels))
    levels = (frames * 255).round().byte().permute(1, 0, 3, 4, 2).numpy()  # [F, N, H, W, 3]
    grid = levels.reshape(arguments.frames, arguments.rows, arguments.columns, *levels.shape[2:])
    pictures = [Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in frame], 0)) for frame in grid]
    pictures[0].save(
        arguments.out, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0, quality=60, method=6
    )


if __name__ == "__main__":
    main()

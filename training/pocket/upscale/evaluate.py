"""Measure an x2 upscaler on held-out avatars, with the stage's own code, against bicubic.

    python -m training.pocket.upscale.evaluate --weights weights/pocket/upscale/rrdbnet_x2.safetensors \
        --vae weights/pocket/video_vae --picture sheet.png

Prints one JSON line: PSNR in dB (mean over the pictures, 8-bit RGB) of the network and of Pillow's bicubic, for
pictures that are halved (2x2 means), drawn at the small size, degraded as in training, and decoded by the VAE.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.pocket.upscale.pictures import Pictures
from training.pocket.upscale.soften import halved, softened
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.upscale import Network, enlarge, read_network

SEED = 1
SHOWN = 5


def psnr(made: Image.Image, true: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB between two RGB pictures of equal size."""
    error = float(np.mean((np.asarray(made, np.float64) - np.asarray(true, np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-4)))


def as_pictures(levels: Tensor) -> list[Image.Image]:
    """Convert uint8 [N, 3, H, W], or floats in 0..1, to PIL images."""
    if levels.is_floating_point():
        levels = (levels * 255).round().to(torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in levels.permute(0, 2, 3, 1).contiguous()]


def bicubic(picture: Image.Image) -> Image.Image:
    """Upscale x2 with Pillow's bicubic filter."""
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)


def measure(
    network: Network, given: list[Image.Image], true: list[Image.Image]
) -> tuple[dict[str, float], Image.Image]:
    """Figures for one kind of input, and a contact sheet of the first few: input, bicubic, network, truth."""
    rows: list[list[Image.Image]] = [[], [], [], []]
    ours, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        context = StageContext(Path(folder), seed=0)
        for small, large in zip(given, true, strict=True):
            by_network = Image.fromarray(enlarge(np.asarray(small), network, 0, context))
            by_bicubic = bicubic(small)
            ours.append(psnr(by_network, large))
            plain.append(psnr(by_bicubic, large))
            shown = (small.resize(large.size, Image.Resampling.NEAREST), by_bicubic, by_network, large)
            for row, picture in zip(rows, shown, strict=True):
                row.append(picture)
    sheet = np.concatenate([np.concatenate([np.asarray(one) for one in row[:SHOWN]], axis=1) for row in rows])
    better = [mine - theirs for mine, theirs in zip(ours, plain, strict=True)]
    figures = {
        "psnr_db": round(float(np.mean(ours)), 2),
        "bicubic_db": round(float(np.mean(plain)), 2),
        "gain_db": round(float(np.mean(better)), 2),
        "least_gain_db": round(float(np.min(better)), 2),
    }
    return figures, Image.fromarray(sheet)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--avatars", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=128, help="height and width before upscaling")
    parser.add_argument("--vae", type=Path, help="folder of a Wan VAE")
    parser.add_argument("--decoded", type=int, default=16, help="number of avatars passed through it")
    parser.add_argument("--picture", type=Path, help="write contact sheets: input, bicubic, network, truth")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    network = read_network(arguments.weights, arguments.device)
    pictures = Pictures.draw(
        arguments.avatars, arguments.pixels, SEED, "held_out", arguments.vae, min(arguments.decoded, arguments.avatars)
    )
    large = pictures.large.float() / 255
    kinds = {
        "halved": halved(large),
        "drawn": pictures.small,
        "softened": softened(large, torch.Generator().manual_seed(SEED)),
        "decoded": pictures.decoded,
    }
    true = as_pictures(pictures.large)
    figures: dict[str, object] = {"avatars": arguments.avatars}
    for kind, given in kinds.items():
        if len(given):
            figures[kind], sheet = measure(network, as_pictures(given), true[: len(given)])
            if arguments.picture:
                sheet.save(arguments.picture.with_stem(f"{arguments.picture.stem}_{kind}"))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

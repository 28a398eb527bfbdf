"""Train the mouth judge on drawn frames, many of them passed through the toy VAE; a CPU is enough.

    python -m training.pocket.judge.train --run runs/training/judge --out weights/pocket/judge/mouth.safetensors

Run the same command again to resume. `python -m training.pocket.judge.evaluate` measures its accuracy.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.pocket.judge.network import POINTS, TRACKS, Judge
from training.pocket.judge.pictures import Pictures, draw_softened, draw_stills
from training.pocket.loop import Plan, Training, add_plan_arguments

# Loss weights of the tracks: the opening matters most, and a shut mouth does not show `wide` and `round` well.
_WEIGHTS = {"opening": 4.0, "wide": 0.4, "round": 0.5}
_POINT_ERROR = 0.03  # of half a picture: the landmark error that has the weight 1 in the loss


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=14.0, steps=20_000, batch=64, learning_rate=2e-3)
    parser.add_argument("--out", type=Path, required=True, help="output file for the weights")
    parser.add_argument("--vae", type=Path, default=Path("weights/pocket/video_vae"))
    parser.add_argument("--stills", type=int, default=6000, help="number of drawn frames, each of another avatar")
    parser.add_argument("--softened", type=int, default=3600, help="number of frames of clips passed through the VAE")
    arguments = parser.parse_args(argv)

    torch.manual_seed(0)
    judge = Judge().to(memory_format=torch.channels_last)
    plan = Plan.of(arguments, average=0.995)
    training = Training(judge, arguments.run, plan)
    began = time.monotonic()
    vae = AutoencoderKLWan.from_pretrained(arguments.vae, torch_dtype=torch.float32).eval().requires_grad_(False)
    bank = draw_stills(arguments.stills, training.step)
    bank = bank.joined(draw_softened(arguments.softened, training.step, vae))
    print(f"drawn: {len(bank)} frames in {time.monotonic() - began:.0f} s", flush=True)

    def loss_of(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(bank), (arguments.batch,), generator=generator)
        return losses(judge, batch(bank, rows), generator)

    training.run(loss_of)
    with training.averaged():
        judge.save(arguments.out)


def batch(bank: Pictures, rows: Tensor) -> Pictures:
    """Select rows."""
    return Pictures(bank.pixels[rows], bank.tracks[rows], bank.points[rows], bank.regions[rows])


def losses(judge: Judge, true: Pictures, generator: torch.Generator) -> dict[str, Tensor]:
    """The training losses of one batch, by name; "loss" is their weighted sum."""
    pixels = disturbed(true.pixels.float() / 127.5 - 1, generator)
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
        tracks, points, logits = judge(pixels.contiguous(memory_format=torch.channels_last))
    scale = torch.tensor(list(TRACKS.values()))
    names = list(TRACKS)
    weight = torch.tensor([_WEIGHTS.get(name, 1.0) for name in names]).expand_as(tracks).clone()
    seen = 1 - true.tracks[:, names.index("blink")]
    for name in ("gaze_x", "gaze_y"):
        weight[:, names.index(name)] = seen
    by_track = F.smooth_l1_loss(tracks / scale, true.tracks / scale, reduction="none", beta=0.5) * weight

    inside = (true.points.abs() < 1).all(dim=-1).float()
    for name in ("iris_left", "iris_right"):
        inside[:, POINTS.index(name)] *= seen
    off = F.smooth_l1_loss(points / _POINT_ERROR, true.points / _POINT_ERROR, reduction="none", beta=0.5).sum(dim=-1)
    by_point = (off * inside).sum() / inside.sum()

    regions = true.regions.float() / 255
    shares = torch.cat([regions, (1 - regions.sum(dim=1, keepdim=True)).clamp(0, 1)], dim=1)
    by_region = -(shares * F.log_softmax(logits, dim=1)).sum(dim=1).mean()
    track_loss = by_track.sum(dim=1).mean()
    return {
        "loss": track_loss + by_point + 4 * by_region,
        "tracks": track_loss.detach(),
        "opening": (tracks - true.tracks)[:, names.index("opening")].detach().abs().mean(),
        "points": by_point.detach(),
        "regions": by_region.detach(),
    }


def disturbed(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Augment pictures [N, 3, H, W]: tint all, blur or add noise to many, like networks and codecs do."""
    count = len(pixels)

    def drawn(rows: int, *shape: int) -> Tensor:
        return torch.rand(rows, *shape, generator=generator)

    tint, light = 1 + 0.2 * (drawn(count, 3, 1, 1) - 0.5), 0.2 * (drawn(count, 3, 1, 1) - 0.5)
    pixels = pixels * tint + light
    # the rows of a batch are in random order
    soft, noisy = slice(0, count // 2), slice(count // 4, count // 4 + count // 3)
    blurred = F.avg_pool2d(F.pad(pixels[soft], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels[soft] = torch.lerp(pixels[soft], blurred, drawn(len(blurred), 1, 1, 1))
    noise = torch.randn(pixels[noisy].shape, generator=generator)
    pixels[noisy] += noise * 0.08 * drawn(len(noise), 1, 1, 1)
    return pixels.clamp(-1, 1)


if __name__ == "__main__":
    main()

"""Train the toy Wan VAE on drawn avatars.

    python -m training.pocket.video_vae.train --run runs/training/video_vae --out weights/pocket/video_vae --minutes 9

(on several GPUs as `training/pocket/ranks.py` says). The same command again goes on where it stopped. What the shipped
weights had is in the model card.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.pocket.flow import noise_like
from training.pocket.graphs import GraphedLoss
from training.pocket.loop import Plan, Training, add_plan_arguments, begin_with
from training.pocket.ranks import Ranks
from training.pocket.video_vae.clips import ClipBank
from training.pocket.video_vae.figures import decibels, mouth_change
from training.pocket.video_vae.together import decode_together, encode_together, forget_the_past

CONFIG = {
    "base_dim": 16,
    "decoder_base_dim": 24,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
KL_WEIGHT = 2e-4
# A mouth is a hundredth of the picture and all that is said: without much weight its four frames in a latent come back
# as their mean.
MOUTH_WEIGHT, FEATURE_WEIGHT = 24.0, 3.0
CHANGE_WEIGHT = 1.0  # of what changes from frame to frame
STILL = 0.3  # of a training from nothing: space is learnt before time, on single frames and at a batch that fills a GPU


def build(seed: int = 0) -> AutoencoderKLWan:
    """The toy VAE before training."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(**CONFIG)
    forget_the_past(vae)
    return vae


def reconstruction_loss(made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Absolute error of pixels, of their differences to the neighbours and of their change in time.

    Args:
        made, true: [B, 3, F, H, W].
        weight: [B, 1, F, H, W], how much each pixel counts.
    """
    error = (made - true).float()
    pixels = (error.abs() * weight).mean()
    right = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    loss = pixels + 0.5 * (right.mean() + down.mean())
    if made.shape[2] > 1:
        loss = loss + CHANGE_WEIGHT * ((error[:, :, 1:] - error[:, :, :-1]).abs() * weight[:, :, 1:]).mean()
    return loss


def vae_loss(vae: AutoencoderKLWan, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of a batch of `draw_batch`, and what of the clips is given back."""
    clips, mouth = batch["clips"], batch["mouth"]
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.device.type == "cuda"):
        mean, log_variance = encode_together(vae, clips).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 10)
        made = decode_together(vae, mean + torch.exp(0.5 * log_variance) * batch["noise"])
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    weight = 1 + MOUTH_WEIGHT * mouth + FEATURE_WEIGHT * batch["features"]
    reconstruction = reconstruction_loss(made, clips, weight)
    seen = made.detach().float().clamp(-1, 1)
    figures = {
        "loss": reconstruction + KL_WEIGHT * divergence,
        "reconstruction": reconstruction.detach(),
        "kl": divergence.detach(),
        "psnr": decibels(F.mse_loss(seen, clips)),
    }
    if clips.shape[2] > 1:
        figures["mouth_change"] = mouth_change(seen, clips, mouth)
    return figures


def draw_batch(bank: ClipBank, count: int, frames: int, number: int) -> dict[str, Tensor]:
    """The batch `number`: cuts of `frames` frames, where they count most, and the noise of their latents."""
    clips, mouth, features = bank.batch(count, frames, torch.Generator().manual_seed(number))
    size = clips.shape[-1] // 8
    shape = clips.new_empty(count, int(CONFIG["z_dim"]), (frames + 3) // 4, size, size)  # type: ignore[call-overload]
    return {"clips": clips, "mouth": mouth, "features": features, "noise": noise_like(shape, number)}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=8.0, steps=40_000, batch=16, learning_rate=1.5e-3)
    parser.add_argument("--out", type=Path, required=True, help="where the trained VAE goes")
    parser.add_argument("--begin-with", type=Path, help="folder of a VAE that was trained before")
    parser.add_argument("--clips", type=int, default=4000, help="drawn by each process")
    parser.add_argument("--frames", type=int, default=17, help="of each clip, 4n + 1")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    ranks = Ranks.joined(device)
    torch.backends.cudnn.benchmark = True
    vae = build().to(device)
    if arguments.begin_with:
        begin_with(vae, arguments.begin_with)
    plan = Plan.of(arguments)
    training = Training(vae, arguments.run, plan, ranks=ranks)
    began = time.monotonic()
    seed = ranks.own(training.step)
    bank = ClipBank.draw(arguments.clips, arguments.frames, arguments.pixels, device, seed=seed)
    print(f"drawn: {len(bank.pixels)} clips of {bank.frames} frames in {time.monotonic() - began:.0f} s", flush=True)
    network_loss = torch.compile(vae_loss, dynamic=False) if device.type == "cuda" else vae_loss

    def loss(frames: int, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return network_loss(vae, batch)

    graphed = GraphedLoss(loss, vae, arguments.graphs)

    def loss_of(number: int) -> dict[str, Tensor]:
        # by the step, which all processes have in common
        still = not arguments.begin_with and training.progress < STILL
        frames, count = (1, arguments.batch * arguments.frames) if still else (arguments.frames, arguments.batch)
        return graphed(frames, draw_batch(bank, count, frames, number))

    training.run(loss_of)
    if ranks.first:
        with training.averaged():
            measure_latents(vae, bank)
            vae.to(torch.bfloat16).save_pretrained(arguments.out)
    ranks.leave()


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, bank: ClipBank) -> None:
    """Write mean and standard deviation of the latents into the VAE's config."""
    clips, _, _ = bank.batch(64, bank.frames, torch.Generator().manual_seed(0))
    mean = torch.cat([encode_together(vae, part)[:, : vae.config.z_dim].float() for part in clips.split(8)])
    centre, spread = mean.mean(dim=(0, 2, 3, 4)), mean.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=centre.tolist(), latents_std=spread.tolist())


if __name__ == "__main__":
    main()

"""Train the toy Wan VAE on drawn avatars: reconstruction and KL loss, weighted towards the mouth.

    python -m training.pocket.video_vae.train --run runs/training/video_vae --out weights/pocket/video_vae --minutes 9

(for several GPUs see `training/pocket/ranks.py`). Run the same command again to resume. The model card lists how the
bundled weights were trained.
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
KL_WEIGHT = 2e-4  # small: the KL term only bounds the latents' scale
# A mouth covers a hundredth of the picture, but its motion is what matters. Without a high weight, the VAE reconstructs
# the mean of the four frames that share a latent.
MOUTH_WEIGHT, FEATURE_WEIGHT = 24.0, 3.0
CHANGE_WEIGHT = 1.0  # weight of the error in frame-to-frame change
# When training from scratch, this first share of it uses single frames, in batches that fill a GPU: spatial structure
# before time.
STILL = 0.3


def build(seed: int = 0) -> AutoencoderKLWan:
    """The toy VAE at initialisation."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(**CONFIG)
    forget_the_past(vae)
    return vae


def reconstruction_loss(made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """L1 loss of pixels, of differences between neighbouring pixels and of change over time.

    Args:
        made, true: [B, 3, F, H, W].
        weight: [B, 1, F, H, W], weight of each pixel.
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
    """The loss of a batch of `draw_batch`, and reconstruction metrics."""
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
    """Sample batch `number`: cuts of `frames` frames, their mouth and feature masks, and noise for the latents."""
    clips, mouth, features = bank.batch(count, frames, torch.Generator().manual_seed(number))
    size = clips.shape[-1] // 8
    shape = clips.new_empty(count, int(CONFIG["z_dim"]), (frames + 3) // 4, size, size)  # type: ignore[call-overload]
    return {"clips": clips, "mouth": mouth, "features": features, "noise": noise_like(shape, number)}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=8.0, steps=40_000, batch=16, learning_rate=1.5e-3)
    parser.add_argument("--out", type=Path, required=True, help="output folder for the trained VAE")
    parser.add_argument("--begin-with", type=Path, help="folder of a trained VAE whose weights to start from")
    parser.add_argument("--clips", type=int, default=4000, help="clips that each process draws")
    parser.add_argument("--frames", type=int, default=17, help="frames per clip, 4n + 1")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs on a GPU")
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
        # from the progress, which all ranks share, and not from `number`
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
    """Store mean and standard deviation of the latents in the VAE's config, for normalisation."""
    clips, _, _ = bank.batch(64, bank.frames, torch.Generator().manual_seed(0))
    mean = torch.cat([encode_together(vae, part)[:, : vae.config.z_dim].float() for part in clips.split(8)])
    centre, spread = mean.mean(dim=(0, 2, 3, 4)), mean.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=centre.tolist(), latents_std=spread.tolist())


if __name__ == "__main__":
    main()

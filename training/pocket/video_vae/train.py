"""Train the toy Wan VAE on drawn avatars.

    python -m training.pocket.video_vae.train --run runs/training/video_vae --out weights/pocket/video_vae --minutes 9

The same command again goes on where it stopped. What the shipped weights had is in the model card.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.pocket.loop import Plan, Training, add_plan_arguments
from training.pocket.video_vae.clips import ClipBank
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
MOUTH_WEIGHT = 3.0


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
        loss = loss + 0.5 * ((error[:, :, 1:] - error[:, :, :-1]).abs() * weight[:, :, 1:]).mean()
    return loss


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=8.0, steps=20_000, batch=16, learning_rate=1.5e-3)
    parser.add_argument("--out", type=Path, required=True, help="where the trained VAE goes")
    parser.add_argument("--clips", type=int, default=4000, help="clips drawn before training")
    parser.add_argument("--frames", type=int, default=17, help="of each clip, 4n + 1")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True
    vae = build().to(device)
    plan = Plan.of(arguments)
    training = Training(vae, arguments.run, plan)
    began = time.monotonic()
    bank = ClipBank.draw(arguments.clips, arguments.frames, arguments.pixels, device, seed=training.step)
    print(f"drawn: {len(bank.pixels)} clips of {bank.frames} frames in {time.monotonic() - began:.0f} s", flush=True)
    parts = torch.compile(_encode_decode, dynamic=False) if device.type == "cuda" else _encode_decode

    def loss_of(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        # single frames first: space is learnt before time, and at a batch that fills the GPU
        frames = 1 if training.progress < 0.3 else arguments.frames
        clips, mouth = bank.batch(arguments.batch * (arguments.frames if frames == 1 else 1), frames, generator)
        with torch.autocast(device.type, torch.bfloat16):
            made, mean, log_variance = parts(vae, clips)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        weight = 1 + MOUTH_WEIGHT * mouth
        reconstruction = reconstruction_loss(made, clips, weight)
        error = F.mse_loss(made.float().clamp(-1, 1), clips.float())
        return {
            "loss": reconstruction + KL_WEIGHT * divergence,
            "reconstruction": reconstruction.detach(),
            "kl": divergence.detach(),
            "psnr": (10 * torch.log10(4 / error)).detach(),
        }

    training.run(loss_of)
    with training.averaged():
        measure_latents(vae, bank)
        vae.to(torch.bfloat16).save_pretrained(arguments.out)


def _encode_decode(vae: AutoencoderKLWan, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, log_variance = encode_together(vae, clips).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-20, 10)
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    return decode_together(vae, latents), mean, log_variance


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, bank: ClipBank) -> None:
    """Write mean and standard deviation of the latents into the VAE's config."""
    clips, _ = bank.batch(64, bank.frames, torch.Generator().manual_seed(0))
    mean = torch.cat([encode_together(vae, part)[:, : vae.config.z_dim].float() for part in clips.split(8)])
    centre, spread = mean.mean(dim=(0, 2, 3, 4)), mean.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=centre.tolist(), latents_std=spread.tolist())


if __name__ == "__main__":
    main()

"""Train the toy VAE of text_to_image on drawn avatars.

    python -m training.pocket.text_to_image.train_vae --run runs/training/image_vae \\
        --out weights/pocket/text_to_image/vae --minutes 2 --total-minutes 2

Run the same command again to resume. The model card lists how the bundled weights were trained. The last line is the
PSNR on avatars that it was not trained on.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from training.pocket.flow import noise_like
from training.pocket.loop import Plan, Training, add_plan_arguments
from training.pocket.text_to_image.embedding import patched
from training.pocket.text_to_image.networks import build_vae
from training.pocket.text_to_image.pictures import Pictures

KL_WEIGHT = 2e-4  # small: the KL term only bounds the latents' scale


def reconstruction_loss(made: Tensor, true: Tensor) -> Tensor:
    """L1 loss of pixels [B, 3, H, W] and of differences between neighbours, which keeps lines sharp."""
    error = (made - true).float()
    right, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + 0.5 * (right.abs().mean() + down.abs().mean())


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=2.0, steps=20_000, batch=64, learning_rate=1.5e-3)
    parser.add_argument("--out", type=Path, required=True, help="output folder for the trained VAE")
    parser.add_argument("--pictures", type=int, default=20_000, help="pictures to draw before training")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--every", type=int, default=50, help="steps between log lines")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True
    vae = build_vae().to(device, memory_format=torch.channels_last)
    plan = Plan.of(arguments)
    training = Training(vae, arguments.run, plan)
    began = time.monotonic()
    size = (arguments.pixels, arguments.pixels)
    pictures = Pictures.draw(arguments.pictures, size, device, seed=training.step)
    print(f"drawn: {arguments.pictures} pictures in {time.monotonic() - began:.0f} s", flush=True)

    def loss_of(step: int) -> dict[str, Tensor]:
        true = pictures.batch(arguments.batch, torch.Generator().manual_seed(step))
        true = true.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            moments = vae.encode(true).latent_dist
            mean, deviation = moments.mean.float(), moments.std.float()
            made = vae.decode(mean + deviation * noise_like(mean, step)).sample
        divergence = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()).mean()
        reconstruction = reconstruction_loss(made, true)
        error = F.mse_loss(made.float().clamp(-1, 1), true)
        return {
            "loss": reconstruction + KL_WEIGHT * divergence,
            "reconstruction": reconstruction.detach(),
            "kl": divergence.detach(),
            "psnr": (10 * torch.log10(4 / error)).detach(),
        }

    training.run(loss_of, every=arguments.every)
    with training.averaged():
        measure_latents(vae, pictures)
        vae.to(torch.bfloat16).save_pretrained(arguments.out)
    unseen = Pictures.draw(min(500, arguments.pictures), size, device, seed=1, split="held_out")
    print(json.dumps({"psnr_db": round(psnr(arguments.out, unseen), 2), "steps": training.step}))


@torch.no_grad()
def measure_latents(vae: AutoencoderKLFlux2, pictures: Pictures) -> None:
    """Set mean and variance of the latent patches in the VAE's `bn`, with which the pipeline normalises them."""
    generator = torch.Generator().manual_seed(0)
    parts = [pictures.batch(64, generator) for _ in range(min(32, 1 + len(pictures.pixels) // 64))]
    patches = torch.cat([patched(vae.encode(part).latent_dist.mode()) for part in parts])
    vae.bn.running_mean.copy_(patches.mean(dim=(0, 2, 3)))
    vae.bn.running_var.copy_(patches.var(dim=(0, 2, 3)))


@torch.no_grad()
def psnr(folder: Path, pictures: Pictures) -> float:
    """Reconstruction PSNR in dB of the VAE in `folder`, loaded as the pipeline loads it."""
    device = pictures.pixels.device
    vae = AutoencoderKLFlux2.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    each = []
    for part in pictures.pixels.split(50):
        true = part.float() / 127.5 - 1
        error = (vae(true).sample.clamp(-1, 1) - true).square().mean(dim=(1, 2, 3))
        each.append(10 * torch.log10(4 / error.clamp(min=1e-8)))
    return float(torch.cat(each).mean())


if __name__ == "__main__":
    main()

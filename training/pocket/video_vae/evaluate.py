"""Measure a toy Wan VAE on avatars that it was not trained on, through diffusers' own encode and decode.

python -m training.pocket.video_vae.evaluate --vae weights/pocket/video_vae --picture strip.png
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor

from training.pocket.video_vae.clips import ClipBank


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, [B, F], of pixels [B, 3, F, H, W] in [-1, 1]."""
    return 10 * torch.log10(4 / (made - true).square().mean(dim=(1, 3, 4)).clamp(min=1e-8))


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=157, help="4n + 1; 157 is what the pipelines decode at once")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--picture", type=Path, help="write a strip: truth above, what comes back below")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    vae = AutoencoderKLWan.from_pretrained(arguments.vae, torch_dtype=torch.float32).to(device).eval()
    bank = ClipBank.draw(arguments.clips, arguments.frames, arguments.pixels, device, seed=1, split="held_out")
    clips, mouths = bank.batch(arguments.clips, arguments.frames, torch.Generator().manual_seed(0))
    latents = torch.cat([vae.encode(clip[None]).latent_dist.mode() for clip in clips])
    made = torch.cat([vae.decode(latent[None]).sample for latent in latents])
    each = psnr(made, clips)
    mouth_error = ((made - clips).square() * mouths).sum() / (3 * mouths.sum())
    last = arguments.frames - 1
    figures = {
        "psnr_db": round(float(each.mean()), 2),
        "psnr_first_frame_db": round(float(each[:, 0].mean()), 2),
        "psnr_middle_frame_db": round(float(each[:, last // 2].mean()), 2),
        "psnr_last_frame_db": round(float(each[:, last].mean()), 2),
        "psnr_mouth_db": round(float(10 * torch.log10(4 / mouth_error)), 2),
        "frames": arguments.frames,
        "clips": arguments.clips,
    }
    print(json.dumps(figures))
    if arguments.picture:
        few = slice(None, None, max(1, last // 3))
        shown = torch.stack([clips[:4, :, few], made[:4, :, few]])  # [2, 4, 3, f, H, W]
        strip = shown.permute(1, 0, 4, 3, 5, 2).flatten(0, 2).flatten(1, 2)
        Image.fromarray((strip.clamp(-1, 1) * 127.5 + 127.5).round().byte().cpu().numpy()).save(arguments.picture)


if __name__ == "__main__":
    main()

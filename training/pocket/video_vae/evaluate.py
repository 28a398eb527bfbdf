"""Measure a toy Wan VAE on held-out avatars, with diffusers' own encode and decode.

python -m training.pocket.video_vae.evaluate --vae weights/pocket/video_vae --picture strip.png
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from training.pocket.video_vae.clips import ClipBank
from training.pocket.video_vae.figures import mouth_change, mouth_psnr, psnr


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=157, help="4n + 1; the pipelines decode 157 at once")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--picture", type=Path, help="write a strip: originals above, reconstructions below")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    vae = AutoencoderKLWan.from_pretrained(arguments.vae, torch_dtype=torch.float32).to(device).eval()
    bank = ClipBank.draw(arguments.clips, arguments.frames, arguments.pixels, device, seed=1, split="held_out")
    clips, mouths, _ = bank.batch(arguments.clips, arguments.frames, torch.Generator().manual_seed(0))
    latents = torch.cat([vae.encode(clip[None]).latent_dist.mode() for clip in clips])
    made = torch.cat([vae.decode(latent[None]).sample for latent in latents])
    each = psnr(made, clips)
    last = arguments.frames - 1
    figures = {
        "psnr_db": round(float(each.mean()), 2),
        "psnr_first_frame_db": round(float(each[:, 0].mean()), 2),
        "psnr_middle_frame_db": round(float(each[:, last // 2].mean()), 2),
        "psnr_last_frame_db": round(float(each[:, last].mean()), 2),
        "psnr_mouth_db": round(float(mouth_psnr(made, clips, mouths)), 2),
        "mouth_change": round(float(mouth_change(made, clips, mouths)), 3),
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

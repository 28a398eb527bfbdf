"""Train the toy upscaler on drawn avatars; a CPU is enough.

    python -m training.pocket.upscale.train --run runs/training/upscale --out weights/pocket/upscale \
        --vae weights/pocket/video_vae --minutes 40

Run the same command again to resume. The model card lists how the bundled weights were trained.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.pocket.loop import Plan, Training, add_plan_arguments
from training.pocket.upscale.network import build, published
from training.pocket.upscale.pictures import Pictures

FILE = "rrdbnet_x2.safetensors"
EDGE_WEIGHT = 0.5  # loss weight of differences between neighbouring pixels, which keeps edges sharp


def enlarging_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 loss of pixels and of differences between neighbouring pixels, of [B, 3, H, W]."""
    error = made - wanted
    right, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + EDGE_WEIGHT * (right.abs().mean() + down.abs().mean())


def save(network: nn.Module, folder: Path) -> Path:
    """Write the weights under Real-ESRGAN's key names, in half precision; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in published(network.state_dict()).items()}
    save_file(tensors, folder / FILE)
    return folder / FILE


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=40.0, steps=20_000, batch=6, learning_rate=1e-3)
    parser.add_argument("--out", type=Path, required=True, help="output folder for the weights")
    parser.add_argument("--avatars", type=int, default=800, help="avatars to draw before training")
    parser.add_argument("--vae", type=Path, help="folder of a Wan VAE; trains on its decoded pictures too")
    parser.add_argument("--decoded", type=int, default=120, help="number of avatars passed through it")
    parser.add_argument("--pixels", type=int, default=128, help="height and width before upscaling")
    parser.add_argument("--crop", type=int, default=40, help="height and width of a crop before upscaling")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    network = build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = Plan.of(arguments)
    training = Training(network, arguments.run, plan)
    began = time.monotonic()
    pictures = Pictures.draw(arguments.avatars, arguments.pixels, 0, "train", arguments.vae, arguments.decoded)
    print(f"drawn: {len(pictures.large)} avatars in {time.monotonic() - began:.0f} s", flush=True)

    def loss_of(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        given, wanted = (part.to(device) for part in pictures.batch(arguments.batch, arguments.crop, generator))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            made = network(given.contiguous(memory_format=torch.channels_last))
        made = made.float()
        error = (made.detach().clamp(0, 1) - wanted).square().mean(dim=(1, 2, 3)).clamp(min=1e-8)
        return {"loss": enlarging_loss(made, wanted), "psnr": (-10 * torch.log10(error)).mean()}

    training.run(loss_of)
    with training.averaged():
        print(f"written: {save(network, arguments.out)}")


if __name__ == "__main__":
    main()

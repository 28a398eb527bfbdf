"""Train the attribute judge, a classifier, on drawn pictures, half of them passed through the toy VAE.

    python -m training.pocket.text_to_image.train_judge --run runs/training/attribute_judge \\
        --vae weights/pocket/text_to_image/vae --minutes 0.6 --total-minutes 0.6

Run the same command again to resume. The last line is the accuracy on unseen avatars.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from training.pocket.loop import Plan, Training, add_plan_arguments
from training.pocket.text_to_image.judge import HEADS, NOT_SEEN, SIZE, WEIGHTS, AttributeJudge, labels_of, prepared
from training.pocket.text_to_image.pictures import Pictures
from training.pocket.world.attributes import CHOICES


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=0.6, steps=20_000, batch=256, learning_rate=2e-3)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="output file for the weights")
    parser.add_argument("--vae", type=Path, help="trained VAE to pass half of the pictures through")
    parser.add_argument("--pictures", type=int, default=40_000, help="pictures to draw before training")
    parser.add_argument("--every", type=int, default=50, help="steps between log lines")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    judge = AttributeJudge().to(device)
    plan = Plan.of(arguments)
    training = Training(judge, arguments.run, plan, weight_decay=0.02)
    began = time.monotonic()
    pixels, labels = draw(arguments.pictures, device, training.step, arguments.vae)
    print(f"drawn: {len(pixels)} pictures in {time.monotonic() - began:.0f} s", flush=True)

    def loss_of(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(pixels), (arguments.batch,), generator=generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = judge(worsened(prepared(pixels[rows]), torch.Generator(device).manual_seed(step))).float()
        heads = judge.by_head(logits)
        losses = [
            F.cross_entropy(heads[name], labels[rows, i], ignore_index=NOT_SEEN, label_smoothing=0.02, reduction="sum")
            for i, name in enumerate(HEADS)
        ]
        right = torch.stack([(heads[name].argmax(1) == labels[rows, i]).sum() for i, name in enumerate(HEADS)]).sum()
        seen = (labels[rows] != NOT_SEEN).sum()
        return {"loss": torch.stack(losses).sum() / seen, "right": right / seen}

    training.run(loss_of, every=arguments.every)
    with training.averaged():
        settle(judge, pixels)
        judge.save(arguments.out)
    print(json.dumps(accuracy(AttributeJudge.load(arguments.out, device), min(2000, arguments.pictures))))


def draw(count: int, device: torch.device, seed: int, vae_folder: Path | None) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 3, 128, 128] and their labels [N, len(HEADS)], half of each split."""
    parts = [Pictures.draw(count // 2, (SIZE, SIZE), device, seed + 7, "train")]
    parts.append(Pictures.draw(count - count // 2, (SIZE, SIZE), device, seed + 8, "held_out"))
    pixels = torch.cat([part.pixels for part in parts])
    labels = torch.cat([labels_of(part.attributes) for part in parts]).to(device)
    if vae_folder is not None:
        vae = AutoencoderKLFlux2.from_pretrained(vae_folder, dtype=torch.float32).to(device).eval()
        for part in pixels[::2].split(64):  # views: the results are written into `pixels`
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                made = vae(part.float() / 127.5 - 1).sample
            part.copy_((made.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8))
    return pixels, labels


def worsened(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Augment pictures [B, 3, H, W]: noise, small shifts, and blur for some."""
    device = pictures.device
    shift = torch.randint(-4, 5, (2,), generator=generator, device=device).tolist()
    moved = F.pad(pictures, (4, 4, 4, 4), mode="replicate")
    moved = moved[..., 4 + shift[0] : 4 + shift[0] + SIZE, 4 + shift[1] : 4 + shift[1] + SIZE]
    share = torch.rand(len(pictures), 1, 1, 1, generator=generator, device=device).square()
    soft = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.randn(pictures.shape, generator=generator, device=device)
    return torch.lerp(moved, soft, share) + 0.04 * torch.rand((), generator=generator, device=device) * noise


@torch.no_grad()
def settle(judge: AttributeJudge, pixels: Tensor) -> None:
    """Recompute the batch norms' running statistics: those of training do not belong to the EMA weights."""
    for module in judge.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean of all batches
    judge.train()
    for part in pixels[: 20 * 256].split(256):
        judge(prepared(part))
    judge.eval()


def accuracy(judge: AttributeJudge, count: int) -> dict[str, float]:
    """Accuracy of the judge on visible attributes of unseen avatars: overall, and per attribute."""
    pictures = Pictures.draw(count, (SIZE, SIZE), judge.words.weight.device, seed=2, split="held_out")
    labels = labels_of(pictures.attributes)
    read = judge.read(pictures.pixels)
    found = torch.tensor([[CHOICES[name].index(words[name]) for name in HEADS] for words in read])
    seen, right = labels != NOT_SEEN, found == labels
    each = {name: round(float(right[:, i][seen[:, i]].float().mean()), 4) for i, name in enumerate(HEADS)}
    return {"judge_right": round(float(right[seen].float().mean()), 4), **each}


if __name__ == "__main__":
    main()

"""How much of the gradient lips, face and the rest of the picture get, by mode and floor of the loss.

    python -m training.loop.loss_shares                         # of a typical talking head at 480×832
    python -m training.loop.loss_shares --samples data/me/samples

Every place has the same error on average, and branches are drawn as in training, so the shares are those that the
weights of the loss give. The output is the table of docs/training.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from training.config.training_config import Mode
from training.data.masks import latent_masks
from training.data.samples import Samples
from training.loop.loss import SHARES, LatentMasks, s2v_loss

CHOICES: tuple[tuple[Mode, float], ...] = (
    ("paper", 0.0),
    *(("normalised", floor) for floor in (0.0, 0.1, 0.2, 0.3, 0.6, 0.9)),
)
HEIGHT, WIDTH, FRAMES = 480, 832, 16
DRAWS = 64  # of random errors for each branch, whose mean is within 1 % of their limit
PARTS = ("lips", "face", "rest")


def gradient_shares(
    masks: LatentMasks, mode: Mode, floor: float, branch: int | None = None, draws: int = DRAWS
) -> dict[str, float]:
    """Shares of lips, of the face without them, and of the rest in the sum of the gradient's absolute values.

    Args:
        masks: of one sample.
        branch: of the loss; None for all, as often as each is drawn.
    """
    generator = torch.Generator().manual_seed(0)
    frequency = dict(enumerate(SHARES)) if branch is None else {branch: 1.0}
    seen = masks.valid[:, :, None, None]
    lip = masks.lip * seen
    face = (masks.face * seen - lip).clamp(min=0)
    gradient = torch.zeros_like(masks.face)
    target = torch.zeros(draws, 1, *masks.face.shape[1:])
    repeated = LatentMasks(*(each.expand(draws, *each.shape[1:]) for each in (masks.face, masks.lip, masks.valid)))
    for each, often in frequency.items():
        error = torch.randn(target.shape, generator=generator).requires_grad_(True)
        s2v_loss(error, target, target, repeated, torch.full((draws,), each), mode, floor).loss.backward()
        assert error.grad is not None
        gradient += often * error.grad.abs().sum(dim=(0, 1))[None]
    parts = [float((gradient * each).sum()) for each in (lip, face, 1 - lip - face)]
    return dict(zip(PARTS, (part / sum(parts) for part in parts), strict=True))


def typical_masks() -> LatentMasks:
    """Of a talking head at 480×832: an oval of a tenth of the picture, and lips of 3 per thousand of it."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")

    def oval(below: float, across: float, down: float) -> torch.Tensor:
        return (((x - WIDTH / 2) / across) ** 2 + ((y - HEIGHT / 2 - below) / down) ** 2 <= 1).float()

    face, lips = (latent_masks(mask.expand(1, FRAMES, -1, -1)) for mask in (oval(0, 98, 130), oval(60, 30, 12.7)))
    return LatentMasks(face, lips, torch.ones(1, face.shape[1], dtype=torch.bool))


def table(masks: Sequence[LatentMasks]) -> list[str]:
    """The table in Markdown: a line for each mode and floor, means over the samples."""
    lines = [
        "| `loss` | `loss_floor` | lips | rest of the face | rest of the picture |",
        "| --- | --- | --- | --- | --- |",
    ]
    for mode, floor in CHOICES:
        shares = [gradient_shares(each, mode, floor) for each in masks]
        cells = [f"{100 * sum(share[part] for share in shares) / len(shares):.1f} %" for part in PARTS]
        lines.append(f"| {mode} | {'–' if mode == 'paper' else floor} | {' | '.join(cells)} |")
    return lines


def masks_of(folder: Path) -> list[LatentMasks]:
    """The masks of the encoded samples in a folder, those with a face."""
    samples = Samples(folder)
    batches = (samples.batch([row], torch.device("cpu")) for row in range(len(samples)))
    return [LatentMasks(each["face"], each["lip"], each["valid"]) for each in batches if each["lip"].any()]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.loop.loss_shares", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--samples", type=Path, help="folder of encoded samples (default: a typical talking head)")
    arguments = parser.parse_args(argv)
    print("\n".join(table(masks_of(arguments.samples) if arguments.samples else [typical_masks()])))


if __name__ == "__main__":
    main()

"""How much of the gradient lips, face and the rest of the picture get, by mode and floor of the loss.

    python -m training.loop.loss_shares                         # of a typical talking head at 480×832
    python -m training.loop.loss_shares --samples data/me/samples
    python -m training.loop.loss_shares --samples data/me/samples --sample NAME --loss_floor 0.2 --save map.npz

Every place has the same error on average, and branches are drawn as in training, so the shares are those that the
weights of the loss give. The output is the table of docs/training.md. `--save` keeps where in one sample the gradient
is, which notebook 12 draws over its frames.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from training.config.training_config import BRANCHES, SHARES, Mode, TrainingConfig
from training.data.masks import latent_masks
from training.data.samples import Samples
from training.loop.loss import LatentMasks, s2v_loss
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import whole_file

CHOICES: tuple[tuple[Mode, float], ...] = (
    ("paper", 0.0),
    *(("normalised", floor) for floor in (0.0, 0.1, 0.2, 0.3, 0.6, 0.9)),
)
HEIGHT, WIDTH, FRAMES = 480, 832, 16
DRAWS = 64  # of random errors for each branch, with which a share is within 1 % of its limit
# numbers drawn for a map, at least `DRAWS` for each place: of small pictures enough that single places are within 3 %
DRAWN_FOR_MAP = 2_000_000
PARTS = ("lips", "face", "rest")


def gradient_shares(
    masks: LatentMasks, mode: Mode, floor: float, branch: int | None = None, draws: int = DRAWS
) -> dict[str, float]:
    """Shares of lips, of the face without them, and of the rest in the sum of the gradient's absolute values.

    Args:
        masks: of one sample.
        branch: of the loss; None for all, as often as each is drawn.
    """
    return shares_of(gradient_map(masks, mode, floor, branch, draws), masks)


def gradient_map(masks: LatentMasks, mode: Mode, floor: float, branch: int | None = None, draws: int = DRAWS) -> Tensor:
    """The gradient's absolute value at each place of one sample, [1, T, h, w], the mean over random errors.

    Args:
        masks, branch: as for `gradient_shares`. All maps are in one unit, so that the one of all branches is the sum of
            theirs, each as often as it is drawn.
    """
    generator = torch.Generator().manual_seed(0)
    frequency = dict(enumerate(SHARES)) if branch is None else {branch: 1.0}
    gradient = torch.zeros_like(masks.face)
    target = torch.zeros(draws, 1, *masks.face.shape[1:])
    repeated = LatentMasks(*(each.expand(draws, *each.shape[1:]) for each in (masks.face, masks.lip, masks.valid)))
    for each, often in frequency.items():
        error = torch.randn(target.shape, generator=generator).requires_grad_(True)
        s2v_loss(error, target, target, repeated, torch.full((draws,), each), mode, floor).loss.backward()
        assert error.grad is not None
        gradient += often * error.grad.abs().sum(dim=(0, 1))[None]
    return gradient


def shares_of(gradient: Tensor, masks: LatentMasks) -> dict[str, float]:
    """Shares of lips, of the face without them, and of the rest in a map."""
    seen = masks.valid[:, :, None, None]
    lip = masks.lip * seen
    face = (masks.face * seen - lip).clamp(min=0)
    parts = [float((gradient * each).sum()) for each in (lip, face, 1 - lip - face)]
    return dict(zip(PARTS, (part / sum(parts) for part in parts), strict=True))


def save_maps(folder: Path, name: str, mode: Mode, floor: float, path: Path) -> None:
    """Save the maps of a sample, by branch and of all branches, as NumPy's npz.

    It has `maps` [4, T, h, w], the branches' and that of all, as multiples of the mean place's value, `shares` [4, 3]
    of lips, face and rest in them, and `area` [3] of these parts in the picture.

    Raises:
        LabError: there is no such sample.
        DiskFull: there is no room.
    """
    samples = Samples(folder)
    rows = [row for row, entry in enumerate(samples.entries) if entry.name == name]
    if not rows:
        raise LabError(f"There is no sample {name} to train on in {folder}. Encode the data again.")
    batch = samples.batch(rows, torch.device("cpu"))
    masks = LatentMasks(batch["face"], batch["lip"], batch["valid"])
    draws = max(DRAWS, DRAWN_FOR_MAP // masks.face.numel())
    found = [gradient_map(masks, mode, floor, branch, draws) for branch in (*range(len(BRANCHES)), None)]
    shares = [list(shares_of(each, masks).values()) for each in (*found, torch.ones_like(masks.face))]
    with whole_file(path) as draft, open(draft, "wb") as stream:
        maps = torch.cat([each / each.mean() for each in found])
        np.savez(stream, maps=maps.half().numpy(), shares=np.array(shares[:-1]), area=np.array(shares[-1]))


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
    fields = TrainingConfig.model_fields
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the maps of one sample in this file (.npz)")
    parser.add_argument("--sample", metavar="NAME", help="its name, for --save")
    parser.add_argument("--loss", choices=get_args(Mode), default=fields["loss"].default, help="for --save")
    parser.add_argument("--loss_floor", type=float, default=fields["loss_floor"].default, help="for --save")
    arguments = parser.parse_args(argv)
    if arguments.save and not (arguments.samples and arguments.sample):
        parser.error("--save needs --samples and --sample: it saves the maps of one sample")
    try:
        if arguments.save:
            save_maps(arguments.samples, arguments.sample, arguments.loss, arguments.loss_floor, arguments.save)
        else:
            print("\n".join(table(masks_of(arguments.samples) if arguments.samples else [typical_masks()])))
    except LabError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

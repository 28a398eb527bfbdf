"""The mouth judge's network: one frame in; tracks (mouth, pose, camera), landmarks and region masks out.

A small convolutional pyramid. On its second finest level, sixteen attention maps each attend to one position: the first
ones are trained to land on landmarks, the rest are free. Features at these positions and their coordinates give the
tracks.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.files import whole_file

SIZE = 128  # pixels; frames are resized to this
REGION_SIZE = 64  # width and height of a region mask in pixels
# track name: scale of the track, the error that has the weight 1 in the loss
TRACKS: dict[str, float] = {
    "opening": 0.10,
    "wide": 0.5,
    "round": 0.4,
    "yaw": 0.15,
    "pitch": 0.12,
    "roll": 0.10,
    "place_x": 0.10,
    "place_y": 0.10,
    "zoom": 0.10,
    "gaze_x": 0.35,
    "gaze_y": 0.35,
    "blink": 0.25,
    "brow": 0.35,
    "smile": 0.35,
}
POINTS = (
    "mouth_left",
    "mouth_right",
    "lip_above",
    "lip_below",
    "eye_left",
    "eye_right",
    "iris_left",
    "iris_right",
    "nose",
    "brow_left",
    "brow_right",
    "chin",
)
REGIONS = ("hair", "skin", "clothes", "background")
_PLACES, _WIDTH = 16, 48
_RELATIVE_SCALE = 6.0


class Judge(nn.Module):
    """The judge of single frames; 0.45 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.at_half = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), _Residual(32, normed=False))
        self.at_quarter = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), _Residual(64))
        self.at_eighth = nn.Sequential(nn.Conv2d(64, 96, 3, stride=2, padding=1), _Residual(96))
        self.from_eighth = nn.Conv2d(96, _WIDTH, 1)
        self.from_quarter = nn.Conv2d(64, _WIDTH, 1)
        self.from_half = nn.Conv2d(32, _WIDTH, 1)
        self.mix = nn.Sequential(nn.SiLU(), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.GroupNorm(8, _WIDTH), nn.SiLU())
        self.places = nn.Conv2d(_WIDTH, _PLACES, 1)
        self.tracks = nn.Sequential(nn.Linear(_PLACES * (_WIDTH + 4), 96), nn.SiLU(), nn.Linear(96, len(TRACKS)))
        self.to_fine = nn.Conv2d(_WIDTH, 16, 1)
        self.regions = nn.Sequential(nn.SiLU(), nn.Conv2d(16, len(REGIONS) + 1, 3, padding=1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read frames.

        Args:
            pixels: [N, 3, SIZE, SIZE] in -1..1.

        Returns:
            Tracks [N, len(TRACKS)] in their own units; points [N, len(POINTS), 2] as (x, y), -1..1 across the picture;
            region logits [N, len(REGIONS) + 1, REGION_SIZE, REGION_SIZE], the last is "none".
        """
        fine = F.silu(self.stem(pixels))
        half = self.at_half(fine)
        quarter = self.at_quarter(half)
        coarse = _doubled(self.from_eighth(self.at_eighth(quarter))) + self.from_quarter(quarter)
        features = self.mix(_doubled(coarse) + self.from_half(half))
        logits = self.regions(_doubled(self.to_fine(features)) + fine)

        with torch.autocast(pixels.device.type, enabled=False):
            features = features.float()
            side = features.shape[-1]
            weights = self.places(features).flatten(2).softmax(dim=-1)
            ruler = (torch.arange(side, device=pixels.device) + 0.5) * (2 / side) - 1
            grid = torch.stack(torch.meshgrid(ruler, ruler, indexing="xy"), dim=-1).flatten(0, 1)
            points = weights @ grid
            seen = weights @ features.flatten(2).transpose(1, 2)
            scale = torch.tensor(list(TRACKS.values()), device=pixels.device)
            # the head pose shows in the relative positions of the landmarks, by a few hundredths of the picture
            about = _RELATIVE_SCALE * (points - points[:, : len(POINTS)].mean(dim=1, keepdim=True))
            tracks = self.tracks(torch.cat([seen, points, about], dim=-1).flatten(1)) * scale
        return tracks, points[:, : len(POINTS)], logits.float()

    def save(self, path: Path) -> None:
        """Write the weights as float16, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            save_file(
                {name: tensor.detach().half().contiguous() for name, tensor in self.state_dict().items()}, temporary
            )

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """Load the weights, in evaluation mode.

        Raises:
            WeightsError: they are missing or belong to another network.
        """
        if not path.is_file():
            raise WeightsError(
                f"There are no judge weights at {path}. Train it: "
                f"`python -m training.pocket.judge.train --run runs/training/judge --out {path}`."
            )
        judge = cls()
        try:
            judge.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        except (SafetensorError, RuntimeError) as error:
            raise WeightsError(f"{path} is not a judge of this release ({error}). Train it again.") from error
        return judge.eval().requires_grad_(False)


class _Residual(nn.Module):
    def __init__(self, width: int, *, normed: bool = True) -> None:
        super().__init__()

        def layer() -> nn.Sequential:
            norm = nn.GroupNorm(8, width) if normed else nn.Identity()
            return nn.Sequential(norm, nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

        self.first, self.second = layer(), layer()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

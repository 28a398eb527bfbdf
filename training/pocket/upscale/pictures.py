"""A bank of avatars drawn at two sizes, from which training samples its crops."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.pocket.upscale.soften import halved, softened
from training.pocket.video_vae.clips import babble
from training.pocket.world.attributes import Split, sample_attributes
from training.pocket.world.figure import render
from training.pocket.world.motion import sample_actions, sample_motion
from training.pocket.world.visemes import FPS, mouth_track

CHUNK = 50  # avatars drawn at once
SECONDS = 3.0  # of motion, from which one random frame is drawn
# shares of crops that are decoded by the VAE, drawn small, or halved; the rest is degraded
DECODED, DRAWN, HALVED = 0.2, 0.15, 0.3
# share of crops in random colours, so that black, white and colours that no avatar has occur in training too
RECOLOURED = 0.25


@dataclass
class Pictures:
    """N avatars, in uint8: `large` [N, 3, 2S, 2S] drawn at twice the size, `small` [N, 3, S, S] drawn at the size.

    `decoded` [M, 3, S, S] are the first M of `small`, passed through a VAE.
    """

    large: Tensor
    small: Tensor
    decoded: Tensor

    @classmethod
    def draw(
        cls, count: int, pixels: int, seed: int, split: Split, vae: Path | None = None, decoded: int = 0
    ) -> "Pictures":
        """Draw `count` different avatars while moving and talking, at `pixels` and twice that size.

        Args:
            vae: folder of the Wan VAE that the first `decoded` avatars pass through.
        """
        large: list[Tensor] = []
        small: list[Tensor] = []
        for start in range(0, count, CHUNK):
            number = min(CHUNK, count - start)
            part = seed * 1_000_003 + start
            attributes = sample_attributes(number, part, split)
            generator = torch.Generator().manual_seed(part)
            actions = sample_actions(number, part)
            moment = SECONDS * float(torch.rand((), generator=generator))
            pose = sample_motion(number, 1, part, actions, start=moment, duration=SECONDS)
            frames = 8 * number
            words = mouth_track(babble(frames / FPS, generator), frames).mouth[::8, None]
            pose = pose.speaking(words)
            for size, drawn in ((2 * pixels, large), (pixels, small)):
                drawn.append((render(attributes, pose, (size, size))[:, 0] * 255).round().to(torch.uint8))
        drawn_small = torch.cat(small)
        soft = through_vae(drawn_small[:decoded], vae) if vae and decoded else drawn_small[:0]
        return cls(torch.cat(large), drawn_small, soft)

    def batch(self, count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample crops of `side` pixels, a multiple of 8: inputs [B, 3, side, side], and targets twice as large.

        Inputs are clean, degraded or decoded by the VAE; all in 0..1, inputs quantised to 8-bit levels.
        """
        given, wanted = [], []
        shares = torch.rand(count, generator=generator).tolist()
        room = (self.small.shape[-1] - side) // 2 + 1
        for share in shares:
            through = share < DECODED and len(self.decoded) > 0
            row = int(torch.randint(len(self.decoded if through else self.large), (), generator=generator))
            # even positions, like those of the stage's tiles
            top, left = (2 * int(torch.randint(room, (), generator=generator)) for _ in range(2))
            place = (row, slice(None), slice(top, top + side), slice(left, left + side))
            given.append((self.decoded if through else self.small)[place])
            wanted.append(self.large[row, :, 2 * top : 2 * (top + side), 2 * left : 2 * (left + side)])
        large, small = torch.stack(wanted).float() / 255, torch.stack(given).float() / 255
        for number in range(count):
            if float(torch.rand((), generator=generator)) < RECOLOURED:
                channels = torch.randperm(3, generator=generator)
                # sample beyond both ends and clamp, so that pure black and white are frequent
                ends = (1.6 * torch.rand(2, 3, 1, 1, generator=generator) - 0.3).clamp(0, 1)
                large[number] = torch.lerp(ends[0], ends[1], large[number, channels])
                small[number] = torch.lerp(ends[0], ends[1], small[number, channels])
        share = torch.tensor(shares)[:, None, None, None]
        small = torch.where(share > DECODED + DRAWN, halved(large), small)
        small = torch.where(share > DECODED + DRAWN + HALVED, softened(large, generator), small)
        return (small * 255).round() / 255, large


@torch.inference_mode()
def through_vae(pictures: Tensor, folder: Path) -> Tensor:
    """Encode and decode pictures uint8 [N, 3, H, W] with the Wan VAE in `folder`, to be as soft as generated ones."""
    from diffusers import AutoencoderKLWan

    from training.pocket.judge.pictures import decode, encode

    # in float32: a CPU without AVX-512 takes forty times as long for convolutions in bfloat16
    vae = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32).eval()
    made = []
    for part in pictures.split(8):
        decoded = decode(vae, encode(vae, part[:, None].float() / 255))[:, 0]
        made.append((decoded * 255).round().to(torch.uint8))
    return torch.cat(made)

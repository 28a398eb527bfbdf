"""Training data of the toy I2V: drawn avatars performing captioned actions, as latents, conditions and embeddings."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.pocket.text import Words, embed
from training.pocket.video_vae.latents import normalised_latents
from training.pocket.world.attributes import Split, sample_attributes
from training.pocket.world.captions import caption
from training.pocket.world.cells import feature_cells
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.motion import sample_actions, sample_motion
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

FRAMES = 49
MASK = 4  # mask channels that mark the given frames
CAPTION_LENGTH = 128  # tokens, longer than any caption
# frames after the first whose latents depend on it, rounded up to whole latents
_FELT = 8


@dataclass
class MotionBank:
    """N clips in device memory.

    Attributes:
        target: [N, z, T, h, w], latents of the clip.
        start: [N, z, up to 3, h, w], first latents of the condition; later ones equal the last.
        features: [N, T, h, w], share of each latent's frames in which the cell contains an eye, a brow or lips.
        text: [N, L, d], embedding of the caption.
        no_text: [1, L, d], embedding of the empty text.
        captions: the actions and, for some, the looks.
    """

    target: Tensor
    start: Tensor
    features: Tensor
    text: Tensor
    no_text: Tensor
    captions: list[str]

    def batch(self, rows: Tensor, unconditional: Tensor) -> dict[str, Tensor]:
        """Training batch of the clips `rows`; the text is dropped where `unconditional` [B] is true."""
        target = self.target[rows].float()
        text = torch.where(unconditional[:, None, None], self.no_text, self.text[rows]).float()
        return {
            "target": target,
            "condition": condition(self.start[rows].float(), target.shape[2]),
            "features": self.features[rows].float(),
            # zero-padded like in the pipeline, since the network attends to the padding
            "text": F.pad(text, (0, 0, 0, TEXT_LENGTH - text.shape[1])),
        }


def condition(start: Tensor, length: int) -> Tensor:
    """The I2V network's condition [B, 4 + z, length, h, w]: mask of given frames, and their latents.

    Args:
        start: [B, z, t, h, w], see `start_latents`.
        length: number of the clip's latents.
    """
    rest = start[:, :, -1:].expand(-1, -1, length - start.shape[2], -1, -1)
    given = start.new_zeros(len(start), MASK, length, *start.shape[3:])
    given[:, :, 0] = 1
    return torch.cat([given, torch.cat([start, rest], dim=2)], dim=1)


def start_latents(vae: AutoencoderKLWan, pictures: Tensor, frames: int) -> Tensor:
    """First latents [B, z, up to 3, h, w] of `pictures` [B, 3, H, W], each followed by `frames` - 1 grey frames.

    All later latents equal the last: the toy VAE's temporal receptive field ends there.
    """
    felt = min(_FELT, frames - 1)
    grey = torch.zeros(1, device=pictures.device).expand(*pictures.shape[:2], felt, *pictures.shape[2:])
    return normalised_latents(vae, torch.cat([pictures[:, :, None], grey], dim=2))


@torch.no_grad()
def draw_motions(
    count: int,
    vae: AutoencoderKLWan,
    words: Words,
    seed: int,
    size: int = 128,
    frames: int = FRAMES,
    split: Split = "train",
    chunk: int = 32,
) -> MotionBank:
    """Draw, caption and encode `count` clips; most show actions, each action equally often.

    Args:
        vae: latents are normalised with its config.
        words: the tokenizer and the trained text encoder, in evaluation mode.
        seed: of all random draws.
        size: width and height of the pictures.
        frames: per clip, 4n + 1.
        chunk: clips encoded at a time, to bound memory.
    """
    device = next(vae.parameters()).device
    parts: list[dict[str, Tensor]] = []
    captions: list[str] = []
    done = balanced_actions(count, seed)
    for begin in range(0, count, chunk):
        clips = min(chunk, count - begin)
        chunk_seed = seed * 1_000_003 + begin
        actions = done[begin : begin + clips]
        attributes = sample_attributes(clips, chunk_seed, split)
        pose = sample_motion(clips, frames, chunk_seed, actions)
        pixels = (render(attributes, pose, (size, size), device) * 2 - 1).transpose(1, 2)
        said = [caption(attributes, i, chunk_seed, actions=actions[i], brief=i % 2 == 0) for i in range(clips)]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            target = normalised_latents(vae, pixels)
            start = start_latents(vae, pixels[:, :, 0], frames)
        seen = feature_cells(sheet_of(attributes, pose).to(device), size).float().unflatten(0, (clips, frames))
        # the first latent is one frame, every other one four
        later = seen[:, 1:].unflatten(1, (-1, 4)).mean(dim=2)
        parts.append(
            {
                "target": target,
                "start": start,
                "features": torch.cat([seen[:, :1], later], dim=1),
                "text": embed(said, *words, length=CAPTION_LENGTH),
            }
        )
        captions += said
    joined = {name: torch.cat([part[name].bfloat16() for part in parts]) for name in parts[0]}
    no_text = embed([""], *words, length=CAPTION_LENGTH).bfloat16()
    return MotionBank(**joined, no_text=no_text, captions=captions)


def balanced_actions(count: int, seed: int) -> list[tuple[str, ...]]:
    """Actions of `count` figures, like `sample_actions`, but with every action equally often as the first."""
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for names in sample_actions(6 * count + 600, seed):
        by_first.setdefault(names[0] if names else "", []).append(names)
    kinds = [by_first[name] for name in sorted(by_first)]
    balanced = [kind[(i // len(kinds)) % len(kind)] for i, kind in ((i, kinds[i % len(kinds)]) for i in range(count))]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [balanced[i] for i in order]

"""Banks of drawn pictures, latents and prompts in device memory, from which training samples its batches."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor
from transformers import Qwen2Tokenizer

from training.pocket.text_to_image.embedding import patched
from training.pocket.text_to_image.features import feature_patches
from training.pocket.text_to_image.prompts import prompt
from training.pocket.text_to_image.words import in_chat
from training.pocket.world.attributes import Attributes, Split, sample_attributes
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.motion import sample_motion
from training.pocket.world.pose import Pose

CHUNK = 1024
SHAPES = ((128, 128), (160, 96), (96, 160))  # height and width, at a square size of 128 pixels
SHARES = (0.75, 0.125, 0.125)  # share of pictures of each shape
SHORT = 80  # tokens; every prompt of the toy world fits, including the chat template


@dataclass
class Pictures:
    """`pixels` uint8 [N, 3, H, W], `features` bool [N, patches], see `feature_patches`, and the avatars in them."""

    pixels: Tensor
    features: Tensor
    attributes: Attributes

    @classmethod
    def draw(
        cls, count: int, size: tuple[int, int], device: torch.device, seed: int, split: Split = "train"
    ) -> "Pictures":
        """Draw `count` avatars (height, width), with little head motion, eyes open and mouth shut."""
        pixels = torch.empty(count, 3, *size, dtype=torch.uint8, device=device)
        features, kept = [], []
        for start, chunk_seed, number in _chunks(count, seed):
            attributes, pose = sample_attributes(number, chunk_seed, split), at_ease(number, chunk_seed)
            drawn = render(attributes, pose, size, device)[:, 0]
            pixels[start : start + number] = (drawn * 255).round().to(torch.uint8)
            features.append(feature_patches(sheet_of(attributes, pose).to(device), size))
            kept.append(attributes)
        chosen, amounts = torch.cat([part.chosen for part in kept]), torch.cat([part.amounts for part in kept])
        return cls(pixels, torch.cat(features), Attributes(chosen, amounts))

    def batch(self, count: int, generator: torch.Generator) -> Tensor:
        """Sample `count` pictures, [B, 3, H, W] in [-1, 1]."""
        rows = torch.randint(len(self.pixels), (count,), generator=generator)
        return self.pixels[rows.to(self.pixels.device)].float() / 127.5 - 1


@dataclass
class Prompts:
    """Tokenized prompts, V for each of N avatars.

    Attributes:
        tokens: int64 [N, V, SHORT], padded at the end.
        lengths: int64 [N, V], the number of tokens before the padding.
    """

    tokens: Tensor
    lengths: Tensor

    @classmethod
    def write(
        cls, count: int, tokenizer: Qwen2Tokenizer, seed: int, pool: ProcessPoolExecutor | None = None, each: int = 1
    ) -> "Prompts":
        """Write `each` prompts for each of `count` avatars."""
        return cls.gathered(cls.begun(count, tokenizer, seed, pool, each))

    @staticmethod
    def begun(
        count: int, tokenizer: Qwen2Tokenizer, seed: int, pool: ProcessPoolExecutor | None, each: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Start `write` in the processes of `pool` without waiting; `gathered` collects the result."""
        work = partial(_tokens, tokenizer, each)
        return (pool.map if pool else map)(work, list(_chunks(count, seed)))

    @classmethod
    def gathered(cls, written: Iterator[tuple[np.ndarray, np.ndarray]]) -> "Prompts":
        """Wait for the result of `begun`."""
        tokens, lengths = zip(*written, strict=True)
        return cls(torch.from_numpy(np.concatenate(tokens)), torch.from_numpy(np.concatenate(lengths)))

    def to(self, device: torch.device) -> "Prompts":
        """The same on `device`."""
        return Prompts(self.tokens.to(device), self.lengths.to(device))

    def of(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample one prompt for each of `rows` [B]: tokens [B, SHORT] and lengths [B]."""
        which = torch.randint(self.tokens.shape[1], rows.shape, generator=generator).to(rows.device)
        return self.tokens[rows, which], self.lengths[rows, which]


@dataclass
class Examples:
    """Training examples of the transformer: latents with their prompts.

    Attributes:
        latents: normalised and packed as in the pipeline, bfloat16 [N, patches, channels].
        features: bool [N, patches], see `feature_patches`.
        grid: rows and columns of the patches.
        prompts: prompts of each picture.
    """

    latents: Tensor
    features: Tensor
    grid: tuple[int, int]
    prompts: Prompts

    @classmethod
    def draw(
        cls,
        count: int,
        size: tuple[int, int],
        vae: AutoencoderKLFlux2,
        tokenizer: Qwen2Tokenizer,
        seed: int,
        pool: ProcessPoolExecutor | None = None,
    ) -> "Examples":
        """Draw `count` avatars (height, width) on the VAE's device, with three prompts each."""
        written = Prompts.begun(count, tokenizer, seed, pool, each=3)
        pictures = Pictures.draw(count, size, vae.device, seed)
        latents = torch.cat([encode(vae, part).to(torch.bfloat16) for part in pictures.pixels.split(256)])
        grid = (latents.shape[2], latents.shape[3])
        prompts = Prompts.gathered(written).to(vae.device)
        return cls(latents.flatten(2).transpose(1, 2).contiguous(), pictures.features, grid, prompts)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sample `count` examples: latents [B, patches, channels], feature mask 0 or 1 [B, patches], and tokens
        [B, SHORT] and length [B] of one prompt each."""
        rows = torch.randint(len(self.latents), (count,), generator=generator).to(self.latents.device)
        return self.latents[rows].float(), self.features[rows].float(), *self.prompts.of(rows, generator)


def at_ease(count: int, seed: int) -> Pose:
    """Still poses close to frontal: eyes open, mouth shut, at most half the usual sway."""
    generator = torch.Generator().manual_seed(seed + 1)
    rest, moving = Pose.rest(count, 1).values, sample_motion(count, 1, seed).values
    share = 0.5 * torch.rand(count, 1, 1, generator=generator)
    return Pose(torch.lerp(rest, moving, share)).having(blink=0.0)


def shapes(pixels: int) -> list[tuple[int, int]]:
    """Height and width of square, portrait and landscape pictures, for a square of `pixels` per side."""
    return [(height * pixels // 128, width * pixels // 128) for height, width in SHAPES]


@torch.no_grad()
def encode(vae: AutoencoderKLFlux2, pixels: Tensor) -> Tensor:
    """Pixels uint8 [B, 3, H, W] to the latents that the pipeline denoises, [B, 4C, H/8, W/8]."""
    latents = patched(vae.encode(pixels.to(vae.dtype) / 127.5 - 1).latent_dist.mode())
    mean, variance = (moment.view(1, -1, 1, 1) for moment in (vae.bn.running_mean, vae.bn.running_var))
    return (latents - mean) / (variance + vae.config.batch_norm_eps).sqrt()


def padded(tokenizer: Qwen2Tokenizer, prompt: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens [SHORT] of a prompt, padded at the end, and the number of tokens before the padding."""
    ids = tokenizer(in_chat(tokenizer, prompt), padding="max_length", max_length=SHORT, return_tensors="pt")
    return ids.input_ids[0].to(device), ids.attention_mask.sum().to(device)


@contextmanager
def writers(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of processes that write prompts while the device draws; None for 0 processes."""
    if processes == 0:
        yield None
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield pool


def _chunks(count: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """Start, seed and size of each chunk."""
    for start in range(0, count, CHUNK):
        yield start, seed * 1_000_003 + start, min(CHUNK, count - start)


def _tokens(tokenizer: Qwen2Tokenizer, each: int, chunk: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    _, seed, count = chunk
    attributes = sample_attributes(count, seed)
    tokens = np.full((count, each, SHORT), tokenizer.pad_token_id, np.int64)
    lengths = np.empty((count, each), np.int64)
    for i in range(count):
        for place in range(each):
            ids = _short_enough(tokenizer, attributes, i, seed * each + place)
            tokens[i, place, : len(ids)] = ids
            lengths[i, place] = len(ids)
    return tokens, lengths


def _short_enough(tokenizer: Qwen2Tokenizer, attributes: Attributes, i: int, seed: int) -> list[int]:
    while True:
        ids: list[int] = tokenizer(in_chat(tokenizer, prompt(attributes, i, seed))).input_ids
        if len(ids) <= SHORT:
            return ids
        seed += 500_000_003

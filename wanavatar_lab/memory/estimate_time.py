"""Floating-point operations of a stage, and the seconds they take: operations divided by a share of the GPU's rate."""

import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from wanavatar_lab.memory.activations import tiles_of
from wanavatar_lab.memory.components import DENOISERS, Component
from wanavatar_lab.memory.machine import Machine
from wanavatar_lab.memory.workload import LATENT_FRAMES, TEXT_TOKENS, Workload
from wanavatar_lab.runs.ranks import ALONE, Layout

# operations per second in bfloat16 and in float32, and bytes per second to another GPU, by words of the GPU's name; the
# first match counts
Rates = tuple[float, float, float]
RATES: dict[str, Rates] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# Of the data sheet's rate. On an H200, compiled steps of speech to video with FlashAttention 4 reached 0.70 of it at
# 480x832 and 0.69 at 720x1280, and 0.63 with cuDNN: docs/measured/ranks_480.json, ranks_720.json, kernels_h200.json.
EFFICIENCY = 0.68
# Of the rate in 16 bits: a segment of 80 frames at 480x832 took 1.29 s to decode on an H200, and the 73 frames that it
# is continued from 0.54 s to encode (docs/measured/ranks_480.json, parts_vae_h200.json).
WAN_VAE_EFFICIENCY = 0.153

# Two GPUs that share the sequence send keys and values while they attend to their own, at this share of their link's
# rate (359 MB in 1.66 ms between two H200s, both ways). A layer takes longer than half of one GPU's time by this much:
# what arrives is put together, the exchange takes multiprocessors from attention, and fewer tokens are less efficient
# (docs/measured/ranks_480.json, ranks_720.json).
LINK_EFFICIENCY, SHARED_LAYER_SECONDS = 0.48, 1.6e-3

LEAST_SHARE = 1e-3  # a phase always has some of a progress bar
# multiply-adds per pixel and frame to decode, times the square of the finest width; counted: tests/bench/test_parts.py
_WAN_DECODER = 460
_FLUX_DECODER = 300
# multiply-adds per pixel to upscale: a weight each, at half the picture's width and height
_UPSCALER = 16_700_000 // 4


def expected_seconds(
    workload: Workload,
    components: Sequence[Component],
    machine: Machine,
    tiled: bool = False,
    layout: Layout = ALONE,
) -> float | None:
    """Estimated seconds for one clip, segment or picture. None on a CPU, on a GPU that is not in
    the table, and for speech.

    Args:
        workload: of the stage.
        components: of the stage.
        machine: whose first GPU computes; with a layout others like it.
        tiled: whether the autoencoder works in tiles, whose overlaps are computed twice.
        layout: how GPUs share the denoising; each of them does everything else.
    """
    rates = _rates(machine)
    if rates is None or not workload.pixels:
        return None
    total = 0.0
    for component in components:
        seconds = _seconds(workload, component, rates, tiled)
        if component.name in DENOISERS and layout.world > 1:
            seconds = _shared_seconds(seconds, workload, component, layout, rates)
        total += seconds
    return total


def _shared_seconds(alone: float, workload: Workload, component: Component, layout: Layout, rates: Rates) -> float:
    """Seconds that GPUs of a layout take for the denoising that takes one GPU `alone` seconds."""
    size = layout.sequence
    passes = math.ceil(workload.passes / layout.guidance)
    seconds = alone / size * passes / workload.passes
    if size > 1:
        flops = forward_flops(
            workload, component.width, component.layers, component.feed_forward, component.audio_layers
        )
        layers = _experts(workload) * workload.segments * workload.steps * passes * component.layers
        # of one process's tokens to those of one: meanwhile the keys and values of the next arrive, 2 bytes each
        attention = seconds * flops.attention / sum(flops) / layers / size
        exchange = 2 * 2.0 * workload.tokens / size * component.width / (rates[2] * LINK_EFFICIENCY)
        seconds += layers * (SHARED_LAYER_SECONDS + (size - 1) * max(0.0, exchange - attention))
    return seconds


def _experts(workload: Workload) -> float:
    """The share of the steps that each network computes: two of image to video have them between them."""
    return 0.5 if workload.stage == "image_to_video" else 1.0


def decoding_share(
    workload: Workload, components: Sequence[Component], latents: int, machine: Machine, *, tiled: bool
) -> float:
    """Estimated share of the time of a segment that its decoding takes, above 0 and below 1; the rest is denoising.

    On a CPU, and on a GPU that is not in the table, all operations count alike.

    Args:
        workload: of the segment.
        components: of the stage.
        latents: latent frames that are decoded; of speech to video also those before the new ones.
        machine: whose first GPU computes.
        tiled: whether the autoencoder works in tiles.
    """
    rates = _rates(machine)
    one, decoded = replace(workload, segments=1), replace(workload, segments=1, frames=LATENT_FRAMES * latents)
    seconds = {
        phase: sum(
            _flops(load, each, tiled) if rates is None else _seconds(load, each, rates, tiled)
            for each in components
            if each.name in names
        )
        for phase, load, names in (("denoise", one, DENOISERS), ("decode", decoded, ("vae",)))
    }
    share = seconds["decode"] / (sum(seconds.values()) or 1.0)
    return min(max(share, LEAST_SHARE), 1 - LEAST_SHARE)


def _rates(machine: Machine) -> Rates | None:
    """The entry of the first GPU in `RATES`; None if it is not in the table."""
    name = (machine.gpus[0].name if machine.gpus else None) or ""
    return next((rates for words, rates in RATES.items() if re.search(rf"\b{words}\b", name)), None)


def _seconds(workload: Workload, component: Component, rates: Rates, tiled: bool) -> float:
    rate = rates[component.gpu_bytes > 3 * component.parameters] * EFFICIENCY
    if component.name == "vae" and workload.stage != "text_to_image":
        rate = rates[0] * WAN_VAE_EFFICIENCY  # loaded in 32 bits, and computed in 16
    return _flops(workload, component, tiled) / rate


def _flops(workload: Workload, component: Component, tiled: bool) -> float:
    """Floating-point operations of a component for one clip, segment or picture; a multiply-add counts as two."""
    if component.name in DENOISERS:
        size = component.width, component.layers, component.feed_forward, component.audio_layers
        one_pass = sum(forward_flops(workload, *size))
        return _experts(workload) * workload.segments * workload.steps * workload.passes * one_pass
    if component.name == "text_encoder":
        return 2.0 * component.parameters * TEXT_TOKENS * workload.passes
    if component.name == "vae":
        factor = _FLUX_DECODER if workload.stage == "text_to_image" else _WAN_DECODER
        overlap = tiles_of(workload.stage).overlap(workload.width, workload.height) if tiled else 1.0
        return 2.0 * factor * overlap * component.width**2 * workload.segments * workload.pixels
    if component.name == "network":
        return 2.0 * _UPSCALER * workload.pixels
    return 0.0  # the audio encoder's are too few to count


class ForwardFlops(NamedTuple):
    """Floating-point operations of one forward pass; a multiply-add counts as two.

    Attributes:
        linear: of the linear layers.
        attention: of the products of queries with keys, and of scores with values.
    """

    linear: float
    attention: float


def forward_flops(
    workload: Workload, width: int, layers: int, feed_forward: int, audio_layers: int = 0
) -> ForwardFlops:
    """The operations of one forward pass of a transformer after the first, which caches the text's keys and values.

    Embeddings, modulation and the audio's few tokens are left out: they are less than a tenth even of a tiny network.

    Args:
        workload: which stage, and how many tokens.
        width, layers, feed_forward, audio_layers: of the transformer, as in `Component`; see `components.dimensions`.
    """
    tokens, context = workload.tokens, workload.tokens
    if workload.stage == "text_to_image":
        # queries, keys, values and outputs, and three matrices of SwiGLU
        per_layer = 4 * width**2 + 3 * width * feed_forward
    else:
        # the same of self-attention, two more for the video's side of cross-attention, and two of the feed-forward
        per_layer = 6 * width**2 + 2 * width * feed_forward
        context += TEXT_TOKENS
    # cross-attention to audio leaves out the reference and motion tokens
    linear = tokens * per_layer * layers + 2 * width**2 * workload.video_tokens * audio_layers
    return ForwardFlops(2.0 * linear, 4.0 * tokens * context * width * layers)

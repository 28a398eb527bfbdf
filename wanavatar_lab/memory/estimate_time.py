"""How long a stage takes, estimated: its floating-point operations, divided by a share of the GPU's rate."""

import re
from collections.abc import Sequence

from wanavatar_lab.memory.activations import TEXT_TOKENS, Workload, tiles_of
from wanavatar_lab.memory.components import Component
from wanavatar_lab.memory.machine import Machine

# dense operations per second with bfloat16 and with float32 numbers, from the vendor's data sheets, by words of the
# name that the driver gives; the first that matches counts
RATES: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250e12, 75e12),
    ("GH200", 989e12, 67e12),
    ("H200", 989e12, 67e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100 NVL", 835e12, 60e12),
    ("H100", 989e12, 67e12),
    ("H20", 148e12, 44e12),
    ("A100", 312e12, 19.5e12),
    ("A800", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("L4", 121e12, 30.3e12),
    ("A10", 125e12, 31.2e12),
    ("RTX 6000 Ada", 364e12, 91.1e12),
    ("RTX A6000", 155e12, 38.7e12),
    ("5090", 209e12, 105e12),
    ("4090", 165e12, 82.6e12),
    ("3090", 71e12, 35.6e12),
)
EFFICIENCY = 0.55  # of the data sheet's rate, which no real network reaches

# multiply-adds per pixel and frame to decode, times the square of the finest width: estimates by hand from the layers
_WAN_DECODER = 450
_FLUX_DECODER = 260
_SWIGLU = 3  # matrices in FLUX's feed-forward; Wan's has 2
_UPSCALER = 16_700_000 // 4  # multiply-adds per pixel: the network computes at half the picture's width and height


def expected_seconds(
    work: Workload, components: Sequence[Component], machine: Machine, tiled: bool = False
) -> float | None:
    """Seconds for one clip, segment or picture; an estimate. None on a CPU, and on a GPU that is not in the table.

    Args:
        work: what is made.
        components: of the stage.
        machine: where.
        tiled: whether the autoencoder works in tiles, whose overlaps are computed twice.
    """
    name = machine.gpus[0].name if machine.gpus else None
    for part, rate, exact in RATES:
        if name is not None and re.search(rf"\b{part}\b", name):
            return sum(operations(work, each, tiled) / _rate(each, rate, exact) for each in components) / EFFICIENCY
    return None


def operations(work: Workload, component: Component, tiled: bool = False) -> float:
    """Floating-point operations that a component does for one clip, segment or picture; a multiply-add is two."""
    match component.name:
        case "transformer" | "transformer_2":
            # the two experts share the steps between them
            share = 0.5 if work.stage == "image_to_video" else 1.0
            return share * work.segments * work.steps * work.passes * forward_operations(work, component)
        case "text_encoder":
            return 2.0 * component.parameters * TEXT_TOKENS * work.passes
        case "vae":
            factor = _FLUX_DECODER if work.stage == "text_to_image" else _WAN_DECODER
            overlap = tiles_of(work.stage).overlap(work.width, work.height) if tiled else 1.0
            return 2.0 * factor * overlap * component.width**2 * work.segments * work.samples
        case "network":
            return 2.0 * _UPSCALER * work.samples
        case _:
            return 0.0  # what the audio encoder does is too little to count


def forward_operations(work: Workload, component: Component) -> float:
    """Of one forward pass of a transformer, what is kept from earlier steps not counted; see `bench.network`."""
    tokens, width, layers = work.tokens, component.width, component.layers
    if work.stage == "text_to_image":
        linear = tokens * (4 * width**2 + _SWIGLU * width * component.feed_forward) * layers
        return 2.0 * (linear + 2 * tokens**2 * width * layers)
    # self-attention has four matrices, the text's cross-attention two for the video's side
    linear = tokens * (6 * width**2 + 2 * width * component.feed_forward) * layers
    return 2.0 * (linear + 2 * tokens * (tokens + TEXT_TOKENS) * width * layers)


def _rate(component: Component, rate: float, exact: float) -> float:
    return exact if component.gpu_bytes > 3 * component.parameters else rate

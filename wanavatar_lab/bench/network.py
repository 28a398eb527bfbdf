"""How fast the S2V network runs here, at its true size and with random weights.

Times are medians over forward passes of one segment that continues another (motion kept), after warm-up. The limit
they are held against is measured on the same device: the rate of a large matrix product in the same dtype.

A LoRA of random numbers, as large as those that people use, to see what one adds to a step.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners import lora
from torch import nn

from wanavatar_lab.lora.adapters import AdaptedLinear, adapters_of
from wanavatar_lab.lora.match import Pair, Update
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel


def random_adapter(network: nn.Module, rank: int) -> Update:
    """Low-rank updates of every linear layer in the blocks of a transformer, which is what most LoRAs hold.

    Args:
        network: with a list of layers `blocks`; where its weights lie the adapter's are drawn.
        rank: of every layer.
    """
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(2)
    update = Update()
    for name, layer in network.named_modules():
        if name.startswith("blocks.") and isinstance(layer, nn.Linear):
            outputs, inputs = layer.weight.shape
            down, up = torch.empty(rank, inputs, device=device), torch.empty(outputs, rank, device=device)
            down.normal_(0, inputs**-0.5, generator=generator)
            up.normal_(0, 0.1 * rank**-0.5, generator=generator)
            update.pairs[name] = Pair(down, up, 1.0)
    return update


SIZES: dict[str, dict[str, Any]] = {
    "14b": {},
    "14b-4-blocks": {"num_layers": 4, "audio_inject_layers": (0,)},  # of 40, of which every third or so hears
    "tiny": {
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "ffn_dim": 160,
        "freq_dim": 64,
        "num_layers": 4,
        "audio_dim": 32,
        "text_dim": 64,
        "audio_inject_layers": (0, 2),
    },
}


def random_model(size: str, dtype: torch.dtype, device: torch.device) -> WanS2VTransformer3DModel:
    """A network of the named size whose weights are drawn on the device, none of them zero."""
    with torch.device("meta"):
        model = WanS2VTransformer3DModel(**SIZES[size])
    kept = set(model._keep_in_fp32_modules)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        exact = torch.float32 if kept & set(name.split(".")) else dtype
        values = torch.empty(parameter.shape, dtype=exact, device=device)
        fan_in = max(1, parameter[0].numel() if parameter.ndim > 1 else parameter.numel())
        values.normal_(0, fan_in**-0.5, generator=generator)
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(values, requires_grad=False))
    return model.eval()


def random_inputs(
    model: WanS2VTransformer3DModel, height: int, width: int, frames: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Arguments of one forward pass for `frames` frames of `height` × `width` pixels."""
    config = model.config
    generator = torch.Generator(device).manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    rows, columns = height // 8, width // 8
    return {
        "hidden_states": draw(1, config.in_channels, frames // 4, rows, columns),
        "timestep": torch.tensor([500.0], device=device),
        "encoder_hidden_states": draw(1, 512, config.text_dim),
        "ref_latents": draw(1, config.in_channels, 1, rows, columns),
        "motion_latents": draw(1, config.in_channels, 19, rows, columns),
        "audio_embeds": draw(1, config.num_audio_layers, config.audio_dim, frames),
    }


def forward_flops(model: WanS2VTransformer3DModel, height: int, width: int, frames: int) -> float:
    """Floating-point operations of one forward pass after the first, counting a multiply-add as two."""
    config = model.config
    dim = config.num_attention_heads * config.attention_head_dim
    rows, columns = height // 16, width // 16
    video = frames // 4 * rows * columns
    tokens = video + 2 * rows * columns + (rows // 2) * (columns // 2) + 4 * (rows // 4) * (columns // 4)
    linear = tokens * (4 * dim**2 + 2 * dim**2 + 2 * dim * config.ffn_dim) * config.num_layers
    attention = 2 * tokens * (tokens + 512) * dim * config.num_layers
    audio = video * 2 * dim**2 * len(config.audio_inject_layers)
    return 2.0 * (linear + attention + audio)


def median_seconds(call: Callable[[], Any], device: torch.device, warm_up: int, repeats: int) -> float:
    """Median time of `call`, the device waited for."""
    times = []
    for index in range(warm_up + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product in `dtype`."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: left @ right, device, warm_up=3, repeats=10)


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; the keys say what the figures are and in which unit."""
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, arguments.dtype)
    rate = matrix_rate(device, dtype)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    model = random_model(arguments.size, dtype, device)
    if arguments.attention_backend:
        model.set_attention_backend(arguments.attention_backend)
    if arguments.compile:
        model.compile_repeated_blocks(fullgraph=True)
    inputs = random_inputs(model, arguments.height, arguments.width, arguments.frames, device, dtype)
    memory = SegmentMemory()

    def step() -> None:
        output = model(**inputs, memory=memory, return_dict=False)[0]
        assert output.shape == inputs["hidden_states"].shape

    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    first = time.perf_counter() - start
    seconds = median_seconds(step, device, arguments.warm_up, arguments.repeats)
    flops = forward_flops(model, arguments.height, arguments.width, arguments.frames)
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "size": arguments.size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "pixels": f"{arguments.width}x{arguments.height}x{arguments.frames}",
        "dtype": arguments.dtype,
        "attention_backend": arguments.attention_backend or "native",
        "compiled": arguments.compile,
        "first_forward_s": round(first, 3),
        "forward_s": round(seconds, 4),
        "petaflop": round(flops / 1e15, 3),
        "share_of_matrix_rate": round(flops / seconds / rate, 3),
        "matrix_tflops": round(rate / 1e12, 1),
    }
    if arguments.adapter_rank:
        result |= _with_adapter(model, arguments, step, memory)
    if device.type == "cuda":
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return result


def _with_adapter(
    model: WanS2VTransformer3DModel, arguments: argparse.Namespace, step: Callable[[], Any], memory: SegmentMemory
) -> dict[str, Any]:
    """The same forward pass with a LoRA on every linear layer of the blocks; times alternate, since clocks drift.

    At last with the layers as PEFT has them, for comparison.
    """
    device = next(model.parameters()).device
    adapters = adapters_of(model)
    adapters.load("random", random_adapter(model, arguments.adapter_rank))

    def timed(weights: dict[str, float]) -> float:
        adapters.set_weights(weights)
        memory.forget_projections()
        return median_seconds(step, device, max(1, arguments.warm_up), arguments.repeats)

    without, adapted = zip(*((timed({}), timed({"random": 1.0})) for _ in range(3)), strict=True)
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear):
            layer.__class__ = lora.Linear
    plain = timed({"random": 1.0})
    return {
        "adapter_rank": arguments.adapter_rank,
        "adapter_without_s": round(min(without), 4),
        "adapter_forward_s": round(min(adapted), 4),
        "adapter_adds": round(min(adapted) / min(without) - 1, 4),
        "adapter_adds_by_peft": round(plain / min(without) - 1, 4),
    }

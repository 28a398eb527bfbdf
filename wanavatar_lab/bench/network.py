"""Speed of the S2V network alone, at its true size and with random weights.

Times are medians over forward passes of one segment that continues another (with motion latents), after warm-up. They
are compared with the rate of a large matrix product in the same dtype on the same device. With `--adapter-rank` the
same pass is also measured with a LoRA of random numbers on every linear layer of the blocks.
"""

import argparse
import itertools
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from peft.tuners import lora
from torch import nn

from wanavatar_lab.bench.random_models import check_host_memory, random_network
from wanavatar_lab.bench.watch import median_seconds, say
from wanavatar_lab.errors import LabError
from wanavatar_lab.lora.adapters import AdaptedLinear, adapters_of
from wanavatar_lab.lora.match import Pair, Update
from wanavatar_lab.memory import Workload
from wanavatar_lab.memory.components import dimensions
from wanavatar_lab.memory.estimate_time import forward_flops
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel
from wanavatar_lab.stages import kernels
from wanavatar_lab.wan import attention
from wanavatar_lab.wan.float8 import quantize, quantized

SIZES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# height, width and frames where they are not given: a CPU would take minutes for tiny at the size of a clip
CLIP, TINY_CLIP = (480, 832, 80), (64, 96, 8)


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        arguments: of the command line; see `bench.__main__`.

    Returns:
        Figures, with the unit in each key.

    Raises:
        LabError: no pass has this size, or main memory does not hold the network.
    """
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    on_gpu = device.type == "cuda"
    height, width, frames = read_clip(arguments.size, arguments.height, arguments.width, arguments.frames)
    say(f"Matrix products in {arguments.dtype} on {device} …")
    rate = matrix_rate(device, dtype)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    say(f"Random weights of the {arguments.size} network …")
    model = random_model(arguments.size, dtype, device)
    if arguments.attention_backend:
        model.set_attention_backend(arguments.attention_backend)
    if arguments.compile:
        model.compile_repeated_blocks(fullgraph=True)
    inputs = random_inputs(model, height, width, frames, device, dtype)
    memory = SegmentMemory()

    def step() -> None:
        output = model(**inputs, memory=memory, return_dict=False)[0]
        assert output.shape == inputs["hidden_states"].shape

    say(f"The first forward pass of {width}x{height}x{frames} …")
    first = median_seconds(step, warm_up=0, repeats=1)
    say(f"{arguments.warm_up} + {arguments.repeats} forward passes …")
    seconds = median_seconds(step, arguments.warm_up, arguments.repeats)
    flops = sum(forward_flops(Workload("speech_to_video", width, height, frames), **dimensions(model.config)))
    result = {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "torch": torch.__version__,
        "size": arguments.size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "pixels": f"{width}x{height}x{frames}",
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
        say(f"Forward passes with a LoRA of rank {arguments.adapter_rank} …")
        result |= _with_adapter(model, arguments, step, memory)
    if on_gpu:
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return result


@torch.no_grad()
def measure_kernels(
    size: str, clip: tuple[int, int, int], device: str, repeats: int = 3, only: Sequence[str] = ()
) -> dict[str, Any]:
    """A pass of the S2V network by each attention that is installed, with compiled blocks by the fastest ones, and with
    products in float8 by the fastest of all, plain and compiled.

    Args:
        size: of the network, a name in `SIZES`.
        clip: height, width and frames.
        device: cpu, cuda or cuda:<n>.
        repeats: passes that count, after one that does not.
        only: of the attention that is installed; empty for all.

    Returns:
        The device, and `rows`, the first of which computes as PyTorch does by itself; the others say by how much their
        output differs from its.

    Raises:
        LabError: main memory does not hold the network.
    """
    on_gpu, target = device != "cpu", torch.device(device)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    say(f"Random weights of the {size} network …")
    model: Any = random_model(size, dtype, target)
    inputs, memory = random_inputs(model, *clip, target, dtype), SegmentMemory()
    model(**inputs, memory=memory)  # what the passes of a segment share
    figures: dict[str, Any] = {"bench": "kernels", "size": size, "torch": torch.__version__, "rows": []}
    figures |= {"device": torch.cuda.get_device_name(target) if on_gpu else "cpu"}
    figures["pixels"] = "x".join(map(str, (clip[1], clip[0], clip[2])))
    wanted: torch.Tensor | None = None
    for quantization, compiled in itertools.product(("none", "fp8"), (False, True)):
        names = [name for name in attention.available(device) if not only or name in only]
        if compiled or quantization == "fp8":
            # the two fastest, since each takes a minute or two to compile; in float8 the one that is fastest compiled
            before = [row for row in figures["rows"] if row["attention"] in attention.EXACT]
            before = [row for row in before if row["compiled"] == (quantization == "fp8")]
            before.sort(key=lambda row: float(row["forward_s"]))
            names = [row["attention"] for row in before[: 1 if quantization == "fp8" else 2]]
        if quantization == "fp8" and not quantized(model):
            quantize(model, target)
            for layer in quantized(model).values():
                del layer.exact  # it would take the memory that this saves
        for name in names:
            say(f"Attention by {name}{', compiled' * compiled}{', in float8' * (quantization == 'fp8')} …")
            row: dict[str, Any] = {"attention": name, "compiled": compiled, "quantization": quantization}
            failures: list[str] = []
            kernels.forget_compiled(model)
            attention.use_backend(model, name)
            if compiled:
                kernels.compile_blocks(model, lambda error, failures=failures: failures.append(str(error)))  # type: ignore[misc]
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(target)
            step = partial(model, **inputs, memory=memory, return_dict=False)
            row["first_forward_s"] = round(median_seconds(step, warm_up=0, repeats=1), 3)
            row["forward_s"] = round(median_seconds(step, warm_up=1, repeats=repeats), 4)
            made = step()[0].float()
            wanted = made if wanted is None else wanted
            row["difference"] = round(float((made - wanted).norm() / wanted.norm()), 5)
            if on_gpu:
                row["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(target) / 1e9, 2)
            if failures:
                row["error"] = failures[0][:1000]
            figures["rows"].append(row)
    return figures


def read_clip(
    size: str, height: int | None = None, width: int | None = None, frames: int | None = None
) -> tuple[int, int, int]:
    """Height, width and frames of a clip; each one that is None is the usual one of the network's size.

    Raises:
        LabError: the network takes no such clip.
    """
    usual, given = TINY_CLIP if size == "tiny" else CLIP, (height, width, frames)
    clip = [own if theirs is None else theirs for theirs, own in zip(given, usual, strict=True)]
    if min(clip) <= 0 or any(number % unit for number, unit in zip(clip, (16, 16, 4), strict=True)):
        raise LabError(
            f"Height, width and frames are {clip[0]}, {clip[1]} and {clip[2]}; give height and width in multiples of "
            "16, and frames in multiples of 4."
        )
    return clip[0], clip[1], clip[2]


def check_memory(size: str, device: torch.device, copies: int) -> None:
    """Refuse processes that together would fill main memory.

    Args:
        size: a name in `SIZES`.
        device: where they compute; a CPU does it in float32.
        copies: of the network, one in each process.

    Raises:
        LabError: there is less free memory.
    """
    with init_empty_weights():
        network = WanS2VTransformer3DModel(**SIZES[size])
    check_host_memory(network, torch.float32, device, copies)


def random_model(size: str, dtype: torch.dtype, device: torch.device) -> WanS2VTransformer3DModel:
    """A network of a size in `SIZES` whose weights are drawn on the device, none of them zero."""
    return random_network(lambda: WanS2VTransformer3DModel(**SIZES[size]), dtype, device)


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


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product in `dtype`."""
    # a CPU that does not compute in bfloat16 itself takes seconds for a product of 1024 x 1024
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: left @ right, warm_up=3, repeats=10)


def _with_adapter(
    model: WanS2VTransformer3DModel, arguments: argparse.Namespace, step: Callable[[], Any], memory: SegmentMemory
) -> dict[str, Any]:
    """Passes without and with a LoRA, in alternation since clock rates drift; last with PEFT's own layers."""
    adapters = adapters_of(model)
    adapters.load("random", random_adapter(model, arguments.adapter_rank))

    def timed(weights: dict[str, float]) -> float:
        adapters.set_weights(weights)
        memory.forget_projections()
        return median_seconds(step, max(1, arguments.warm_up), arguments.repeats)

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


def random_adapter(network: nn.Module, rank: int) -> Update:
    """Low-rank updates of every linear layer in the blocks of a transformer, as most LoRAs have them.

    Args:
        network: with a list of layers `blocks`, on whose device the adapter's weights are drawn.
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

"""Time and memory of a training step at the S2V network's true size, with random weights: nothing is downloaded.

    python -m training.bench                                    compiled, attention kept, kept tensors offloaded
    python -m training.bench --plain                            PEFT's own layers and full checkpointing, to compare
    python -m training.bench --eager --offload 0 --attention-backend _native_cudnn
    python -m training.bench --base-dtype fp8 --offload 0
    python -m training.bench --recipe s2v_14b_24gb --memory-gb 24 --shapes 6    a recipe, under a cap of GPU memory
    python -m training.bench --check 4 --steps 0                gradients against the plain step, in four blocks
    python -m training.bench --toy --device cpu

A step is all that `training.train` does to one sample between two lines of its log: noise, prediction, loss, gradients,
clipping and AdamW. Seconds are the median over the steps after the first one, in which blocks are compiled. Peaks are
those of the GPU from the first step on, and of the process's CPU RAM from its start. It prints one line of JSON.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainingConfig
from training.config.recipes import RECIPES
from training.data.segments import ASPECTS, LONGEST, SHORTEST, STEP
from training.loop.out_of_memory import join_freed_memory
from training.loop.step import Batch, Draws, train_step
from training.model.activations import Activations, use_attention_backend
from training.model.adapter import add_adapter
from training.model.trainable import new_optimizer, place
from wanavatar_lab.memory import Workload
from wanavatar_lab.memory.components import dimensions
from wanavatar_lab.memory.estimate_time import forward_flops
from wanavatar_lab.memory.machine import peak_host_bytes
from wanavatar_lab.memory.workload import TEXT_TOKENS
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.wan.latents import MOTION_FRAMES

# fields of the network's config: small enough for a CPU, and with audio in some of its blocks
TOY: dict[str, Any] = dict(
    num_attention_heads=2, attention_head_dim=16, ffn_dim=64, freq_dim=16, text_dim=16, num_layers=4,
    audio_dim=16, num_audio_layers=3, num_audio_tokens=2, audio_inject_layers=(0, 2),
)  # fmt: skip
TRUE_SIZE, TOY_SIZE = (480, 832, 80), (64, 96, 16)  # height and width in pixels, and frames
DEFAULTS = TrainingConfig.model_fields

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Setting:
    """One way to compute a step.

    Attributes:
        activations: see there.
        lean: LoRA layers of this project; else PEFT's own under autocast, as in a plain trainer.
        float8: store the frozen weights of the blocks as float8.
        backend: of diffusers' attention dispatcher; None for its default.
        swap_blocks: how many blocks have their frozen weights in CPU RAM.
        optimizer: see `training.model.trainable.new_optimizer`.
    """

    activations: Activations
    lean: bool = True
    float8: bool = False
    backend: str | None = None
    swap_blocks: int = 0
    optimizer: str = "adamw"


PLAIN = Setting(Activations(), lean=False)


class Bench:
    """A network with a LoRA, one random sample, and an optimizer.

    Args:
        setting: how a step is computed.
        config: of the network.
        rank: of the LoRA.
        size: height and width in pixels, and frames.
        device: of all tensors.
        dtype: of the frozen weights.
        moved: draw the LoRA's second matrices; else they are zero, as when a training starts.
    """

    def __init__(
        self,
        setting: Setting,
        config: dict[str, Any],
        rank: int,
        size: Size,
        device: torch.device,
        dtype: torch.dtype,
        moved: bool = False,
    ) -> None:
        self.setting, self.device, self.dtype = setting, device, dtype
        # as a training loads it: into CPU RAM, where the GPU need not hold all of it
        self.network = random_network(config, device, dtype, torch.device("cpu") if setting.swap_blocks else device)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.backend = "native"
        if setting.backend:
            self.backend, _ = use_attention_backend(self.network, setting.backend, device, dtype)
        self.trained = add_adapter(self.network, rank, rank / 2, seed=0, lean=setting.lean, device=device)
        swap = place(self.network, device, setting.float8, setting.swap_blocks)
        if moved:
            generator = torch.Generator(device).manual_seed(2)
            for matrix in self.trained[1::2]:
                matrix.data.normal_(0, 1e-3, generator=generator)
        self.network.train()
        setting.activations.install(self.network, swap)
        rates = (DEFAULTS[name].default for name in ("weight_decay", "learning_rate"))
        self.optimizer = new_optimizer([{"params": self.trained}], setting.optimizer, *rates)
        self.resize(size)

    def resize(self, size: Size) -> None:
        """Continue with a sample of another size."""
        self.batch = random_batch(self.network, size, self.device)

    def gradients(self, number: int = 0) -> list[Tensor]:
        """Gradients of each matrix of the LoRA in step `number`; they stay in place."""
        draws = Draws.of(number, 0, self.batch["target"], shift=DEFAULTS["flow_shift"].default, dropout=0.0)
        autocast = not self.setting.lean and self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=autocast):
            losses = train_step(self.network, self.batch, draws)
        losses.loss.backward()
        self.loss = losses.loss.detach()
        return [matrix.grad for matrix in self.trained if matrix.grad is not None]

    def step(self, number: int) -> float:
        """One step; returns its seconds, with the device synchronised before and after."""
        self._synchronize()
        began = time.perf_counter()
        self.gradients(number)
        nn.utils.clip_grad_norm_(self.trained, DEFAULTS["max_grad_norm"].default)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._synchronize()
        return time.perf_counter() - began

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_network(
    config: dict[str, Any], device: torch.device, dtype: torch.dtype, home: torch.device | None = None
) -> WanS2VTransformer3DModel:
    """A frozen network with weights drawn on the device, scaled so that activations keep their size.

    Args:
        home: where the network is; None for the device.
    """
    with torch.device("meta"):
        network = WanS2VTransformer3DModel(**config)
    float32 = set(network._keep_in_fp32_modules)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in list(network.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        kept = torch.float32 if float32 & set(name.split(".")) else dtype
        values = torch.empty(parameter.shape, dtype=kept, device=device)
        fan_in = max(1, parameter[0].numel() if parameter.ndim > 1 else parameter.numel())
        values.normal_(0, fan_in**-0.5, generator=generator)
        if ".norm" in name and parameter.ndim == 1 and leaf == "weight":
            values += 1
        setattr(network.get_submodule(owner), leaf, nn.Parameter(values.to(home or device), requires_grad=False))
    return network


def random_batch(network: WanS2VTransformer3DModel, size: Size, device: torch.device) -> Batch:
    """One sample of a segment with motion frames; see `training.loop.step.train_step`."""
    config = network.config
    height, width, frames = size
    rows, columns, latents = height // 8, width // 8, frames // 4
    generator = torch.Generator(device).manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator, device=device)

    face, lip = (torch.zeros(1, latents, rows, columns, device=device) for _ in range(2))
    face[:, :, rows // 4 : rows // 2, columns // 3 : columns // 2] = 1
    lip[:, :, rows * 3 // 8 : rows // 2, columns * 3 // 8 : columns // 2] = 1
    return {
        "target": draw(config.out_channels, latents, rows, columns),
        "reference": draw(config.out_channels, 1, rows, columns),
        "motion": draw(config.out_channels, (MOTION_FRAMES + 3) // 4, rows, columns),
        "audio": draw(config.num_audio_layers, config.audio_dim, frames),
        "text": draw(TEXT_TOKENS, config.text_dim),
        "no_text": draw(TEXT_TOKENS, config.text_dim),
        "face": face,
        "lip": lip,
        "valid": torch.ones(1, latents, dtype=torch.bool, device=device),
    }


def step_flops(network: WanS2VTransformer3DModel, size: Size, rank: int) -> float:
    """Floating-point operations that a step needs at least, a multiply-add as two: nothing is recomputed.

    The backward pass through frozen layers costs as much as the forward pass, as there are no gradients of their
    weights; that of attention two and a half times as much; the LoRA has three passes.
    """
    height, width, frames = size
    workload, shape = Workload("speech_to_video", width, height, frames), dimensions(network.config)
    linear, attention = forward_flops(workload, **shape)
    # rank x (inputs + outputs) of the six square layers of a block and of the two of its feed-forward
    per_block = rank * (6 * 2 * shape["width"] + 2 * (shape["width"] + shape["feed_forward"]))
    return 2 * linear + 3.5 * attention + 3 * 2.0 * workload.tokens * per_block * shape["layers"]


def check(
    setting: Setting, config: dict[str, Any], rank: int, size: Size, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Compare a setting's gradients with those of the plain step: cosines over all of them, and of the worst matrix.

    The plain step has the weights as they were drawn. If the setting stores them as float8, `computation_…` compares
    with a plain step on these rounded weights: how much of the difference is not due to the rounding.
    """

    def gradients(one: Setting) -> tuple[list[Tensor], float]:
        bench = Bench(one, config, rank, size, device, dtype, moved=True)
        found = [gradient.float().cpu() for gradient in bench.gradients()], float(bench.loss)
        del bench
        _free(device)
        return found

    mine = gradients(setting)
    compared = _compared(mine, gradients(PLAIN))
    if setting.float8:
        rounded = _compared(mine, gradients(replace(PLAIN, float8=True)))
        compared |= {f"computation_{name}": value for name, value in rounded.items()}
    return compared


def _compared(mine: tuple[list[Tensor], float], plain: tuple[list[Tensor], float]) -> dict[str, float]:
    # in float64, since a sum of a hundred million float32 numbers is off by a hundredth; for each matrix the products
    # of the two gradients with themselves and with each other
    pairs = ((a.double(), b.double()) for a, b in zip(mine[0], plain[0], strict=True))
    each = torch.stack([torch.stack([(a * a).sum(), (b * b).sum(), (a * b).sum()]) for a, b in pairs])
    cosines = each[:, 2] / (each[:, 0] * each[:, 1]).sqrt()
    first, second, mixed = each.sum(dim=0).tolist()
    return {
        "gradient_cosine": round(mixed / (first * second) ** 0.5, 6),
        "gradient_cosine_of_the_worst_matrix": round(float(cosines.min()), 6),
        "gradient_norm_ratio": round((first / second) ** 0.5, 6),
        "loss_ratio": round(mine[1] / plain[1], 6),
    }


def _free(device: torch.device) -> None:
    gc.collect()  # a network and its replaced `forward` refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; keys name the figures and their units."""
    # with its number, which a limit of memory needs
    device = torch.device(arguments.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, arguments.dtype)
    config: dict[str, Any] = dict(TOY) if arguments.toy else {}
    if arguments.layers:
        config |= _shallow(arguments.layers)
    size = TOY_SIZE if arguments.toy else (arguments.height, arguments.width, arguments.frames)
    rank = 4 if arguments.toy else arguments.rank
    if arguments.memory_gb and device.type == "cuda":
        share = arguments.memory_gb * 1e9 / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    activations = Activations(arguments.keep_attention, arguments.offload, not arguments.eager)
    setting = Setting(
        activations,
        float8=arguments.base_dtype == "fp8",
        backend=arguments.attention_backend,
        swap_blocks=arguments.swap_blocks,
        optimizer=arguments.optimizer,
    )
    if arguments.plain:
        setting = Setting(PLAIN.activations, lean=False, backend=arguments.attention_backend)
    kept = {name: getattr(setting.activations, name) for name in ("keep_attention", "offload")}
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "pixels": f"{size[1]}x{size[0]}x{size[2]}",
        "rank": rank,
        "plain": arguments.plain,
        "compiled": setting.activations.compile,
        **{name: "all" if blocks is None else blocks for name, blocks in kept.items()},
        "base": "fp8" if setting.float8 else arguments.dtype,
        "attention_backend": setting.backend or "native",
        "swap_blocks": setting.swap_blocks,
        "optimizer": setting.optimizer,
    }
    if arguments.memory_gb:
        result["memory_limit_gb"] = arguments.memory_gb
    if arguments.steps:
        bench = Bench(setting, config, rank, size, device, dtype)
        if arguments.shapes:
            result |= _over_shapes(bench, shapes_of("pocket" if arguments.toy else "full", size)[-arguments.shapes :])
        bench.resize(size)
        result["attention_backend"] = bench.backend
        result |= _timed(bench, arguments.steps, size, rank)
        del bench
        _free(device)
    if arguments.check:
        fewer = replace(setting, swap_blocks=min(setting.swap_blocks, arguments.check))
        result |= check(fewer, config | _shallow(arguments.check), rank, size, device, dtype)
    return result


def shapes_of(profile: str, largest: Size) -> list[Size]:
    """The sizes of a training's samples up to one size, by how many pixels they have."""
    lengths = range(SHORTEST, LONGEST + 1, STEP)
    sizes = [(height, width, frames) for width, height in ASPECTS[profile].values() for frames in lengths]
    return sorted((size for size in sizes if math.prod(size) < math.prod(largest)), key=math.prod)


def _over_shapes(bench: Bench, sizes: Sequence[Size]) -> dict[str, Any]:
    """A step of each size."""
    for number, size in enumerate(sizes):
        bench.resize(size)
        bench.step(number)
    found: dict[str, Any] = {"shapes": 1 + len(sizes)}
    if bench.device.type == "cuda":
        found["peak_memory_of_shapes_gb"] = round(torch.cuda.max_memory_allocated(bench.device) / 1e9, 2)
    return found


def _timed(bench: Bench, steps: int, size: Size, rank: int) -> dict[str, Any]:
    on_gpu = bench.device.type == "cuda"
    first = bench.step(0)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    seconds = [bench.step(number) for number in range(1, 1 + steps)]
    flops = step_flops(bench.network, size, rank)
    found = {
        "parameters": bench.parameters,
        "trained": sum(matrix.numel() for matrix in bench.trained),
        "loss": round(float(bench.loss), 4),
        "first_step_s": round(first, 2),
        "step_s": round(statistics.median(seconds), 3),
        "slowest_step_s": round(max(seconds), 3),
        "petaflop_needed": round(flops / 1e15, 3),
        "tflops": round(flops / 1e12 / statistics.median(seconds), 1),
    }
    if on_gpu:
        found["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(bench.device) / 1e9, 2)
        found["peak_reserved_gb"] = round(torch.cuda.max_memory_reserved(bench.device) / 1e9, 2)
        found["peak_host_memory_gb"] = round(peak_host_bytes() / 1e9, 2)
    return found


def _shallow(layers: int) -> dict[str, Any]:
    """Config of a network with fewer blocks, every other with audio."""
    return {"num_layers": layers, "audio_inject_layers": tuple(range(0, layers, 2))}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""

    def blocks(text: str) -> int | None:
        return None if text == "all" else int(text)

    parser = argparse.ArgumentParser(prog="python -m training.bench", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--toy", action="store_true", help="a small network and a short clip, for any machine")
    add("--layers", type=int, help="number of blocks; default: all")
    add("--height", type=int, default=TRUE_SIZE[0], help="pixels")
    add("--width", type=int, default=TRUE_SIZE[1], help="pixels")
    add("--frames", type=int, default=TRUE_SIZE[2], help="frames of the sample, a multiple of 4")
    add("--rank", type=int, default=128, help="rank of the LoRA")
    add("--plain", action="store_true", help="PEFT's own layers and full checkpointing, not compiled")
    add("--eager", action="store_true", help="do not compile")
    add("--keep-attention", type=blocks, metavar="BLOCKS", help="how many keep attention outputs; default: all")
    add("--offload", type=blocks, metavar="BLOCKS", help="how many have kept tensors offloaded; default: all")
    add("--base-dtype", choices=["own", "fp8"], default="own", help="how frozen weights are stored")
    add("--attention-backend", help="auto, sdpa, cudnn, flash4, or one of diffusers' dispatcher")
    add("--swap-blocks", type=int, default=0, help="how many blocks have their frozen weights in CPU RAM")
    add("--optimizer", choices=["adamw", "adamw8bit"], default="adamw")
    add("--recipe", choices=[name for name in RECIPES if name != "pocket"], help="settings that the others override")
    add("--memory-gb", type=float, help="a limit of GPU memory, as a smaller GPU has it")
    add("--shapes", type=int, default=0, help="first a step of each of so many other sizes of samples")
    add("--steps", type=int, default=3, help="timed steps, after one untimed; 0 for none")
    add("--check", type=int, default=0, metavar="BLOCKS", help="compare gradients with --plain in this many blocks")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of the frozen weights")
    add("--device", help="default: cuda:0 if there is one, else cpu")
    arguments = parser.parse_args(argv)
    if arguments.recipe:
        recipe = {name: value for name, value in RECIPES[arguments.recipe]().items() if hasattr(arguments, name)}
        parser.set_defaults(**recipe)
        arguments = parser.parse_args(argv)
    join_freed_memory()
    print(json.dumps(measure(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

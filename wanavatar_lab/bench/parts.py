"""Where the time of a clip goes: each part of a stage by itself, beside the least time that it could take.

A part is a call that a run makes: the text encoder for both prompts, a pass of the network, the decoding of a segment.
It is measured through the functions that the stage calls, with the attention and the compiled blocks that
`stages.kernels` chooses: the median of three calls after one that does not count. `floor` says what the least time is.
One more call is watched by torch's profiler, which says what kinds of kernels the time went to.

Weights are random, and made on the device, or those of the pocket models. Peers, which are diffusers' own networks and
the S2V network of Wan's publisher, compute the same part of the same inputs in the same process, as they come.
"""

import gc
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import torch
from torch import nn

from wanavatar_lab.bench import network
from wanavatar_lab.bench.cases import Case, read_cases, request_of
from wanavatar_lab.bench.floor import Ceilings, Operations, counted, read_bytes
from wanavatar_lab.bench.peers import plain_expert, plain_vae, published_pass, published_s2v
from wanavatar_lab.bench.random_models import random_pipeline, write_random_upscaler
from wanavatar_lab.bench.watch import median_seconds, say, synchronize
from wanavatar_lab.errors import LabError, is_out_of_memory
from wanavatar_lab.memory.apply_offload import OffloadableModels, compute_dtype
from wanavatar_lab.memory.components import dimensions
from wanavatar_lab.memory.estimate_time import forward_flops
from wanavatar_lab.memory.workload import LATENT_FRAMES, TEXT_TOKENS
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, Upscale, fields_of
from wanavatar_lab.s2v import SegmentMemory
from wanavatar_lab.s2v.audio_features import SAMPLE_RATE, hidden_states
from wanavatar_lab.s2v.pipeline import FPS, MotionContext
from wanavatar_lab.stages import kernels, stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.upscale import enlarge, tiles
from wanavatar_lab.wan.latents import MOTION_FRAMES, LatentCodec, to_host
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH
from wanavatar_lab.wan.vae import fit_device

Figures = dict[str, Any]
Peers = Mapping[str, Callable[[], Callable[[], Any]]]

PARTS: dict[str, tuple[str, ...]] = {
    "text_to_image": ("text_encoder", "transformer", "vae.decode"),
    "upscale": ("network",),
    "image_to_video": ("text_encoder", "vae.encode", "transformer", "vae.decode"),
    "speech_to_video": ("text_encoder", "audio_encoder", "vae.encode", "transformer", "vae.decode"),
}
# measured where no case is named: the other networks of image to video are those of speech to video
USUAL = PARTS | {"image_to_video": ("transformer",)}
PROMPT = "a person speaks " * 200  # longer than the text encoders read, so that they run on their longest input
LARGEST_KERNELS = 8  # that are named
# By the names of kernels of a GPU, and of operators on a CPU: the first that matches counts, since a fused attention or
# convolution may be named after a product too. Triton names a kernel after all operators that it fuses, and only its
# templates are products.
_KINDS = (
    ("exchange", re.compile(r"nccl", re.IGNORECASE)),
    ("everything else", re.compile(r"^triton_(?!tem)")),
    ("attention", re.compile(r"flash|fmha|sdpa|attention", re.IGNORECASE)),
    ("convolutions", re.compile(r"conv|fprop|dgrad|winograd", re.IGNORECASE)),
    (
        "products",
        re.compile(r"gemm|gemv|nvjet|cutlass|cublas|xmma|splitk|triton_tem|\b(add|b|badd)?b?mm\b", re.IGNORECASE),
    ),
)


@dataclass
class Part:
    """A call that a run makes, ready to be made.

    Attributes:
        call: makes it.
        network: that computes it.
        operations: that are needed for what comes out of it.
        attention: tokens, heads and width of a head, where most of its attention is that of one sequence to itself.
        warm_up: calls before those that count.
        peers: by name what makes the same call by another network; it is built when it is asked for.
    """

    call: Callable[[], Any]
    network: nn.Module
    operations: Operations
    attention: tuple[int, int, int] | None = None
    warm_up: int = 1
    peers: Peers = field(default_factory=dict)


Named = Iterable[tuple[str, Part]]


def choose_parts(words: Sequence[str], parts: Sequence[str], size: str) -> list[tuple[Case, tuple[str, ...]]]:
    """Cases, and which of their parts to measure.

    Args:
        words: as `read_cases` takes them; none for a case of each stage.
        parts: names in `PARTS`; those that a stage does not have are left out of it. None for all.
        size: a name in `CASES`.

    Raises:
        LabError: a word is no case, or a part is of none of the stages.
    """
    cases = read_cases(words, size)
    if not words:
        cases = list({case.stage: case for case in reversed(cases)}.values())[::-1]
    known = sorted({name for case in cases for name in PARTS[case.stage]})
    if wrong := [name for name in parts if name not in known]:
        raise LabError(f"{', '.join(wrong)} is no part of these stages; they have {', '.join(known)}.")
    usual = PARTS if words or parts else USUAL
    chosen = [(case, tuple(name for name in usual[case.stage] if not parts or name in parts)) for case in cases]
    return [(case, names) for case, names in chosen if names]


@torch.no_grad()
def measure_parts(
    chosen: Sequence[tuple[Case, Sequence[str]]],
    size: str,
    device: str,
    on_row: Callable[[Figures], None],
    peers: bool = False,
    reference: Path | None = None,
    repeats: int = 3,
) -> Figures:
    """Measure parts of stages.

    Args:
        chosen: from `choose_parts`.
        size: published or tiny for random weights, or pocket for the models that ship.
        device: cpu, cuda or cuda:<n>.
        on_row: gets the figures so far after every part.
        peers: also measure diffusers' own networks.
        reference: the folder that holds the package `wan` of Wan's publisher, to measure its S2V network too.
        repeats: calls of each part that count.

    Returns:
        The device, its ceilings, and `rows`; in seconds, bytes and operations.

    Raises:
        LabError: `reference` holds no such package.
    """
    published = None if reference is None else published_s2v(reference)
    target = torch.device(device)
    ceilings = Ceilings(target)
    figures: Figures = {
        "bench": "parts",
        "size": size,
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ceilings": ceilings.measured,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for stage in dict.fromkeys(case.stage for case, _ in chosen):
            say(f"Weights of {stage.replace('_', ' ')} …")
            models = _models(stage, size, device, Path(folder))
            for case, names in ((case, names) for case, names in chosen if case.stage == stage):
                facts = _prepare(case, models, Path(folder) / f"{stage}{case.width}x{case.height}x{case.frames}")
                for name, part in _PARTS_OF[stage](models, case, target, published, names):
                    for row in _rows(name, part, case, facts, ceilings, peers, repeats):
                        figures["rows"].append(row)
                        on_row(figures)
            del models
            _release()
    return figures


def _models(stage: str, size: str, device: str, folder: Path) -> Any:
    """The models of a stage, all of them on the device."""
    if size in PROFILES:  # whose weights are read
        models = stage_module(stage).load(PROFILES[size], device)
        if stage != "upscale":
            models.pipeline.to(device)
        return models
    if stage == "upscale":
        write_random_upscaler(folder / "RealESRGAN_random.pth", size)
        return stage_module(stage).Models(folder / "RealESRGAN_random.pth", device)
    models = OffloadableModels()
    dtype = torch.float32 if device == "cpu" else getattr(torch, PROFILES["full"].dtype(device))
    models.device, models.pipeline = device, random_pipeline(stage, size, dtype, torch.device(device))
    if stage != "text_to_image":
        fit_device(models.pipeline.vae, device)
    return models


def _prepare(case: Case, models: Any, folder: Path) -> Figures:
    """What a run does before its first pass; which attention it has, and whether its blocks are compiled."""
    if case.stage not in (ImageToVideo.stage, SpeechToVideo.stage):
        return {}
    context = StageContext(folder, 1)
    kernels.prepare(request_of(case, folder, "none"), models, context)  # type: ignore[arg-type]
    return context.facts


def _rows(
    name: str, part: Part, case: Case, facts: Figures, ceilings: Ceilings, peers: bool, repeats: int
) -> Iterator[Figures]:
    """The figures of a part, and of its peers."""
    dtype, on_gpu = compute_dtype(part.network), next(part.network.parameters()).is_cuda
    common = {
        "stage": case.stage,
        "part": name,
        **{side: getattr(case, side) for side in ("width", "height", "frames")},
    }
    common["dtype"] = str(dtype).removeprefix("torch.")
    common["operations"] = part.operations._asdict()
    floor = ceilings.floor(part.operations, dtype, read_bytes(part.network), part.attention)
    common["floor_seconds"] = floor
    # as if attention and convolutions were as fast as matrix products
    common["products_seconds"] = products = sum(part.operations) / ceilings.matrix(dtype)
    others = {by: build for by, build in part.peers.items() if peers or by == "reference"}
    calls: dict[str, Callable[[], Callable[[], Any]]] = {"this package": lambda: part.call, **others}
    for by, build in calls.items():
        say(f"{case.stage.replace('_', ' ')}, {name}, by {by} …")
        row = {**common, "by": by}
        try:
            call = build()
            row |= _measured(call, on_gpu, part.warm_up, repeats)
            if name == "transformer":  # now, since compiling may have failed
                row |= facts if by == "this package" else {"attention": "sdpa", "compiled": False}
            row["of_floor"] = floor / row["seconds"]
            row["times_products"] = row["least_seconds"] / products
            del call
        except (LabError, RuntimeError, ImportError) as error:
            # the others can still be measured
            row["error"] = f"{type(error).__name__}: {error}"[:1000]
            if not is_out_of_memory(error):
                say(row["error"])
        _release()
        yield row


def _measured(call: Callable[[], Any], on_gpu: bool, warm_up: int, repeats: int) -> Figures:
    """Seconds of a call, its peak of GPU memory, and what its kernels are."""
    first = sum(median_seconds(call, warm_up=0, repeats=1) for _ in range(warm_up))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = [median_seconds(call, warm_up=0, repeats=1) for _ in range(repeats)]
    row: Figures = {"first_seconds": first, "seconds": statistics.median(times), "least_seconds": min(times)}
    if on_gpu:
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    by_name = kernel_seconds(call, on_gpu)
    row["kernels"] = kinds_of(by_name) | {"between": max(0.0, row["seconds"] - sum(by_name.values()))}
    row["largest_kernels"] = largest_of(by_name)
    return row


def kernel_seconds(call: Callable[[], Any], on_gpu: bool = False) -> dict[str, float]:
    """Seconds by name of each kernel of a GPU that a call runs, or of each operator on a CPU, by torch's profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints when it starts and stops
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        call()
        synchronize()
    # the events as they were recorded: torch's own tables of them take longer than what they are of
    device = torch._C._autograd.DeviceType.CUDA if on_gpu else torch._C._autograd.DeviceType.CPU
    events = [event for event in profile.profiler.kineto_results.events() if event.device_type() == device]
    found: dict[str, float] = {}
    outer: list[tuple[int, str]] = []  # operators that the next one may be inside of: their ends and names
    for event in sorted(events, key=lambda each: (each.start_thread_id(), each.start_ns(), -each.duration_ns())):
        start, seconds = event.start_ns(), event.duration_ns() / 1e9
        found[event.name()] = found.get(event.name(), 0.0) + seconds
        if not on_gpu:
            while outer and outer[-1][0] <= start:
                outer.pop()
            if outer:
                found[outer[-1][1]] -= seconds
            outer.append((start + event.duration_ns(), event.name()))
    return found


def kinds_of(by_name: dict[str, float]) -> dict[str, float]:
    """Seconds by kind of kernel: attention, products, convolutions, everything else, and exchange where GPUs share."""
    found = dict.fromkeys(("attention", "products", "convolutions", "everything else"), 0.0)
    for name, seconds in by_name.items():
        kind = next((kind for kind, pattern in _KINDS if pattern.search(name)), "everything else")
        found[kind] = found.get(kind, 0.0) + seconds
    return found


def largest_of(by_name: dict[str, float]) -> dict[str, float]:
    """Seconds of the kernels that take most time, by the beginnings of their names."""
    largest = sorted(by_name, key=lambda name: -by_name[name])[:LARGEST_KERNELS]
    return {name[:120]: by_name[name] for name in largest}


def _release() -> None:
    """Give the GPU's memory back of what is not used any more."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _speech_to_video(
    models: Any, case: Case, device: torch.device, published: ModuleType | None, wanted: Sequence[str]
) -> Named:
    peers: Peers
    pipeline, vae = models.pipeline, models.pipeline.vae
    rows, columns, frames = case.height // 8, case.width // 8, case.frames
    codec, z = LatentCodec(vae), vae.config.z_dim
    if "text_encoder" in wanted:
        yield "text_encoder", _wan_text(pipeline, lambda: [pipeline.encode_prompt(PROMPT) for _ in range(2)])
    if "audio_encoder" in wanted:
        encoder, samples = pipeline.audio_encoder, frames * SAMPLE_RATE // FPS
        voice = np.random.default_rng(0).standard_normal(samples, np.float32)
        operations = counted(encoder, lambda it: hidden_states(it, torch.empty(1, samples, device="meta")))
        yield "audio_encoder", Part(lambda: pipeline.encode_audio(voice), encoder, operations)
    if "vae.encode" in wanted or "vae.decode" in wanted:
        # of a segment that continues another
        motion = MotionContext(codec, _pixels(case, 1), MOTION_FRAMES, True, device)
    if "vae.encode" in wanted:
        before = _pixels(case, MOTION_FRAMES).to(device)
        operations = _encode_operations(vae, case, MOTION_FRAMES)
        peers = {"diffusers": lambda: partial(plain_vae(vae).encode, before)}
        yield "vae.encode", Part(lambda: motion.advance(frames), vae, operations, peers=peers)
    if "transformer" in wanted:
        transformer = pipeline.transformer
        dtype, memory = compute_dtype(transformer), SegmentMemory()
        inputs = network.random_inputs(transformer, case.height, case.width, frames, device, dtype)
        call = partial(transformer, **inputs, memory=memory, return_dict=False)
        theirs: Peers = {}
        if published is not None:
            theirs = {"reference": lambda: published_pass(published, transformer, inputs, device)}
        # the first call fills the memory of a segment, and the second compiles
        yield "transformer", _pass(transformer, case, call, warm_up=2, peers=theirs)
    if "vae.decode" in wanted:
        noise = torch.randn(1, z, frames // LATENT_FRAMES, rows, columns, device=device)
        # of the frames that come out: those before them are decoded only to set the decoder's state
        operations = _decode_operations(vae, case, 4).without(_decode_operations(vae, case, 3))
        whole = torch.randn(1, z, (MOTION_FRAMES + 3) // 4 + noise.shape[2], rows, columns, device=device)
        peers = {"diffusers": lambda: partial(plain_vae(vae).decode, whole)}
        part = Part(lambda: motion.decode(noise, "The part"), vae, operations.times(noise.shape[2]), peers=peers)
        yield "vae.decode", part


def _image_to_video(
    models: Any, case: Case, device: torch.device, _: ModuleType | None, wanted: Sequence[str]
) -> Named:
    peers: Peers
    pipeline, vae = models.pipeline, models.pipeline.vae
    rows, columns, latents = case.height // 8, case.width // 8, -(-case.frames // LATENT_FRAMES)
    if "text_encoder" in wanted:
        yield (
            "text_encoder",
            _wan_text(pipeline, lambda: pipeline.encode_prompt(PROMPT, PROMPT, max_sequence_length=TEXT_LENGTH)),
        )
    if "vae.encode" in wanted:
        picture, pixels = _pixels(case, 1)[:, :, 0].to(device), _pixels(case, case.frames).to(device)
        size = (1, vae.config.z_dim, case.height, case.width, case.frames)
        call = partial(pipeline.prepare_latents, picture, *size, torch.float32, device, torch.Generator())
        peers = {"diffusers": lambda: partial(plain_vae(vae).encode, pixels)}
        yield "vae.encode", Part(call, vae, _encode_operations(vae, case, case.frames), peers=peers)
    if "transformer" in wanted:
        expert = pipeline.transformer
        config, dtype = expert.config, compute_dtype(expert)
        inputs = {
            "hidden_states": torch.randn(1, config.in_channels, latents, rows, columns, device=device).to(dtype),
            "timestep": torch.tensor([500.0], device=device),
            "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, config.text_dim, device=device).to(dtype),
        }
        peers = {"diffusers": lambda: partial(plain_expert(expert), **inputs, return_dict=False)}
        yield "transformer", _pass(expert, case, partial(expert, **inputs, return_dict=False), peers=peers)
    if "vae.decode" in wanted:
        codec, noise = LatentCodec(vae), torch.randn(1, vae.config.z_dim, latents, rows, columns, device=device)
        operations = _decode_operations(vae, case, latents)
        peers = {"diffusers": lambda: partial(plain_vae(vae).decode, noise)}
        yield "vae.decode", Part(lambda: to_host(codec.decode(noise)), vae, operations, peers=peers)


def _text_to_image(models: Any, case: Case, device: torch.device, _: ModuleType | None, wanted: Sequence[str]) -> Named:
    pipeline, transformer, vae = models.pipeline, models.pipeline.transformer, models.pipeline.vae
    if "text_encoder" in wanted:
        encoder, tokens = pipeline.text_encoder, torch.zeros(1, TEXT_TOKENS, dtype=torch.long, device="meta")
        # a mask of its final shape, since another would be looked into
        mask = torch.ones(1, 1, TEXT_TOKENS, TEXT_TOKENS, dtype=torch.bool, device="meta")
        operations = counted(encoder, lambda it: it(tokens, attention_mask=mask, use_cache=False))
        yield "text_encoder", Part(lambda: pipeline.encode_prompt(PROMPT), encoder, operations)
    if "transformer" in wanted:
        config, dtype = transformer.config, compute_dtype(transformer)
        channels, generator = config.in_channels // 4, torch.Generator().manual_seed(0)
        noise, places = pipeline.prepare_latents(1, channels, case.height, case.width, dtype, device, generator)
        text = torch.randn(1, TEXT_TOKENS, config.joint_attention_dim, device=device).to(dtype)
        inputs = {
            "hidden_states": noise,
            "timestep": torch.tensor([0.5], device=device, dtype=dtype),
            "guidance": None,
            "encoder_hidden_states": text,
            "txt_ids": pipeline._prepare_text_ids(text).to(device),
            "img_ids": places,
        }
        yield "transformer", _pass(transformer, case, partial(transformer, **inputs, return_dict=False))
    if "vae.decode" in wanted:
        shape = (1, vae.config.latent_channels, case.height // 8, case.width // 8)
        noise = torch.randn(shape, device=device).to(vae.dtype)
        operations = counted(vae, lambda it: it.decode(torch.empty(shape, dtype=vae.dtype, device="meta")))
        yield "vae.decode", Part(lambda: vae.decode(noise, return_dict=False)[0].cpu(), vae, operations)


def _upscale(models: Any, case: Case, _: torch.device, __: ModuleType | None, ___: Sequence[str]) -> Named:
    found, tile = models.network(), int(fields_of(Upscale)["tile"].default)
    levels = np.random.default_rng(0).integers(0, 256, (case.height, case.width, 3), dtype=np.uint8)
    operations = Operations()
    for each in tiles(case.height, case.width, tile):
        sides = [part.stop - part.start for part in (each.seen_rows, each.seen_columns)]
        given = torch.empty(1, 3, *sides, dtype=found.dtype, device="meta")
        operations = operations.plus(counted(found.module, partial(_called, given)))
    with tempfile.TemporaryDirectory() as folder:
        context = StageContext(Path(folder), 1)
        yield "network", Part(lambda: enlarge(levels, found, tile, context), found.module, operations)


_PARTS_OF: dict[str, Callable[[Any, Case, torch.device, ModuleType | None, Sequence[str]], Named]] = {
    "text_to_image": _text_to_image,
    "upscale": _upscale,
    "image_to_video": _image_to_video,
    "speech_to_video": _speech_to_video,
}


def _wan_text(pipeline: Any, call: Callable[[], Any]) -> Part:
    """UMT5 for the two prompts of a clip with guidance."""
    tokens = torch.zeros(1, TEXT_TOKENS, dtype=torch.long, device="meta")
    return Part(call, pipeline.text_encoder, counted(pipeline.text_encoder, lambda it: it(tokens)).times(2))


def _pass(transformer: Any, case: Case, call: Callable[[], Any], warm_up: int = 1, peers: Peers | None = None) -> Part:
    config = transformer.config
    linear, attending = forward_flops(case, **dimensions(config))
    shape = case.tokens, config.num_attention_heads, config.attention_head_dim
    return Part(call, transformer, Operations(linear, attending), shape, warm_up, peers or {})


def _called(given: torch.Tensor, network: nn.Module) -> Any:
    return network(given)


def _pixels(case: Case, frames: int) -> torch.Tensor:
    """Noise [1, 3, frames, H, W] in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, frames, case.height, case.width, generator=generator) * 2 - 1


def _encode_operations(vae: Any, case: Case, frames: int) -> Operations:
    shape = (1, 3, frames, case.height, case.width)
    return counted(vae, lambda it: it.encode(torch.empty(shape, dtype=vae.dtype, device="meta")))


def _decode_operations(vae: Any, case: Case, latents: int) -> Operations:
    shape = (1, vae.config.z_dim, latents, case.height // 8, case.width // 8)
    return counted(vae, lambda it: it.decode(torch.empty(shape, dtype=vae.dtype, device="meta")))

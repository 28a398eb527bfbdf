"""On a GPU: the rate of transfers, the same results in every offload mode, and no growth of memory."""

import gc
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import toy_flux, toys
from tests.memory.test_model_offload import clip, moving, picture
from tests.toy_i2v import i2v_pipeline
from wanavatar_lab.memory import Machine, usual_workload
from wanavatar_lab.memory.apply_offload import OffloadableModels, apply_offload, components_in
from wanavatar_lab.memory.choose_offload import choose, choose_for_device
from wanavatar_lab.memory.machine import this_machine
from wanavatar_lab.memory.pinned import pinned
from wanavatar_lab.wan.float8 import quantized

pytestmark = pytest.mark.gpu

PIPELINES: dict[str, tuple[Callable[[], Any], Callable[[Any], torch.Tensor]]] = {
    "speech_to_video": (toys.s2v_pipeline, clip),
    "image_to_video": (i2v_pipeline, moving),
    "text_to_image": (toy_flux.pipeline, picture),
}
TURNS = 25  # of two stages each


def large_module(layers: int = 40, width: int = 5120) -> nn.Module:
    """Linear layers of the size of the published networks', 2.1 GB of them, in bfloat16."""
    return nn.Sequential(*(nn.Linear(width, width, dtype=torch.bfloat16) for _ in range(layers))).requires_grad_(False)


def seconds(action: Callable[[], Any], repeats: int = 5) -> float:
    """The best of several times, the device waited for."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def test_weights_come_at_the_rate_of_the_link() -> None:
    module = large_module()
    weights = pinned(module)
    weights.offload()
    size = weights.host_bytes
    plain = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(size, dtype=torch.uint8, device="cuda")
    limit = size / seconds(partial(there.copy_, plain, non_blocking=True))
    times = []
    for _ in range(5):
        weights.offload()
        times.append(seconds(lambda: weights.onload("cuda"), repeats=1))
    rate = size / min(times)
    print(f"{rate / 1e9:.1f} GB/s of {limit / 1e9:.1f} GB/s")
    assert rate >= 0.8 * limit
    assert all(parameter.data.is_cuda for parameter in module.parameters())


def test_leaving_copies_nothing() -> None:
    module = large_module(10)
    weights = pinned(module)
    weights.offload()
    weights.onload("cuda")
    assert seconds(weights.offload, repeats=1) < 0.1
    assert all(parameter.data.is_pinned() for parameter in module.parameters())


def test_weights_are_pinned_when_they_leave() -> None:
    module = toys.s2v_transformer()
    wanted = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    pinned(module).onload("cuda")
    assert all(torch.equal(tensor.cpu(), wanted[name]) for name, tensor in module.state_dict().items())
    with torch.no_grad():
        module.get_parameter("proj_out.bias").fill_(3)
    pinned(module).offload()
    assert all(tensor.is_pinned() for tensor in module.parameters())
    assert float(module.get_parameter("proj_out.bias")[0]) == 3


@pytest.mark.parametrize("stage", PIPELINES)
@pytest.mark.parametrize("offload", ["none", "model", "group", "fp8"])
def test_every_mode_makes_the_same(offload: str, stage: str) -> None:
    build, make = PIPELINES[stage]
    pipeline = build().to("cuda")
    wanted = make(pipeline).cpu()
    pipeline = build()
    choice = choose_for_device(components_in(pipeline), usual_workload(stage, "pocket"), "cuda", None, offload)
    apply_offload(pipeline, "cuda", choice)
    for _ in range(2):
        difference = (make(pipeline).cpu() - wanted).abs().mean()
        assert difference < (0.1 if offload == "fp8" else 1e-3)


@pytest.mark.parametrize("stage", ["speech_to_video", "image_to_video"])
@pytest.mark.parametrize("offload", ["none", "model"])
def test_products_in_float8_come_and_go(offload: str, stage: str) -> None:
    build, make = PIPELINES[stage]

    class Toy(OffloadableModels):
        device = "cuda"

        def read(self) -> None:
            self.pipeline = build()

    models, clips = Toy(), dict[str, list[torch.Tensor]]()
    models.read()
    for quantization in ("none", "fp8", "fp8", "none"):
        choice = models.apply_offload(offload, usual_workload(stage, "pocket"), quantization=quantization)
        assert (choice.mode, choice.quantization) == (offload, quantization)
        clips.setdefault(quantization, []).append(make(models.pipeline).cpu())
        layers = quantized(models.pipeline.transformer).values()
        assert bool(layers) == (quantization == "fp8")
        assert all(layer.exact.device.type == "cpu" for layer in layers)
        assert offload == "model" or all(layer.weight.is_cuda for layer in layers)
        models.offload_to_host()
    assert all((first - again).abs().mean() < 2e-3 for first, again in clips.values())
    assert 0 < (clips["fp8"][0] - clips["none"][0]).abs().mean() < 0.05


@pytest.mark.multi_gpu
@pytest.mark.parametrize("stage", PIPELINES)
def test_a_text_encoder_on_a_second_gpu_makes_the_same(stage: str) -> None:
    build, make = PIPELINES[stage]
    wanted = make(build().to("cuda")).cpu()
    pipeline = build()
    gpus = Machine(this_machine("cuda").gpus[:2], None)
    choice = choose(components_in(pipeline), usual_workload(stage, "pocket"), gpus, "second_gpu")
    apply_offload(pipeline, "cuda", choice)
    assert pipeline.text_encoder.device != pipeline.transformer.device
    assert (make(pipeline).cpu() - wanted).abs().mean() < 1e-3


def own_bytes() -> int:
    """Main memory that this process takes, which no other program changes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Large(OffloadableModels):
    """A pipeline whose transformer takes some memory."""

    def __init__(self, seed: int) -> None:
        self.device, self.seed = "cuda", seed
        self.read()

    def read(self) -> None:
        self.pipeline = toys.s2v_pipeline(self.seed)
        # in the numbers of the network, by whose largest weight 8-bit storage tells what to compute in
        self.pipeline.transformer.ballast = large_module(5).float()


@pytest.mark.parametrize("offload", ["none", "model", "group", "fp8"])
def test_an_offloaded_stage_leaves_nothing_on_the_gpu(offload: str) -> None:
    gc.collect()
    before = torch.cuda.memory_allocated()
    models = Large(0)
    models.apply_offload(offload, usual_workload("speech_to_video", "pocket"))
    clip(models.pipeline)
    models.offload_to_host()
    gc.collect()
    # what libraries keep for themselves, cuBLAS 32 MiB of it; the weights are far more
    assert torch.cuda.memory_allocated() - before < 64 * 2**20


def test_layer_by_layer_no_weight_is_left_on_the_gpu_after_a_clip() -> None:
    models = Large(0)
    models.apply_offload("group", usual_workload("speech_to_video", "pocket"))
    clip(models.pipeline)
    for name in ("transformer", "text_encoder"):
        network = getattr(models.pipeline, name)
        assert not [name for name, weight in network.named_parameters() if weight.is_cuda]


@pytest.mark.parametrize("offload", ["none", "model"])
def test_stages_that_alternate_leave_memory_as_it_was(offload: str) -> None:
    first, second = Large(0), Large(1)
    workload = usual_workload("speech_to_video", "pocket")
    wanted: dict[int, torch.Tensor] = {}
    used: list[tuple[int, int]] = []
    for _ in range(TURNS):
        for models, other in ((first, second), (second, first)):
            other.offload_to_host()
            models.apply_offload(offload, workload)
            made = clip(models.pipeline)
            assert torch.allclose(made, wanted.setdefault(models.seed, made), atol=1e-3)
        gc.collect()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        used.append((total - free, own_bytes()))
    assert abs(used[-1][0] - used[1][0]) <= 0.01 * used[1][0], "GPU memory"
    assert abs(used[-1][1] - used[1][1]) <= 0.01 * used[1][1], "main memory"

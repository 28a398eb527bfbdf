"""One sequence, the two passes of guidance, or a decoder over several processes give what one process gives.

Real processes: on CPUs they talk through gloo on the loopback address, on GPUs through NCCL.
"""

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed import FileStore  # type: ignore[attr-defined]

from tests import toy_flux, toy_i2v, toys
from tests.s2v.toy import (
    at_step,
    blocks,
    compile_without_inductor,
    count_calls,
    flow,
    relative_error,
    toy_inputs,
    toy_model,
)
from tests.training.forked import SERVER
from wanavatar_lab.bench.rounding import ThroughMainMemory
from wanavatar_lab.runs.ranks import BY_ITSELF, Layout, Ranks
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel
from wanavatar_lab.s2v.pipeline import denoise_segment
from wanavatar_lab.stages.kernels import compile_blocks, is_compiled
from wanavatar_lab.wan.attention import log_sum_operator
from wanavatar_lab.wan.context_parallel import agree_on_first_block, join, leave, merged, share, unshare
from wanavatar_lab.wan.scheduler import SOLVERS
from wanavatar_lab.wan.vae import make_fast, only_last_frames
from wanavatar_lab.worker.rank_group import lost_others

STEPS = 2
CACHED_STEPS = 5
HALF = "half"
ONE_GPU = "cuda:0"  # where several processes compute
WITHOUT_SUMS = "_native_math"  # an attention that is shared by heads; that of a CPU by default is shared as a ring
CASES: dict[str, dict[str, Any]] = {
    "motion kept": {"motion": True},
    "motion dropped": {"motion": False},
    "odd grid": {"height": 10, "width": 14},
}
LAYOUTS = {2: [Layout(1, 2), Layout(2, 1)], 3: [Layout(1, 3)], 4: [Layout(2, 2)]}


def networks() -> tuple[Any, ...]:
    """Speech to video, an expert of image to video, and FLUX; their 3, 2 and 1 heads divide by neither 2 nor 3."""
    return toy_model(num_attention_heads=3, attention_head_dim=24), toy_i2v.expert(), toy_flux.transformer()


def inputs_of(case: str, step: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    # height 10 and width 14 give frames of 35 tokens: neither 2 nor 3 ranks get whole frames
    inputs = at_step(toy_inputs(**CASES[case]), step)
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def steps_of(model: nn.Module, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Some steps of each kind of segment, with the memory that they share."""
    results = {}
    for case in CASES:
        memory = SegmentMemory()
        for step in range(STEPS):
            results[f"{case}/{step}"] = flow(model, inputs_of(case, step, device), memory=memory).cpu()
    return results


def other_networks(expert: nn.Module, flux: nn.Module, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def places(*sides: int) -> torch.Tensor:
        return torch.cartesian_prod(*map(torch.arange, sides))[None].to(device)

    clip = {"hidden_states": random(1, 36, 3, 10, 14), "encoder_hidden_states": random(1, 7, 16)}
    picture = {"hidden_states": random(1, 35, 16), "encoder_hidden_states": random(1, 11, 24), "guidance": None}
    picture |= {"img_ids": places(1, 5, 7, 1), "txt_ids": places(1, 1, 1, 11)}
    return {
        "expert": flow(expert, {**clip, "timestep": torch.tensor([500], device=device)}).cpu(),
        "flux": flow(flux, {**picture, "timestep": torch.tensor([0.5], device=device)}).cpu(),
    }


def cached_steps(model: WanS2VTransformer3DModel, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """A segment under MagCache: the first step and every third one after it are computed."""
    config = MagCacheConfig(
        mag_ratios=[1.0] * CACHED_STEPS, num_inference_steps=CACHED_STEPS, retention_ratio=0.0, max_skip_steps=2
    )
    model.enable_cache(config)
    memory, outputs = SegmentMemory(), {}
    with count_calls({"last": blocks(model)[-1].ffn}) as calls:
        for step in range(CACHED_STEPS):
            with model.cache_context("cond", step_index=step, num_inference_steps=CACHED_STEPS):
                outputs[f"cached/{step}"] = flow(model, inputs_of("odd grid", step, device), memory=memory).cpu()
    model.disable_cache()
    assert 0 < calls["last"] < CACHED_STEPS
    return outputs


def first_block_steps(model: WanS2VTransformer3DModel) -> dict[str, torch.Tensor]:
    """A segment whose steps First Block Cache decides on; in one step the first rank's tokens change and no others."""
    model.enable_cache(FirstBlockCacheConfig(threshold=0.05))
    agree_on_first_block(model)
    inputs, outputs = inputs_of("odd grid", 0), {}
    with count_calls({"last": blocks(model)[-1].ffn}) as calls:
        for step in range(CACHED_STEPS):
            latents = inputs["hidden_states"].clone()
            latents[:, :, 0] *= -1.0 if step == 3 else 1.0
            with model.cache_context("cond"):
                outputs[f"first block/{step}"] = flow(model, {**inputs, "hidden_states": latents})
    model.disable_cache()
    outputs["first block/computed"] = torch.tensor([float(calls["last"])])
    return outputs


@torch.no_grad()
def decoded(ranks: Ranks, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """The last frames of a clip that is 7 latents wide, which neither 2 nor 3 ranks share evenly."""
    vae: Any = make_fast(toys.wan_vae().eval()).to(device)
    vae.decoder.ranks = ranks
    latents = torch.randn(1, 16, 4, 5, 7, generator=torch.Generator().manual_seed(4)).to(device)
    with only_last_frames(vae, 7):
        return {"decoded": vae.decode(latents).sample.cpu()}


@torch.no_grad()
def segment(model: WanS2VTransformer3DModel, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """A segment that is denoised with guidance."""
    inputs = inputs_of("odd grid", 0, device)
    latents = denoise_segment(
        model,
        SOLVERS["unipc"].shifted(3.0),
        inputs["hidden_states"],
        prompt_embeds=[inputs["encoder_hidden_states"], -inputs["encoder_hidden_states"]],
        audio_embeds=inputs["audio_embeds"],
        motion_latents=inputs["motion_latents"],
        ref_latents=inputs["ref_latents"],
        num_inference_steps=4,
    )
    assert latents is not None
    return {"segment": latents.cpu()}


def begin(rank: int, ranks: int, device: str, folder: Path, timeout: float = 60.0) -> tuple[Ranks, str]:
    """Meet the others; gives this rank and where it computes."""
    printed = os.open(folder / f"{ranks}-{rank}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(printed, stream)
    torch.set_num_threads(1)
    here, own = Ranks(rank, ranks), f"cuda:{rank}" if device == "cuda" else device
    backend = ThroughMainMemory.register() if device == ONE_GPU else None
    join(here, FileStore(str(folder / f"meeting-{ranks}"), ranks), own, timeout, backend)
    return here, own


def in_bfloat16(model: WanS2VTransformer3DModel) -> dict[str, torch.Tensor]:
    """A pass of each kind of segment, rounded as on a GPU."""
    inputs = {case: inputs_of(case, 0) for case in CASES}
    return {
        f"{HALF}/{case}": flow(model, each, hidden_states=each["hidden_states"].bfloat16()).float()
        for case, each in inputs.items()
    }


def run_rank(rank: int, ranks: int, device: str, folder: Path) -> None:
    """What each process does: the same calls, its share of the tokens or passes."""
    here, own = begin(rank, ranks, device, folder)
    made = [network.to(own) for network in networks()]
    model, expert, flux = made
    for layout in LAYOUTS[ranks]:
        share(made, here, layout)
        results = segment(model, own)
        if layout.guidance == 1:
            results |= steps_of(model, own) | other_networks(expert, flux, own) | cached_steps(model, own)
            results |= decoded(here, own)
            results |= first_block_steps(model) if device == "cpu" else {}
        unshare(made)
        if layout.guidance == 1 and device == "cpu":
            for network in made:
                network.set_attention_backend(WITHOUT_SUMS)
            share(made, here, layout)
            exchanged = steps_of(model) | other_networks(expert, flux)
            results |= {f"{WITHOUT_SUMS}/{name}": flow for name, flow in exchanged.items()}
            unshare(made)
            half = WanS2VTransformer3DModel.from_pretrained(folder / HALF, torch_dtype=torch.bfloat16)
            share([half], here, layout)
            results |= in_bfloat16(half)
            unshare([half])
            for network in made:
                network.reset_attention_backend()
        if rank == ranks - 1:
            save_file({name: tensor.contiguous() for name, tensor in results.items()}, folder / f"{layout}.safetensors")
    leave()


def in_processes(folder: Path, device: str, ranks: int) -> Iterator[tuple[Layout, dict[str, torch.Tensor]]]:
    """What the last rank of each layout predicted."""
    # from a server that has imported torch; a fork cannot use CUDA where an import has looked at it before
    context: Any = SERVER if device == "cpu" else multiprocessing.get_context("spawn")
    processes = [context.Process(target=run_rank, args=(rank, ranks, device, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    # a rank that fails leaves the others waiting for it
    while (running := [process for process in processes if process.is_alive()]) and not any(
        process.exitcode for process in processes
    ):
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=240)
    for process in processes:
        process.kill()
        process.join()
    said = "".join(path.read_text()[-3000:] for path in folder.glob("*.log"))
    assert [process.exitcode for process in processes] == [0] * ranks, said
    for layout in LAYOUTS[ranks]:
        yield layout, load_file(folder / f"{layout}.safetensors")


def alone(device: str = "cpu") -> dict[str, torch.Tensor]:
    """What one process predicts."""
    model, expert, flux = (network.to(device) for network in networks())
    outputs = steps_of(model, device) | other_networks(expert, flux, device)
    if device == "cpu":
        outputs |= {f"{WITHOUT_SUMS}/{name}": flow for name, flow in outputs.items()} | first_block_steps(model)
        assert STEPS <= int(outputs["first block/computed"]) < CACHED_STEPS
    return outputs | cached_steps(model, device) | segment(model, device) | decoded(BY_ITSELF, device)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_together_equal_one_process(ranks: int, tmp_path: Path) -> None:
    wanted = alone()
    networks()[0].save_pretrained(tmp_path / HALF)
    by_one = in_bfloat16(WanS2VTransformer3DModel.from_pretrained(tmp_path / HALF, torch_dtype=torch.bfloat16))
    for layout, found in in_processes(tmp_path, "cpu", ranks):
        rounded = {name: found.pop(name) for name in list(found) if name.startswith(HALF)}
        # they round in other places, and no more of it than one process
        assert bool(rounded) == (layout.guidance == 1)
        for name in rounded:
            true = wanted[f"{name.removeprefix(HALF + '/')}/0"]
            assert relative_error(rounded[name], true) < 1.5 * relative_error(by_one[name], true), name
        assert found.keys() == (wanted.keys() if layout.guidance == 1 else {"segment"})
        errors = {name: relative_error(found[name], wanted[name]) for name in found}
        assert max(errors.values()) < 1e-5, (layout, errors)


def test_a_process_that_computes_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    processes = [SERVER.Process(target=wait_for_another, args=(rank, tmp_path), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    processes[0].join(120)
    processes[1].kill()
    assert processes[0].exitcode == 0, (tmp_path / "2-0.log").read_text()[-3000:]


def wait_for_another(rank: int, folder: Path) -> None:
    """Rank 1 shares a sequence and computes nothing."""
    here, _ = begin(rank, 2, "cpu", folder, timeout=5.0)
    model = toy_model()
    share([model], here, Layout(1, 2))
    if rank:
        signal.pause()
    with pytest.raises(RuntimeError) as raised:
        flow(model, inputs_of("motion kept", 0))
    assert lost_others(raised.value)
    os._exit(0)


@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any), seed=st.integers(0, 99))
def test_attention_to_parts_of_the_keys_is_put_together(lengths: list[int], seed: int) -> None:
    attend = log_sum_operator("native", "cpu")
    assert attend is not None
    generator = torch.Generator().manual_seed(seed)
    # far enough apart that the sums of the parts differ by orders of magnitude
    query, key, value = (
        5 * torch.randn(2, length, 3, 8, generator=generator) for length in (6, sum(lengths), sum(lengths))
    )
    empty = torch.zeros_like(query), torch.full((2, 3, 6), -math.inf)  # of a process without tokens
    parts = zip(key.split(lengths, dim=1), value.split(lengths, dim=1), strict=True)
    outputs, log_sums = zip(*(attend(query, *part, None) if part[0].shape[1] else empty for part in parts), strict=True)
    torch.testing.assert_close(merged(outputs, log_sums), attend(query, key, value, None)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "device", [pytest.param(ONE_GPU, marks=pytest.mark.gpu), pytest.param("cuda", marks=pytest.mark.multi_gpu)]
)
def test_gpus_together_equal_one_process(device: str, tmp_path: Path) -> None:
    wanted = alone(ONE_GPU)
    for layout, found in in_processes(tmp_path, device, 2):
        assert found.keys() == (wanted.keys() if layout.guidance == 1 else {"segment"})
        errors = {name: relative_error(found[name], wanted[name]) for name in found}
        assert max(errors.values()) < 1e-3, (layout, sorted(errors.items(), key=lambda error: -error[1]))


@pytest.mark.slow
def test_compiled_ranks_together_equal_one_process(tmp_path: Path) -> None:
    wanted = steps_of(networks()[0])
    processes = [SERVER.Process(target=run_compiled, args=(rank, tmp_path), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "2-0.log").read_text()[-3000:]
    found = load_file(tmp_path / "compiled.safetensors")
    errors = {name: relative_error(found[name], wanted[name]) for name in wanted}
    assert max(errors.values()) < 1e-5, errors


def run_compiled(rank: int, folder: Path) -> None:
    """As `run_rank`, with blocks that are compiled as a run compiles them; a compiler may reorder what it sees."""
    begin(rank, 2, "cpu", folder)
    compile_without_inductor()
    model: Any = networks()[0]
    compile_blocks(model, lambda error: sys.exit(str(error)))
    share([model], Ranks(rank, 2), Layout(1, 2))
    results = steps_of(model)
    assert is_compiled(model)
    if rank == 1:
        save_file(results, folder / "compiled.safetensors")
    leave()

"""One sequence over several processes gives what one process gives.

Real processes: on CPUs they talk through gloo on the loopback address, on GPUs through NCCL.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ContextParallelConfig, FirstBlockCacheConfig, MagCacheConfig
from safetensors.torch import load_file, save_file

from tests.s2v.toy import at_step, blocks, count_calls, flow, relative_error, toy_inputs, toy_model
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel

STEPS = 2
CACHED_STEPS = 5
CASES: dict[str, dict[str, Any]] = {
    "motion kept": {"motion": True},
    "motion dropped": {"motion": False},
    "odd grid": {"height": 10, "width": 14},
}


def inputs_of(case: str, step: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    # height 10 and width 14 give frames of 35 tokens: neither 2 nor 3 ranks get whole frames
    inputs = at_step(toy_inputs(**CASES[case]), step)
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


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


def run_rank(rank: int, ranks: int, device: str, folder: Path) -> None:
    """What each process does: the same steps, its share of the tokens, one memory per segment."""
    meeting: dict[str, Any] = {"init_method": f"file://{folder}/meeting-{ranks}", "rank": rank, "world_size": ranks}
    if device == "cpu":
        torch.distributed.init_process_group("gloo", **meeting)
        without_accelerator(ranks)
    else:
        torch.cuda.set_device(rank)
        torch.distributed.init_process_group("nccl", **meeting)
    model = toy_model().to(device)
    model.set_attention_backend("native")
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ranks, ulysses_anything=True))
    results = {}
    for case in CASES:
        memory = SegmentMemory()
        for step in range(STEPS):
            results[f"{case}/{step}"] = flow(model, inputs_of(case, step, device), memory=memory).cpu()
    # enabled after parallelism, so that the cache's hooks lie outside those that cut the sequence
    results |= cached_steps(model, device)
    model.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="MagCache"), model.cache_context("cond"):
        flow(model, inputs_of("motion kept", 0, device))
    if rank == ranks - 1:
        save_file(results, folder / f"{ranks}.safetensors")
    torch.distributed.destroy_process_group()


def without_accelerator(ranks: int) -> None:
    """Let diffusers' context parallel run where there is no accelerator.

    It asks torch which accelerator there is and how many; without one it divides by zero and looks for a driver. Here
    each rank's accelerator is the CPU; what is sent between ranks is the same.
    """
    accelerator: Any = torch.accelerator
    accelerator.device_count = lambda: ranks
    accelerator.current_accelerator = lambda: torch.device("cpu")
    torch._C._get_accelerator = accelerator.current_accelerator
    distributed: Any = torch.distributed
    distributed.all_gather = gather_uneven


def gather_uneven(gathered: list[torch.Tensor], mine: torch.Tensor, group: Any = None, **_: Any) -> None:
    """What NCCL does and gloo refuses: gather tensors whose sizes differ from rank to rank."""
    longest = max(tensor.numel() for tensor in gathered)
    padded = [mine.new_empty(longest) for _ in gathered]
    sent = torch.nn.functional.pad(mine.reshape(-1), (0, longest - mine.numel()))
    world: Any = torch.distributed.group.WORLD
    world.allgather([padded], [sent]).wait()
    for tensor, full in zip(gathered, padded, strict=True):
        tensor.copy_(full[: tensor.numel()].view(tensor.shape))


def run_all(folder: Path, device: str, worlds: list[int]) -> int:
    """Run each number of ranks after the other, on a CPU as forks of this process, so that torch is imported once.

    Returns how many ranks failed.
    """
    # a fork cannot use CUDA where an import has looked at it before
    context: Any = multiprocessing.get_context("fork" if device == "cpu" else "spawn")
    failed = 0
    for ranks in worlds:
        processes = [context.Process(target=run_rank, args=(rank, ranks, device, folder)) for rank in range(ranks)]
        for process in processes:
            process.start()
        # a rank that fails leaves the others waiting for it
        while running := [process for process in processes if process.is_alive()]:
            if any(process.exitcode for process in processes):
                for process in running:
                    process.kill()
                    process.join()
                break
            multiprocessing.connection.wait([process.sentinel for process in running])
        failed += sum(process.exitcode != 0 for process in processes)
    return failed


def in_processes(folder: Path, device: str, worlds: list[int]) -> dict[int, dict[str, torch.Tensor]]:
    """What the last rank of each number of ranks predicted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.s2v.test_context_parallel", str(folder), device, *map(str, worlds)],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    assert process.returncode == 0, said[-4000:]
    return {ranks: load_file(folder / f"{ranks}.safetensors") for ranks in worlds}


def alone() -> dict[str, torch.Tensor]:
    """What one process predicts."""
    model = toy_model()
    outputs = {f"{case}/{step}": flow(model, inputs_of(case, step)) for case in CASES for step in range(STEPS)}
    return outputs | cached_steps(model)


@pytest.mark.slow
def test_ranks_together_equal_one_process(tmp_path: Path) -> None:
    wanted = alone()
    for ranks, found in in_processes(tmp_path, "cpu", [2, 3]).items():
        assert found.keys() == wanted.keys()
        errors = {name: relative_error(found[name], wanted[name]) for name in wanted}
        assert max(errors.values()) < 1e-5, (ranks, errors)


@pytest.mark.multi_gpu
def test_gpus_together_equal_one_process(tmp_path: Path) -> None:
    wanted = alone()
    for ranks, found in in_processes(tmp_path, "cuda", [2]).items():
        errors = {name: relative_error(found[name], wanted[name]) for name in wanted}
        assert max(errors.values()) < 1e-3, (ranks, errors)


if __name__ == "__main__":
    sys.exit(run_all(Path(sys.argv[1]), sys.argv[2], [int(ranks) for ranks in sys.argv[3:]]))

"""One sequence over several processes gives what one process gives: real processes, gloo on the loopback address."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.s2v.toy import at_step, flow, relative_error, toy_inputs, toy_model
from wanavatar_lab.s2v import SegmentMemory

STEPS = 2
CASES: dict[str, dict[str, Any]] = {
    "motion kept": {"motion": True},
    "motion dropped": {"motion": False},
    "odd grid": {"height": 10, "width": 14},
}


def inputs_of(case: str, step: int) -> dict[str, Any]:
    # height 10 and width 14 give frames of 35 tokens: neither 2 nor 3 ranks get whole frames
    return at_step(toy_inputs(**CASES[case]), step)


def run_rank(folder: Path) -> None:
    """What each process does: the same steps, its share of the tokens, one memory per segment."""
    from diffusers import ContextParallelConfig

    torch.distributed.init_process_group("gloo")
    ranks = torch.distributed.get_world_size()
    # diffusers asks torch which accelerator there is and how many; without one it divides by zero and looks for a
    # driver. Here each rank's accelerator is the CPU; what is sent between ranks is the same.
    accelerator: Any = torch.accelerator
    accelerator.device_count = lambda: ranks
    accelerator.current_accelerator = lambda: torch.device("cpu")
    torch._C._get_accelerator = accelerator.current_accelerator
    distributed: Any = torch.distributed
    distributed.all_gather = gather_uneven
    model = toy_model()
    model.set_attention_backend("native")
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ranks, ulysses_anything=True))
    results = {}
    for case in CASES:
        memory = SegmentMemory()
        for step in range(STEPS):
            results[f"{case}/{step}"] = flow(model, inputs_of(case, step), memory=memory)
    if torch.distributed.get_rank() == ranks - 1:
        save_file(results, folder / "results.safetensors")
    torch.distributed.destroy_process_group()


def gather_uneven(gathered: list[torch.Tensor], mine: torch.Tensor, group: Any = None, **_: Any) -> None:
    """What NCCL does and gloo refuses: gather tensors whose sizes differ from rank to rank."""
    longest = max(tensor.numel() for tensor in gathered)
    padded = [mine.new_empty(longest) for _ in gathered]
    sent = torch.nn.functional.pad(mine.reshape(-1), (0, longest - mine.numel()))
    world: Any = torch.distributed.group.WORLD
    world.allgather([padded], [sent]).wait()
    for tensor, full in zip(gathered, padded, strict=True):
        tensor.copy_(full[: tensor.numel()].view(tensor.shape))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_equal_one_process(ranks: int, tmp_path: Path) -> None:
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.s2v.test_context_parallel", str(tmp_path)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * ranks, json.dumps(said, indent=1)[-4000:]
    results = load_file(tmp_path / "results.safetensors")
    model = toy_model()
    for case in CASES:
        for step in range(STEPS):
            assert relative_error(results[f"{case}/{step}"], flow(model, inputs_of(case, step))) < 1e-5, case


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))

"""Frozen weights that are spread, here over one process: blocks are computed as before, compiled or not.

What several processes learn with them is in `test_processes`.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed.tensor import DTensor

from tests.s2v.toy import relative_error, toy_inputs
from tests.training.toy import toy_with_adapter
from training.model import host_memory
from training.model.activations import Activations
from training.model.host_memory import HostMemory
from training.model.shard_frozen import average_gradients, shard_frozen


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients(activations: Activations, spread: bool) -> Tensor:
    network, trained = toy_with_adapter()
    activations.install(network)
    if spread:
        share, whole = shard_frozen(network, trained, torch.device("cpu"), 1)
        assert share == whole > 0
        assert all(isinstance(weight, DTensor) != weight.requires_grad for weight in network.parameters())
    for _ in range(2):
        network.zero_grad()
        network(**toy_inputs(), return_dict=False)[0].square().mean().backward()
    average_gradients(trained)
    return torch.cat([matrix.grad.flatten() for matrix in trained if matrix.grad is not None])


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_are_the_same_and_weights_do_not_wait_in_the_hosts_memory(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly, left = torch.compile, list[torch.Size]()
    # the graphs are what matters; to make machine code of them takes a minute
    monkeypatch.setattr(torch, "compile", lambda function, **told: plainly(function, backend="aot_eager", **told))
    leave = HostMemory._buffer

    def noted(memory: HostMemory, tensor: Tensor) -> Tensor:
        left.append(tensor.shape)
        return leave(memory, tensor)

    monkeypatch.setattr(HostMemory, "_buffer", noted)
    monkeypatch.setattr(host_memory, "LEAST_BYTES", 5_000)
    activations = Activations(1, None, compiled)
    wanted = gradients(activations, spread=False)
    expected = sorted(left)
    left.clear()
    assert relative_error(gradients(activations, spread=True), wanted) < 1e-6
    # weights that are large enough have two dimensions
    assert left and sorted(left) == expected and all(len(shape) > 2 for shape in left)

"""The frozen weights spread over the processes (FSDP2), and what is trained whole on each of them.

torch's `fully_shard` brings the weights of a block together where it is computed, on the way forward and on the way
back, and lets them go after it. What is trained takes no part in that: it is an ordinary tensor, the same on every
process, of which gradients are averaged once a step. So clipping, the average of weights and checkpoints are those of
one process.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from accelerate.utils import parse_flag_from_env  # type: ignore[import-untyped]
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from wanavatar_lab.s2v import WanS2VTransformer3DModel


def is_to_be_spread() -> bool:
    """Whether the launcher was told FSDP."""
    # what accelerate makes of that is of no use here: it shards what is trained too, and on CPUs it is DDP
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def spread_frozen(
    network: WanS2VTransformer3DModel, trained: Sequence[nn.Parameter], device: torch.device, processes: int
) -> tuple[int, int]:
    """Leave each process its share of every weight that is not trained, in place.

    Args:
        network: whole, on `device`, and made trainable.
        trained: all that is trained of it.
        device: of this process.
        processes: in all.

    Returns:
        Bytes of this process's share, and of all.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for module in (*network.blocks, network):
        fully_shard(module, mesh=mesh, ignored_params=set(trained))
    spread = [parameter for parameter in network.parameters() if isinstance(parameter, DTensor)]
    return sum(parameter.to_local().nbytes for parameter in spread), sum(parameter.nbytes for parameter in spread)


def average_gradients(trained: Sequence[nn.Parameter]) -> None:
    """Make the gradients on every process their mean over all; all of them have to call it."""
    for parameter in trained:
        assert parameter.grad is not None  # a part that is trained is used in every step
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()

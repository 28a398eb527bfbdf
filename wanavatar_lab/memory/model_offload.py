"""Model offload: one network of a pipeline at a time is on the GPU, the others are in pinned host memory.

Like `enable_model_cpu_offload` of diffusers it uses hooks of accelerate, so that a pipeline finds its device, and
`encode` and `decode` of an autoencoder count as calls. diffusers' own copies every weight back to pageable memory when
a network is done; weights do not change in inference, so here nothing is copied back (see `memory.pinned`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module  # type: ignore[import-untyped]
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import nn

from wanavatar_lab.memory.pinned import pinned


def enable_model_offload(modules: Sequence[nn.Module], device: torch.device) -> None:
    """Move modules to pinned host memory, and each to the device when it is called."""
    move_to_host(modules)
    for module in modules:
        add_hook_to_module(module, ModelOffloadHook(modules, device))


class ModelOffloadHook(ModelHook):
    """Moves a module to the device when it is called, and the others of its pipeline to host memory before that.

    Args:
        modules: all that share the device, this one among them.
        device: where each computes; the pipeline looks for it by the name `execution_device`.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._modules = modules
        self.execution_device = device

    @torch.compiler.disable
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Before the call of `module`, which is the one that the hook is on."""
        if is_on_device(module, self.execution_device):
            return args, kwargs
        move_to_host([other for other in self._modules if other is not module])
        pinned(module).onload(self.execution_device)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


def move_to_host(modules: Iterable[nn.Module]) -> None:
    """Move modules to pinned host memory, and return the memory that they had on a GPU to it."""
    for module in modules:
        pinned(module).offload()
    release_gpu_memory()


def release_gpu_memory() -> None:
    """Return the memory that torch has reserved to the GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def move_to_device(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device where it stays: from pinned memory if it is there, else directly."""
    if pinned(module).host_bytes:
        pinned(module).onload(device)
    else:
        # pinning takes longer than one copy, and the module may never have to leave
        module.to(device)


def is_on_device(module: nn.Module, device: torch.device) -> bool:
    """Whether all weights of a module are on a device; adapters may have been added elsewhere."""
    return all(tensor.device == device for tensor in (*module.parameters(), *module.buffers()))

"""The networks of a pipeline on their devices: taking turns on one GPU, or one of them on another GPU.

They are hooks of accelerate, as `enable_model_cpu_offload` of diffusers has them, so that a pipeline finds its device,
and `encode` and `decode` of an autoencoder count as calls. Not diffusers' own, which copy every weight back to ordinary
memory when a network has done its part.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module  # type: ignore[import-untyped]
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING, ModuleGroup
from torch import nn

from wanavatar_lab.memory.pinned import pinned


class TakesTurns(ModelHook):
    """Brings a module to the device when it is called, and first sends away the others of its pipeline.

    Args:
        modules: all that share the device, this one among them.
        device: where each computes; the pipeline asks for it by the name `execution_device`.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._modules = modules
        self.execution_device = device

    @torch.compiler.disable
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Before the call; `module` is the one that the hook is on."""
        if module_on(module, self.execution_device):
            return args, kwargs
        send_away([other for other in self._modules if other is not module])
        pinned(module).onload(self.execution_device)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


class StaysAside(ModelHook):
    """Lets a module compute on a device of its own: what it is given goes there, what it gives comes back.

    Args:
        aside: where the module lies.
        device: where the pipeline computes.
    """

    def __init__(self, aside: torch.device, device: torch.device) -> None:
        self._aside = aside
        self.execution_device = device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Before the call."""
        return send_to_device(args, self._aside), send_to_device(kwargs, self._aside)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """After the call."""
        return send_to_device(output, self.execution_device)


class Stays(ModelHook):
    """Tells the pipeline which of two devices it computes on; it would take any on which it finds a module."""

    def __init__(self, device: torch.device) -> None:
        self.execution_device = device


def take_turns(modules: Sequence[nn.Module], device: torch.device) -> None:
    """Let modules wait in pinned main memory, each until it is called."""
    send_away(modules)
    for module in modules:
        add_hook_to_module(module, TakesTurns(modules, device))


def stay_on_two(modules: Iterable[nn.Module], aside: nn.Module, device: torch.device, second: torch.device) -> None:
    """Put one module on a second device and the others on the first."""
    for module in modules:
        pinned_or_plain(module, second if module is aside else device)
        add_hook_to_module(module, StaysAside(second, device) if module is aside else Stays(device))


def send_away(modules: Iterable[nn.Module]) -> None:
    """Let modules lie in pinned main memory, and give the memory that they had on a GPU back to it."""
    for module in modules:
        pinned(module).offload()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def send_groups_away(modules: Iterable[nn.Module]) -> None:
    """Let all groups of modules that diffusers loads layer by layer lie in main memory."""
    for module in modules:
        for group in _groups(module):
            group.offload_()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def leave_with_the_block(network: nn.Module) -> None:
    """Let layers that were fetched ahead and then not called leave the GPU when their block ends, or the network.

    diffusers fetches in the order of the first call, and sends a layer away when it was called. Later calls leave
    layers out: those of S2V whose keys and values are kept, of which 52 of the published network stayed on the GPU, 2.7
    GB in all; and those of LoRAs that have no weight.

    Args:
        network: whose layers diffusers loads one by one.
    """
    blocks = {*(getattr(network, "_no_split_modules", None) or ())}
    for module in network.modules():
        if module is network or type(module).__name__ in blocks:
            module.register_forward_hook(_send_what_is_left)


def _send_what_is_left(module: nn.Module, *_: Any) -> None:
    for group in _groups(module):
        if is_fetched(group):
            group.offload_()


def is_fetched(group: ModuleGroup) -> bool:
    """Whether the weights of a group lie where they compute."""
    weights = [*group.parameters, *(weight for module in group.modules for weight in module.parameters())]
    return bool(weights) and weights[0].device != group.offload_device


def _groups(module: nn.Module) -> Iterator[ModuleGroup]:
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        hook = registry.get_hook(_GROUP_OFFLOADING) if registry else None
        if hook is not None:
            yield hook.group


def pinned_or_plain(module: nn.Module, device: torch.device) -> None:
    """Put a module on a device to stay: from pinned memory if it lies there, else straight from where it is."""
    if pinned(module).host_bytes:
        pinned(module).onload(device)
    else:
        # pinning takes longer than one copy, and the module may never have to go back
        module.to(device)


def module_on(module: nn.Module, device: torch.device) -> bool:
    """Whether all weights of a module are on a device; adapters may have come to it elsewhere."""
    return all(tensor.device == device for tensor in (*module.parameters(), *module.buffers()))

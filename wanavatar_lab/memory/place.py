"""Putting a pipeline where a choice wants it, and undoing what an earlier run chose."""

import gc
import re
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks._common import _GO_LC_SUPPORTED_PYTORCH_LAYERS
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from torch import nn
from transformers import PretrainedConfig

from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.memory.activations import Workload, activation_bytes, set_tiling
from wanavatar_lab.memory.choose_offload import Choice, choose_here
from wanavatar_lab.memory.components import DENOISERS, Component, dimensions
from wanavatar_lab.memory.pinned import pinned
from wanavatar_lab.memory.take_turns import (
    leave_with_the_block,
    pinned_or_plain,
    send_away,
    send_groups_away,
    stay_on_two,
    take_turns,
)

STORED = torch.float8_e4m3fn
# a pipeline that was placed so is loaded anew before it is placed otherwise: diffusers has no way back
LASTING = ("group", "fp8")
HALF_WAY = "half-way"  # a placing that failed; nobody knows what lies where


class Resident:
    """A pipeline that knows where it lies. The models of a stage derive from it and say how to load it anew.

    Attributes:
        pipeline: all components.
        device: where they compute: cpu, cuda or cuda:<n>.
        placed: how the pipeline lies now, as `place` says it; None if it was not placed since it was loaded.
        without: modes that `place` does not take for auto.
    """

    pipeline: Any
    device: str
    placed: str | None = None
    without: tuple[str, ...] = ()
    _components: tuple[Component, ...] | None = None

    def read(self) -> None:
        """Load `pipeline` anew into main memory."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its pipeline is loaded.")

    def place(self, offload: str, work: Workload) -> Choice:
        """Put the pipeline where a run wants it.

        Args:
            offload: as in the request, or auto.
            work: what the run is about.

        Raises:
            RequestError: the mode does not fit.
            LabError: no mode fits.
        """
        components = self.components()
        whole, tiled = (activation_bytes(work, components, tiled) for tiled in (False, True))
        choice = choose_here(components, whole, self.device, None, offload, tiled, self.without)
        mode = (self.placed or "").partition(" ")[0]
        if self.placed == HALF_WAY or (mode in LASTING and mode != choice.mode):
            self.placed = HALF_WAY
            self._let_go()
            self.read()
            self.placed = None
        before, self.placed = self.placed, HALF_WAY
        self.placed = place(self.pipeline, self.device, choice, before)
        return choice

    def rest(self) -> None:
        """Leave the GPU to another stage; the next `place` brings the pipeline back without reading a file."""
        if torch.device(self.device).type == "cpu" or self.placed == HALF_WAY:
            return
        if self.placed == "group":
            send_groups_away(networks(self.pipeline).values())
        else:
            send_away(networks(self.pipeline).values())

    def host_bytes(self) -> int:
        """Main memory that the pipeline takes while it waits, in bytes."""
        return sum(component.gpu_bytes for component in self.components())

    def _let_go(self) -> None:
        """Give up the pipeline, which else would lie in memory beside the one that is loaded."""
        self.pipeline = None
        gc.collect()  # a pipeline and its hooks refer to each other
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def components(self) -> tuple[Component, ...]:
        """What the pipeline consists of, as it was loaded."""
        if self._components is None:
            self._components = components_in(self.pipeline)
        return self._components


def networks(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The components that have weights, by name."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def place(pipeline: DiffusionPipeline, device: str, choice: Choice, placed: str | None = None) -> str:
    """Put `pipeline` where `choice` wants it.

    Args:
        pipeline: its components may be in main memory or on the device.
        device: cpu, cuda or cuda:<n>.
        choice: from `choose`; one that leaves group, or 8-bit storage, needs a pipeline that was loaded anew.
        placed: what the last call for this pipeline returned; None at first.

    Returns:
        What was done, for the next call.
    """
    # with its number, where "cuda" stands for the current one
    target, parts = torch.empty(0, device=device).device, networks(pipeline)
    if "vae" in parts:
        # off too: an earlier run may have needed tiles
        set_tiling(parts["vae"], choice.tiled)
    if target.type == "cpu":
        pipeline.to(target)
        return choice.key
    if choice.key == placed == "group":
        return placed
    pipeline.remove_all_hooks()
    if choice.mode == "fp8" and not (placed or "").startswith("fp8"):
        for name in DENOISERS:
            if name in parts:
                _store_in_8_bits(parts[name])
    if choice.mode == "group":
        # weights that are pinned already are not pinned once more, in powers of two
        send_away(parts.values())
        pipeline.enable_group_offload(onload_device=target, offload_type="leaf_level", use_stream=True)
        for part in parts.values():
            leave_with_the_block(part)
    elif choice.mode == "second_gpu":
        stay_on_two(parts.values(), parts["text_encoder"], target, _second(target))
    elif choice.turns:
        take_turns(list(parts.values()), target)
    else:
        for part in parts.values():
            pinned_or_plain(part, target)
    return choice.key


def components_in(pipeline: DiffusionPipeline) -> tuple[Component, ...]:
    """What a pipeline consists of that is loaded, in bytes."""
    return tuple(_component(name, part) for name, part in networks(pipeline).items())


def _component(name: str, module: Any) -> Component:
    tensors = list(dict.fromkeys((*module.parameters(), *module.buffers())))
    config = module.config
    return Component(
        name=name,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        gpu_bytes=sum(tensor.nbytes for tensor in tensors),
        file_bytes=None,
        fp8_bytes=_bytes_in_8_bits(module) if name in DENOISERS else None,
        largest_layer=max(sum(own.nbytes for own in part.parameters(recurse=False)) for part in module.modules()),
        **dimensions(config.to_dict() if isinstance(config, PretrainedConfig) else config),
    )


def _store_in_8_bits(network: Any) -> None:
    adapters = adapters_of(network)
    adapters.unload(adapters.loaded())  # else they are rounded too; the run that names them brings them back
    pinned(network).forget()  # else the numbers lie in main memory in both formats
    compute = max(network.parameters(), key=torch.Tensor.numel).dtype
    network.enable_layerwise_casting(storage_dtype=STORED, compute_dtype=compute)


def _bytes_in_8_bits(network: Any) -> int:
    """Bytes of a network's weights once `enable_layerwise_casting` has stored those that it reaches."""
    never = (
        *DEFAULT_SKIP_MODULES_PATTERN,
        *(network._keep_in_fp32_modules or ()),
        *(network._skip_layerwise_casting_patterns or ()),
    )
    saved = 0

    def visit(module: nn.Module, name: str) -> None:
        nonlocal saved
        if any(re.search(pattern, name) for pattern in never):
            return
        if isinstance(module, _GO_LC_SUPPORTED_PYTORCH_LAYERS):
            saved += sum(parameter.nbytes - parameter.numel() for parameter in module.parameters())
            return
        for child, submodule in module.named_children():
            visit(submodule, f"{name}.{child}" if name else child)

    visit(network, "")
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())) - saved


def _second(target: torch.device) -> torch.device:
    """The GPU that `this_machine` names after the one that computes."""
    return torch.device(target.type, 1 if target.index == 0 else 0)

"""Put a loaded pipeline on its devices as chosen, and undo what an earlier run chose."""

import gc
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module  # type: ignore[import-untyped]
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from diffusers import AutoencoderKLWan, DiffusionPipeline
from diffusers.hooks._common import _GO_LC_SUPPORTED_PYTORCH_LAYERS
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING, ModuleGroup
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from torch import nn
from transformers import PretrainedConfig

from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.memory.activations import set_tiling
from wanavatar_lab.memory.choose_offload import Choice, choose_for_device
from wanavatar_lab.memory.components import DENOISERS, Component, dimensions
from wanavatar_lab.memory.model_offload import (
    enable_model_offload,
    is_on_device,
    move_to_device,
    move_to_host,
    release_gpu_memory,
)
from wanavatar_lab.memory.pinned import pinned
from wanavatar_lab.memory.workload import Workload
from wanavatar_lab.runs.ranks import BY_ITSELF, Ranks
from wanavatar_lab.wan import float8
from wanavatar_lab.wan.vae import fit_device

FP8 = torch.float8_e4m3fn


class OffloadableModels:
    """A loaded pipeline and how it is offloaded. The `Models` of a stage derive from it and implement `read`.

    Attributes:
        pipeline: all components.
        device: where they compute: cpu, cuda or cuda:<n>.
        choice: how the pipeline is placed now; None if it was not since it was loaded, or if that failed.
        excluded_modes: modes that auto does not choose.
    """

    pipeline: Any
    device: str
    choice: Choice | None = None
    excluded_modes: tuple[str, ...] = ()
    _must_reload: bool = False
    _components: tuple[Component, ...] | None = None

    def read(self) -> None:
        """Load `pipeline` into host memory."""
        raise NotImplementedError(f"{type(self).__name__} has to implement read(), which loads its pipeline.")

    def read_anew(self) -> None:
        """Load `pipeline` once more; if that fails there is none, and the next `apply_offload` loads it."""
        self._release()  # first, else both would be in memory
        self.read()
        self._must_reload = False

    def apply_offload(
        self, offload: str, workload: Workload, ranks: Ranks = BY_ITSELF, quantization: str = "none"
    ) -> Choice:
        """Place the pipeline for a run. It may be another object then, with other networks.

        Args:
            offload: as in the request, or auto.
            workload: of the run.
            ranks: the processes that share it, which all call this.
            quantization: as in the request.

        Raises:
            RequestError: the mode does not fit.
            LabError: no mode fits.
        """
        choice = choose_for_device(
            self.components(),
            workload,
            self.device,
            None,
            offload,
            self.excluded_modes,
            ranks.world,
            ranks,
            quantization,
        )
        before = self.choice
        # diffusers cannot undo group offload, nor storage in 8 bits
        if self._must_reload or (before and before.mode in ("group", "fp8") and before.mode != choice.mode):
            self.read_anew()
            before = None
        # a pipeline whose placement failed half-way cannot be used any more
        self._must_reload, self.choice = True, None
        apply_offload(self.pipeline, self.device, choice, before)
        self._must_reload, self.choice = False, choice
        return choice

    def offload_to_host(self) -> None:
        """Free the GPU for another stage; the next `apply_offload` brings the pipeline back without reading a file."""
        if torch.device(self.device).type == "cpu":
            return
        if self._must_reload:  # weights may be anywhere
            self._release()
        elif self.choice is not None and self.choice.mode == "group":
            for network in networks(self.pipeline).values():
                for group in _offload_groups(network):
                    group.offload_()
            release_gpu_memory()
        else:
            move_to_host(networks(self.pipeline).values())

    def _release(self) -> None:
        """Have no pipeline until it is loaded anew."""
        self._must_reload = True
        # it and its hooks refer to each other
        self.pipeline = self.choice = None
        gc.collect()
        release_gpu_memory()

    def host_bytes(self) -> int:
        """Host memory that the pipeline takes while it is offloaded, in bytes."""
        if self.pipeline is None:
            return 0
        size = sum(component.gpu_bytes for component in self.components())
        if self.choice is not None and self.choice.quantization == "fp8":
            # what is in 8 bits takes as much as it saves on a GPU
            denoisers = [component for component in self.components() if component.name in DENOISERS]
            size += sum(component.gpu_bytes - component.float8_bytes for component in denoisers)
        return size

    def components(self) -> tuple[Component, ...]:
        """The pipeline's components as they were loaded first, before any was stored in 8 bits."""
        if self._components is None:
            self._components = components_in(self.pipeline)
        return self._components


def networks(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The components that have weights, by name."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def apply_offload(pipeline: DiffusionPipeline, device: str, choice: Choice, before: Choice | None = None) -> None:
    """Put a pipeline on its devices.

    Args:
        pipeline: its components may be in host memory or on the device.
        device: cpu, cuda or cuda:<n>.
        choice: from `choose`. Leaving mode group or fp8 takes a pipeline that was loaded anew.
        before: the choice of the last call for this pipeline; None for the first.
    """
    # an empty tensor has the device's number, where "cuda" stands for the current one
    target, parts = torch.empty(0, device=device).device, networks(pipeline)
    if target.type == "cuda":
        # the current device is where events and streams are made, and where other packages' kernels are launched
        torch.cuda.set_device(target)
    mode_before = None if before is None else before.mode
    if "vae" in parts:
        # tiling is also switched off, since an earlier run may have needed it
        set_tiling(parts["vae"], choice.tiled)
    if choice.mode == mode_before == "group":
        return
    if target.type != "cpu":
        pipeline.remove_all_hooks()
    for name in DENOISERS:
        if name in parts:
            set_products(parts[name], target, choice)
    if target.type == "cpu":
        pipeline.to(target)
        return
    if isinstance(parts.get("vae"), AutoencoderKLWan):
        fit_device(parts["vae"], target)
    if choice.mode == "fp8" and mode_before != "fp8":
        for name in DENOISERS:
            if name in parts:
                store_in_8_bits(parts[name])
    if choice.mode == "group":
        # weights that are pinned already are not pinned again by torch, which would round their sizes up to powers of 2
        move_to_host(parts.values())
        # Without record_stream the host waits for the GPU after each layer. With it a step of S2V takes 5 % less at 80
        # frames and 17 % less at 16, but the host fetches layers far ahead: the peak is 13.6 instead of 9.5 GB at 80
        # frames, and a run limited to 12 GB, for which this mode is chosen, ran out of memory (docs/performance.md).
        pipeline.enable_group_offload(onload_device=target, offload_type="leaf_level", use_stream=True)
        for part in parts.values():
            offload_unused_layers(part)
    elif choice.mode == "second_gpu":
        # the GPU that `this_machine` lists after the one that computes
        second = torch.device(target.type, 1 if target.index == 0 else 0)
        place_on_two_gpus(parts.values(), parts["text_encoder"], target, second)
    elif choice.offloaded:
        enable_model_offload(list(parts.values()), target)
    else:
        for part in parts.values():
            move_to_device(part, target)


def set_products(network: nn.Module, device: torch.device, choice: Choice) -> None:
    """Let a denoising network's large products be in float8 or exact, as chosen.

    Exact weights are in host memory while products are in float8, so that they come back without reading a file.
    """
    if (choice.quantization == "fp8") == bool(float8.quantized(network)):
        return
    if choice.quantization == "none":
        float8.restore(network)
        return
    if not is_on_device(network, torch.device("cpu")):
        move_to_host([network])
    float8.quantize(network, device)
    if choice.offloaded:
        move_to_host([network])  # before the next network needs the room


def components_in(pipeline: DiffusionPipeline) -> tuple[Component, ...]:
    """The components of a loaded pipeline, in bytes."""
    found = []
    for name, network in networks(pipeline).items():
        module: Any = network
        config = module.config.to_dict() if isinstance(module.config, PretrainedConfig) else module.config
        found.append(
            Component(
                name=name,
                parameters=sum(parameter.numel() for parameter in module.parameters()),
                gpu_bytes=_bytes_of(module),
                file_bytes=None,
                fp8_bytes=_bytes_in_8_bits(module) if name in DENOISERS else None,
                largest_layer=max(
                    sum(own.nbytes for own in part.parameters(recurse=False)) for part in module.modules()
                ),
                **dimensions(config),
            )
        )
    return tuple(found)


def store_in_8_bits(network: Any) -> None:
    """Store the weights of linear layers and convolutions as float8, upcast layer by layer while they compute."""
    adapters = adapters_of(network)
    adapters.unload(adapters.loaded())  # adapters would be rounded as well; the run that names them loads them again
    pinned(network).forget()  # host memory would hold the weights in both formats
    network.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=compute_dtype(network))


def compute_dtype(network: nn.Module) -> torch.dtype:
    """The dtype of most weights: the largest single matrix may be one that the class keeps in float32."""
    numbers: Counter[torch.dtype] = Counter()
    for parameter in network.parameters():
        numbers[parameter.dtype] += parameter.numel()
    return numbers.most_common(1)[0][0]


def _bytes_in_8_bits(network: Any) -> int:
    """Bytes of a network's weights after `store_in_8_bits`, by the rules of diffusers' `apply_layerwise_casting`."""
    never = (
        *DEFAULT_SKIP_MODULES_PATTERN,
        *(network._keep_in_fp32_modules or ()),
        *(network._skip_layerwise_casting_patterns or ()),
    )

    def saved(module: nn.Module, name: str) -> int:
        if any(re.search(pattern, name) for pattern in never):
            return 0
        if isinstance(module, _GO_LC_SUPPORTED_PYTORCH_LAYERS):
            return sum(parameter.nbytes - parameter.numel() for parameter in module.parameters())
        return sum(saved(child, f"{name}.{leaf}" if name else leaf) for leaf, child in module.named_children())

    return _bytes_of(network) - saved(network, "")


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def offload_unused_layers(network: nn.Module) -> None:
    """Let layers that group offload has prefetched and that are not called leave the GPU at the end of their block.

    diffusers prefetches in the order of the first call, and offloads a layer after its call. Later calls skip layers:
    those of S2V whose keys and values are cached, of which 52 of the published network stayed on the GPU, 2.7 GB in
    all; and those of LoRAs without a weight.

    Args:
        network: with group offload enabled.
    """

    def offload_fetched(module: nn.Module, *_: Any) -> None:
        for group in _offload_groups(module):
            if is_fetched(group):
                group.offload_()

    blocks = {*(getattr(network, "_no_split_modules", None) or ())}
    for module in network.modules():
        if module is network or type(module).__name__ in blocks:
            module.register_forward_hook(offload_fetched)


def is_fetched(group: ModuleGroup) -> bool:
    """Whether the weights of a group of layers are on the device that computes."""
    weights = [*group.parameters, *(weight for module in group.modules for weight in module.parameters())]
    return bool(weights) and weights[0].device != group.offload_device


def _offload_groups(module: nn.Module) -> Iterator[ModuleGroup]:
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        hook = registry.get_hook(_GROUP_OFFLOADING) if registry else None
        if hook is not None:
            yield hook.group


def place_on_two_gpus(
    modules: Iterable[nn.Module], on_second: nn.Module, first: torch.device, second: torch.device
) -> None:
    """Keep one module on a second device and the others on the first, which the pipeline computes on."""
    for module in modules:
        move_to_device(module, second if module is on_second else first)
        add_hook_to_module(module, DeviceHook(first, second if module is on_second else None))


class DeviceHook(ModelHook):
    """Tells a pipeline the device that it computes on, and moves inputs and outputs of a module that is elsewhere.

    Without it the pipeline would take the device of any of its modules.

    Args:
        execution_device: of the pipeline, which looks for it by this name.
        own: of the module, where it is another one.
    """

    def __init__(self, execution_device: torch.device, own: torch.device | None) -> None:
        self.execution_device = execution_device
        self._own = own

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Before the call."""
        if self._own is None:
            return args, kwargs
        return send_to_device(args, self._own), send_to_device(kwargs, self._own)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """After the call."""
        return output if self._own is None else send_to_device(output, self.execution_device)

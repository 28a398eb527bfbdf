"""Where a pipeline's models lie while a run uses them."""

import torch
from diffusers import DiffusionPipeline

# shares of the free GPU memory: beyond the weights, activations and a step's scratch need room
ROOM_FOR_WEIGHTS = 0.7


def place(pipeline: DiffusionPipeline, device: str, offload: str, placed: str | None = None) -> str:
    """Put `pipeline` where `offload` wants it, undoing what an earlier run chose.

    Args:
        pipeline: its components may be in main memory or on the device.
        device: cpu, cuda or cuda:<n>; on the CPU nothing is ever offloaded.
        offload: none (all on the device), model (one model at a time), group (layer by layer), or auto (none if the
            weights leave room, else model).
        placed: what the last call for this pipeline returned; None at first. A pipeline whose layers are offloaded
            one by one (group) stays so: load it anew to place it otherwise.

    Returns:
        What was done: none, model or group.
    """
    target = torch.device(device)
    if target.type == "cpu":
        pipeline.to("cpu")
        return "none"
    if offload == "auto":
        free, _ = torch.cuda.mem_get_info(target)
        on_device = _weight_bytes(pipeline, target.type)
        fits = _weight_bytes(pipeline) < ROOM_FOR_WEIGHTS * (free + on_device)
        offload = "none" if fits else "model"
    if offload == placed:
        return offload
    pipeline.remove_all_hooks()
    if offload == "none":
        pipeline.to(target)
    elif offload == "model":
        pipeline.to("cpu")
        pipeline.enable_model_cpu_offload(device=target)
    else:
        pipeline.to("cpu")
        pipeline.enable_group_offload(onload_device=target, offload_type="leaf_level", use_stream=True)
    return offload


def _weight_bytes(pipeline: DiffusionPipeline, device_type: str | None = None) -> int:
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return sum(
        parameter.numel() * parameter.element_size()
        for module in modules
        for parameter in module.parameters()
        if device_type is None or parameter.device.type == device_type
    )

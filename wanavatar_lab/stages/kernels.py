"""How a stage's denoising networks compute: the backend of attention, products in float8, and compiled blocks.

A compiled block computes the same to the rounding of fused operations. All blocks of a kind share a graph, for each
size; the weights of LoRAs, prompts, both passes of guidance and segments share it too. torch keeps what it compiled on
disk, in the folder `TORCHINDUCTOR_CACHE_DIR`, here that of the settings' `cache_dir`.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from wanavatar_lab.memory.apply_offload import OffloadableModels, compute_dtype
from wanavatar_lab.memory.components import DENOISERS
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan import attention
from wanavatar_lab.wan.float8 import Float8Linear, quantized

BACKEND = "inductor"
# sizes of clips that one process can have compiled, times what else a graph depends on; torch's own 8 would be used up
_MOST_GRAPHS = 256

_CHANGING = ("group", "fp8")  # modes of offload by which weights change between layers

_ON_FAILURE: WeakKeyDictionary[nn.Module, Callable[[Exception], None]] = WeakKeyDictionary()


def prepare(
    request: TextToImage | ImageToVideo | SpeechToVideo, models: OffloadableModels, context: StageContext
) -> None:
    """Choose for a run, after its networks were placed and before LoRAs are applied; log and record what.

    Raises:
        RequestError: the attention that is asked for is not installed.
    """
    settings, pipeline = read_settings(), models.pipeline
    networks = [pipeline.components[name] for name in DENOISERS if name in pipeline.components]
    config, dtype = networks[0].config, compute_dtype(networks[0])
    if dtype.itemsize == 1:  # stored in 8 bits and computed in more
        dtype = torch.bfloat16
    # where kernels are measured the first process does it, since each would find other times
    size = config.num_attention_heads, config.attention_head_dim, dtype
    kept = settings.cache_dir / "attention.json"
    chooses = context.ranks.leads or request.attention != "auto"
    choice = attention.choose(request.attention, models.device, *size, kept) if chooses else None
    chosen, why = context.ranks.agreed(choice)
    in_float8 = [layer for network in networks for layer in quantized(network).values()]
    compiled, why_not = _compiles(settings.compile, models, request, emulated=not all(each.fast for each in in_float8))
    for network in networks:
        attention.use_backend(network, chosen)
        if not compiled:
            forget_compiled(network)
        else:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.cache_dir / "inductor"))
            compile_blocks(network, partial(_say_failed, context))
    context.record(attention=chosen, compiled=compiled)
    if not isinstance(request, TextToImage):
        _say_quantization(request, models, in_float8, context)
    if models.device != "cpu" or settings.compile == "on":
        context.log(f"Attention by {chosen}: {why}.")
        context.log(
            "Blocks are compiled, which takes a minute or two at the first step of a size that is new to this machine."
            if compiled
            else f"Blocks are not compiled: {why_not}."
        )


def _say_quantization(
    request: ImageToVideo | SpeechToVideo, models: OffloadableModels, layers: list[Float8Linear], context: StageContext
) -> None:
    """Record and log which products are in float8, or why none is."""
    if request.quantization == "none":
        return
    context.record(quantization=request.quantization if layers else "none")
    if not layers:
        mode = models.choice.mode if models.choice else "none"
        changing = f"with offload {mode} weights change between layers"
        why = changing if mode in _CHANGING else "on this GPU it would make such narrow layers no faster"
        context.log(f"Quantization fp8 is not used, and all products are exact: {why}.")
        return
    emulated = sum(not layer.fast for layer in layers)
    note = f" In {emulated} of them it is emulated, since this device does not multiply it: that is not faster."
    context.log(f"Quantization fp8: {len(layers)} linear layers multiply in float8.{note if emulated else ''}")


def _compiles(
    setting: str, models: OffloadableModels, request: TextToImage | ImageToVideo | SpeechToVideo, *, emulated: bool
) -> tuple[bool, str]:
    """Whether blocks are compiled, and if not, why."""
    mode = models.choice.mode if models.choice else "none"
    if setting == "off":
        return False, "WANAVATAR_COMPILE is off"
    if mode in _CHANGING:
        return False, f"with offload {mode} weights change between layers"
    if getattr(request, "step_cache", "off") != "off":
        return False, "the step cache decides between blocks"
    if emulated and models.device != "cpu":
        return False, "float8 is emulated, for which there may be no compiler"
    if setting == "auto" and isinstance(request, TextToImage):
        # a picture takes less than a second, of which compiled blocks save a part, and a new size a minute to compile
        return False, "a picture is made sooner without. WANAVATAR_COMPILE=on compiles, for many pictures of one size"
    if setting == "auto" and models.device == "cpu":
        return False, "on a CPU it takes longer than it saves"
    return True, ""


def compile_blocks(network: Any, on_failure: Callable[[Exception], None]) -> None:
    """Compile the repeated blocks of a network of diffusers, when they are called.

    Where that fails, all blocks compute as they are from then on, and `on_failure` is called once, that of the last
    call. What is compiled stays.
    """
    _ON_FAILURE[network] = on_failure
    if is_compiled(network):
        return
    # in torch 2.11 the limit of a function; beyond it a full graph is an error
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 4 * _MOST_GRAPHS
    )
    # sizes are constants of a graph: kernels for any size are slower
    network.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=BACKEND)

    def guarded(block: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:  # compiling has failed, so that nothing ran
                if is_compiled(network):
                    forget_compiled(network)
                    _ON_FAILURE[network](error)
                return block(*args, **kwargs)

        return call

    for block in _compiled(network):
        block._compiled_call_impl = guarded(block, block._compiled_call_impl)


def forget_compiled(network: nn.Module) -> None:
    """Let all blocks compute as they are."""
    for block in _compiled(network):
        block._compiled_call_impl = None


def is_compiled(network: nn.Module) -> bool:
    """Whether blocks of a network are compiled when they are called."""
    return bool(_compiled(network))


def _compiled(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if getattr(module, "_compiled_call_impl", None) is not None]


def _say_failed(context: StageContext, error: Exception) -> None:
    # behind them is a hint for developers of backends
    reason = " ".join(str(error).strip().splitlines()[:2])
    context.record(compiled=False)
    context.log(
        f"Compiling failed, and the blocks compute uncompiled, which is slower and right: {type(error).__name__}: "
        f"{reason} WANAVATAR_COMPILE=off does not try."
    )

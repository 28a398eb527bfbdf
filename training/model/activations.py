"""Gradient checkpointing of the blocks: what a forward pass keeps for the backward pass, and where.

A block's activations are several gigabytes at full size, so only its input is kept and the block is recomputed in the
backward pass. Half of that work is self-attention over all tokens; keeping its output, one tensor as large as the
input, saves it (selective activation checkpointing). Kept tensors can be offloaded to CPU RAM
(`training.model.host_memory`), both ways while the GPU computes.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from training.model.block_swap import BlockSwap
from training.model.host_memory import HostMemory
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.block import WanS2VTransformerBlock
from wanavatar_lab.s2v.token_layout import TokenLayout
from wanavatar_lab.settings import read_settings
from wanavatar_lab.wan import attention

_ATTENTION = {
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
}
# before torch 2.15, tensors kept in blocks that are not compiled are not offloaded
_FOLLOWS_HOOKS = "respect_saved_tensors_hooks" in inspect.signature(checkpoint).parameters
_SHAPES = 32  # of samples; blocks are compiled once for each, and torch allows 8 by default


@dataclass(frozen=True)
class Activations:
    """How blocks are computed where gradients are needed.

    Attributes:
        keep_attention: number of blocks, from the first, that keep the outputs of self-attention; None for all.
        offload: number of blocks, from the first, whose kept tensors are offloaded to CPU RAM; None for all.
        compile: compile the blocks, forward and backward, by torch.compile; the first step takes a minute longer.
    """

    keep_attention: int | None = 0
    offload: int | None = 0
    compile: bool = False

    def install(self, network: WanS2VTransformer3DModel, swap: BlockSwap | None = None) -> None:
        """Make the network compute its blocks like this, where gradients are needed.

        Args:
            swap: has the weights of some blocks, which are fetched wherever these compute.
        """
        keeping, leaving = set(network.blocks[: self.keep_attention]), set(network.blocks[: self.offload])
        if self.compile:
            # a block is compiled in one piece with its checkpoint inside, so that the compiler knows what is kept
            torch._dynamo.config.recompile_limit = max(_SHAPES, torch._dynamo.config.recompile_limit)
            compiled = functools.partial(torch.compile, fullgraph=True, dynamic=False)
            kept, plain = compiled(_keeping_attention), compiled(_keeping_nothing)
        else:
            kept, plain = _keeping_attention, _keeping_nothing
        host = HostMemory()

        def forward(block: WanS2VTransformerBlock, *arguments: Any, **options: Any) -> Tensor:
            if swap is not None:
                swap.onload(block)
            if not (torch.is_grad_enabled() and network.gradient_checkpointing):
                return type(block).forward(block, *arguments, **options)
            tokens, text, temb, (cosine, sine), layout, audio, audio_global = arguments
            if self.compile and not tokens.requires_grad:
                # the first block's input needs no gradient, for which it would be compiled separately
                tokens = tokens.detach().requires_grad_()
            compute = kept if block in keeping else plain
            resident = [*block.parameters(), *block.buffers()]
            with host.hooks(resident) if block in leaving else nullcontext():
                result = compute(block, layout, tokens, text, temb, cosine, sine, audio, audio_global)
            if swap is not None and block in swap:
                # called when its gradient is there, before the block is recomputed
                result.register_hook(lambda _: swap.onload(block, backward=True))
            return result

        # `forward` and not the module is replaced: FSDP gathers weights in hooks around it, outside of the checkpoint
        each: Any
        for each in network.blocks:
            each.forward = functools.partial(forward, each)
        network.enable_gradient_checkpointing(lambda block, *arguments: block(*arguments))


def use_attention_backend(
    network: WanS2VTransformer3DModel, name: str, device: torch.device, dtype: torch.dtype
) -> tuple[str, str]:
    """Compute self-attention by a backend of ours, such as flash4, or of diffusers' dispatcher, such as _native_cudnn.

    Cross-attention to text and audio keeps its own: not every backend supports so few keys.

    Args:
        name: auto is the one whose forward and backward pass take least time on the device.
        device, dtype: where the network trains, and in what its blocks compute.

    Returns:
        The backend, and why it is that one.

    Raises:
        ImportError: its package is not installed.
        ValueError: the dispatcher has no backend of that name.
    """
    why = "as asked"
    if name == "auto":
        size = network.config.num_attention_heads, network.config.attention_head_dim
        kept = read_settings().cache_dir / "attention.json"
        name, why = attention.choose("auto", str(device), *size, dtype, kept, gradients=True)
    dispatched = attention.dispatched(name)
    block: Any
    for block in network.blocks:
        block.attn1.set_attention_backend(dispatched)
    return name, why


def _policy(_: Any, operator: Any, *arguments: Any, **__: Any) -> CheckpointPolicy:
    # self-attention has as many keys as queries. Attention to text and audio, over a few hundred keys, is a twentieth
    # of the work and not worth the memory
    if operator in _ATTENTION and arguments[0].shape[-2] == arguments[1].shape[-2]:
        return CheckpointPolicy.MUST_SAVE
    if operator.name() == attention.FLASH_4_OPERATOR:  # which computes no other attention
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


_CONTEXTS = functools.partial(create_selective_checkpoint_contexts, _policy)


def _keeping_attention(block: WanS2VTransformerBlock, layout: TokenLayout, *tensors: Tensor) -> Tensor:
    # blocks draw no random numbers, so there is no generator state to preserve
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": _CONTEXTS}
    if not torch.compiler.is_compiling() and _FOLLOWS_HOOKS:
        options["respect_saved_tensors_hooks"] = True
    return checkpoint(_bound(block, layout), *tensors, **options)


def _keeping_nothing(block: WanS2VTransformerBlock, layout: TokenLayout, *tensors: Tensor) -> Tensor:
    return checkpoint(_bound(block, layout), *tensors, use_reentrant=False, preserve_rng_state=False)


def _bound(block: WanS2VTransformerBlock, layout: TokenLayout) -> Callable[..., Tensor]:
    def compute(
        tokens: Tensor, text: Tensor, temb: Tensor, cosine: Tensor, sine: Tensor, audio: Tensor, audio_global: Tensor
    ) -> Tensor:
        return type(block).forward(block, tokens, text, temb, (cosine, sine), layout, audio, audio_global)

    return compute

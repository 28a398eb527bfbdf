"""What a forward pass keeps for the backward pass, and where.

A block's activations are several gigabytes at full size, so only its input is kept and the block is computed again on
the way back. Half of that work is self-attention over all tokens; to keep its output, one tensor as large as the
input, saves it ("selective checkpointing"). What is kept can wait in the host's memory
(`training.model.host_memory`): it goes there and comes back while the GPU computes.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from training.model.host_memory import HostMemory
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.block import WanS2VTransformerBlock
from wanavatar_lab.s2v.token_layout import TokenLayout

_ATTENTION = {
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
}
# before torch 2.15, what is kept in blocks that are not compiled stays on the GPU
_FOLLOWS_HOOKS = "respect_saved_tensors_hooks" in inspect.signature(checkpoint).parameters
_SHAPES = 32  # of samples, for each of which blocks are compiled once


@dataclass(frozen=True)
class Activations:
    """How blocks are computed where gradients are needed.

    Attributes:
        keep_attention: outputs of self-attention are kept in so many blocks, from the first; None for all of them.
        offload: what is kept of so many blocks, from the first, waits in the host's memory; None for all of them.
        compile: blocks are compiled, forward and backward, by torch.compile; the first step takes a minute longer.
    """

    keep_attention: int | None = 0
    offload: int | None = 0
    compile: bool = False

    def install(self, network: WanS2VTransformer3DModel) -> None:
        """Have the network's blocks computed so from now on."""
        keeping, leaving = set(network.blocks[: self.keep_attention]), set(network.blocks[: self.offload])
        if self.compile:
            # each block is compiled as one piece with its checkpoint inside, so that the compiler sees what is kept
            torch._dynamo.config.recompile_limit = max(_SHAPES, torch._dynamo.config.recompile_limit)
            compiled = functools.partial(torch.compile, fullgraph=True, dynamic=False)
            kept, plain = compiled(_keeping_attention), compiled(_keeping_nothing)
        else:
            kept, plain = _keeping_attention, _keeping_nothing
        host = HostMemory()

        def forward(block: WanS2VTransformerBlock, *arguments: Any, **options: Any) -> Tensor:
            if not (torch.is_grad_enabled() and network.gradient_checkpointing):
                return type(block).forward(block, *arguments, **options)
            tokens, text, temb, (cosine, sine), layout, audio, audio_global = arguments
            if self.compile and not tokens.requires_grad:
                # the first block's input needs no gradient; without this it would be compiled apart from the others
                tokens = tokens.detach().requires_grad_()
            compute = kept if block in keeping else plain
            resident = [*block.parameters(), *block.buffers()]
            with host.hooks(resident) if block in leaving else nullcontext():
                return compute(block, layout, tokens, text, temb, cosine, sine, audio, audio_global)

        # inside the call of a block: what brings spread weights together stays outside of what is computed twice
        each: Any
        for each in network.blocks:
            each.forward = functools.partial(forward, each)
        network.enable_gradient_checkpointing(lambda block, *arguments: block(*arguments))


def use_attention_backend(network: WanS2VTransformer3DModel, name: str) -> None:
    """Have self-attention computed by a backend of diffusers' dispatcher, `_native_cudnn` for example.

    Attention to text and audio, over a few keys, stays as it is: not every backend takes so few.

    Raises:
        ValueError: there is no backend of that name.
    """
    block: Any
    for block in network.blocks:
        block.attn1.set_attention_backend(name)


def _is_self_attention(operator: Any, arguments: tuple[Any, ...]) -> bool:
    # to text and audio it is a twentieth of the work, over a few hundred keys
    return operator in _ATTENTION and arguments[0].shape[-2] == arguments[1].shape[-2]


def _policy(_: Any, operator: Any, *arguments: Any, **__: Any) -> CheckpointPolicy:
    keep = _is_self_attention(operator, arguments)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    contexts: Callable[..., tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
    contexts = create_selective_checkpoint_contexts
    return contexts(_policy)


def _keeping_attention(block: WanS2VTransformerBlock, layout: TokenLayout, *tensors: Tensor) -> Tensor:
    # nothing in a block is drawn at random
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": _contexts}
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

"""Make a published network trainable: what is trained, in which dtype, and how its blocks are computed.

The network computes in one dtype without autocast, as in inference, so that training sees the same numbers as sampling.
Autocast would put the timestep and the audio through bfloat16, which the network keeps in float32. Trained weights are
float32 and are converted where they are used.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainingConfig
from training.model.activations import Activations, use_attention_backend
from training.model.adapter import add_adapter
from training.model.block_swap import BlockSwap
from training.model.float8 import store_in_float8
from training.model.full_finetune import layers_of, parameters_of, train_in_full
from wanavatar_lab.errors import LabError
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.inpaint import widen_patch_embedding

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Trainable:
    """What is trained of a network.

    Attributes:
        groups: AdamW's parameter groups, the LoRA first; "share" is a group's learning rate relative to the config's.
        origins: the base's values of weights that are trained in full, on the CPU, by name.
        attention: the backend of self-attention that was chosen, and why; empty for diffusers' default.
    """

    groups: list[dict[str, Any]]
    origins: dict[str, Tensor]
    attention: str = ""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return [parameter for group in self.groups for parameter in group["params"]]


def make_trainable(
    network: WanS2VTransformer3DModel, config: TrainingConfig, device: torch.device | None = None
) -> Trainable:
    """Prepare a network for training, in place.

    Args:
        network: without adapters.
        device: on which it computes; None for where it is. With blocks to swap it need not fit there: it may be in CPU
            RAM.

    Raises:
        LabError: more blocks are to be swapped than it has.
    """
    device = device or network.device
    float32 = set(network._keep_in_fp32_modules)
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and not float32 & set(name.split(".")):
            parameter.data = parameter.data.to(DTYPES[config.mixed_precision])
    rates = config.part_rates
    if "patch_embedding" in rates:
        widen_patch_embedding(network)
    lora = add_adapter(network, config.rank, config.alpha, config.seed, layers_of(network, rates), device=device)
    groups: list[dict[str, Any]] = [{"params": lora, "share": 1.0}]
    origins: dict[str, Tensor] = {}
    for part, rate in rates.items():
        origins |= train_in_full(network, part)
        weights = list(parameters_of(network, part).values())
        groups.append({"params": weights, "share": rate / config.learning_rate})
    swap = place(network, device, config.base_dtype == "fp8", config.swap_blocks)
    chosen: tuple[str, ...] = ()
    if config.attention_backend:
        chosen = use_attention_backend(network, config.attention_backend, device, DTYPES[config.mixed_precision])
    if config.gradient_checkpointing:
        Activations(config.keep_attention, config.offload, config.compile).install(network, swap)
    return Trainable(groups, origins, ", ".join(chosen))


def place(
    network: WanS2VTransformer3DModel, device: torch.device, float8: bool = False, swap_blocks: int = 0
) -> BlockSwap | None:
    """Move a network to its device block by block: to float8 on the way, and the frozen weights of some to CPU RAM.

    So the device never holds more of it than it does while it trains, and CPU RAM not more than while it loads.

    Args:
        network: with its LoRA.
        float8: store the frozen weights of the blocks as float8.
        swap_blocks: how many blocks, the last ones, are swapped.

    Raises:
        LabError: it does not have so many blocks.
    """
    blocks = list(network.blocks)
    if swap_blocks > len(blocks):
        raise LabError(f"swap_blocks is {swap_blocks}, and the network has {len(blocks)} blocks. Set it to fewer.")
    swap = BlockSwap(blocks[len(blocks) - swap_blocks :], device) if swap_blocks else None
    for block in blocks:
        block.to(device)
        if float8:
            store_in_float8([block])
        if swap is not None and block in swap:
            swap.store(block)
    network.to(device)
    return swap


def new_optimizer(groups: Iterable[Any], name: str, weight_decay: float, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW over parameter groups.

    Args:
        name: "adamw" is torch's; "adamw8bit" keeps the moments in 8 bits, in blocks of 256 numbers with a scale each.

    Raises:
        LabError: bitsandbytes, which has the second one, is not installed.
    """
    groups = list(groups)
    rates: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "adamw":
        on_gpu = any(parameter.is_cuda for group in groups for parameter in group["params"])
        return torch.optim.AdamW(groups, **rates, fused=on_gpu)
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
    except ImportError as error:
        raise LabError(
            f"adamw8bit needs bitsandbytes, which cannot be imported ({error}). Install it (pip install "
            "'bitsandbytes>=0.50'), or set optimizer to adamw, whose moments need four times the memory."
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, **rates)
    return optimizer

"""Make a published network trainable: what is trained, in which dtype, and how its blocks are computed.

The network computes in one dtype without autocast, as in inference, so that training sees the same numbers as sampling.
Autocast would put the timestep and the audio through bfloat16, which the network keeps in float32. Trained weights are
float32 and are converted where they are used.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainingConfig
from training.model.activations import Activations, use_attention_backend
from training.model.adapter import add_adapter
from training.model.float8 import store_in_float8
from training.model.full_finetune import layers_of, parameters_of, train_in_full
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.inpaint import widen_patch_embedding

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Trainable:
    """What is trained of a network.

    Attributes:
        groups: AdamW's parameter groups, the LoRA first; "share" is a group's learning rate relative to the config's.
        origins: the base's values of weights that are trained in full, on the CPU, by name.
    """

    groups: list[dict[str, Any]]
    origins: dict[str, Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return [parameter for group in self.groups for parameter in group["params"]]


def make_trainable(network: WanS2VTransformer3DModel, config: TrainingConfig) -> Trainable:
    """Prepare a network for training, in place and on its device.

    Args:
        network: without adapters.
    """
    float32 = set(network._keep_in_fp32_modules)
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and not float32 & set(name.split(".")):
            parameter.data = parameter.data.to(DTYPES[config.mixed_precision])
    rates = config.part_rates
    if "patch_embedding" in rates:
        widen_patch_embedding(network)
    lora = add_adapter(network, config.rank, config.alpha, config.seed, layers_of(network, rates))
    groups: list[dict[str, Any]] = [{"params": lora, "share": 1.0}]
    origins: dict[str, Tensor] = {}
    for part, rate in rates.items():
        origins |= train_in_full(network, part)
        weights = list(parameters_of(network, part).values())
        groups.append({"params": weights, "share": rate / config.learning_rate})
    if config.base_dtype == "fp8":
        store_in_float8(network)
    if config.attention_backend:
        use_attention_backend(network, config.attention_backend)
    if config.gradient_checkpointing:
        Activations(config.keep_attention, config.offload, config.compile).install(network)
    return Trainable(groups, origins)

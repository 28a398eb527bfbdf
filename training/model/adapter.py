"""The LoRA that is trained: added to the network, saved as a file that others read, and loaded again.

The file has the reference's module names after `diffusion_model.`, matrices `lora_A` and `lora_B`, and each module's
`alpha`, as ComfyUI, `load_lora_weights` of the S2V pipeline and `wanavatar_lab.lora` read it; its metadata has rank and
alpha too.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from wanavatar_lab.lora.key_names import reference_module
from wanavatar_lab.s2v import WanS2VTransformer3DModel

NAME = "trained"  # of the adapter
PREFIX = "diffusion_model."


def add_adapter(
    network: WanS2VTransformer3DModel,
    rank: int,
    alpha: float,
    seed: int,
    without: Collection[str] = (),
    lean: bool = True,
    device: torch.device | None = None,
) -> list[nn.Parameter]:
    """Add a LoRA to every linear layer of the blocks, those that inject audio included.

    Its second matrices are zero, so it changes nothing at first. The network's own weights are frozen; the LoRA is in
    float32, whatever their dtype.

    Args:
        network: without an adapter of this name.
        rank: of every matrix.
        alpha: the update is `alpha / rank` times the product of its two matrices.
        seed: of the first matrices.
        without: names of layers without a LoRA, since they are trained in full.
        lean: as `TrainedLinear`; False for PEFT's own layer, to compare with.
        device: where its matrices are drawn, which decides their values; None for where the network is.

    Returns:
        The trained matrices: the first and the second of each layer.
    """
    network.requires_grad_(False)
    modules = [
        name
        for name, layer in network.named_modules()
        if name.startswith("blocks.") and isinstance(layer, nn.Linear) and name not in without
    ]
    # one regular expression, since PEFT searches a list for its shortest equivalent, which takes seconds
    names = "|".join(map(re.escape, modules))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, init_lora_weights="gaussian")
    if lean:
        config._register_custom_module({nn.Linear: TrainedLinear})
    device = device or network.device
    # 700 million numbers take a CPU half a minute
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        network.add_adapter(config, adapter_name=NAME)
    trained = [matrix for _, *matrices in _layers(network) for matrix in matrices]
    for matrix in trained:
        matrix.data = matrix.data.to(device, torch.float32)
        matrix.requires_grad_(True)
    return trained


def adapter_tensors(network: WanS2VTransformer3DModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The LoRA as a file has it: tensors in float32 on the CPU, and metadata."""
    tensors: dict[str, Tensor] = {}
    rank, alpha = 0, 0.0
    for name, down, up in _layers(network):
        module = PREFIX + reference_module(network, name)
        layer = network.get_submodule(name)
        rank, alpha = layer.r[NAME], float(layer.lora_alpha[NAME])
        tensors[f"{module}.lora_A.weight"] = down.detach().float().cpu().contiguous()
        tensors[f"{module}.lora_B.weight"] = up.detach().float().cpu().contiguous()
        tensors[f"{module}.alpha"] = torch.tensor(alpha)
    metadata = {
        "format": "pt",
        "modelspec.architecture": "wan2.2-s2v-14b/lora",
        "modelspec.implementation": "wanavatar_lab",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_base_model_version": "wan2.2-s2v-14b",
    }
    return tensors, metadata


def load_adapter_tensors(network: WanS2VTransformer3DModel, tensors: Mapping[str, Tensor]) -> None:
    """Load what `adapter_tensors` returned.

    Raises:
        KeyError: a matrix is missing.
    """
    with torch.no_grad():
        for name, down, up in _layers(network):
            module = PREFIX + reference_module(network, name)
            down.copy_(tensors[f"{module}.lora_A.weight"])
            up.copy_(tensors[f"{module}.lora_B.weight"])


@contextmanager
@torch.no_grad()
def weighted(network: nn.Module, weight: float) -> Iterator[None]:
    """Apply the LoRA at this weight, as a request does, until the block ends.

    The matrices are scaled and not the layers' factor, which is a constant of a compiled network.
    """
    before = [(up, up.detach().clone()) for _, _, up in _layers(network)]
    try:
        for up, _ in before:
            up.mul_(weight)
        yield
    finally:
        for up, own in before:
            up.copy_(own)


class TrainedLinear(lora.Linear):
    """A linear layer with a LoRA, without the copies that PEFT's own makes.

    PEFT converts the layer's input, of 35,000 tokens, to the LoRA's float32, and adds the update in separate passes.
    Here the matrices, which are small, are converted to the input's dtype, and the second product adds in place. It
    falls back to PEFT for everything but one active, unmerged adapter called `NAME`.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        if self.disable_adapters or self.merged or self.active_adapters != [NAME]:
            return super().forward(x, *args, **kwargs)
        plain: Tensor = self.base_layer(x, *args, **kwargs)
        down = self.lora_A[NAME].weight.to(plain.dtype)
        up = self.lora_B[NAME].weight.to(plain.dtype)
        inner = F.linear(x.to(plain.dtype), down).flatten(0, -2)
        return torch.addmm(plain.flatten(0, -2), inner, up.t(), alpha=self.scaling[NAME]).view_as(plain)


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """Each layer that has the LoRA: its name, and the two matrices."""
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer) and NAME in layer.lora_A:
            yield name, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight

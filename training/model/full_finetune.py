"""Parts of the network that can be trained in full beside the LoRA, and the file that they are saved in.

    audio_encoder     the causal audio encoder: from hidden states of wav2vec2 to audio tokens
    audio_injectors   the cross-attention to them in twelve blocks, with the norm before it
    patch_embedding   widened for inpainting, see `wanavatar_lab.s2v.inpaint`

S2V has no CLIP image branch to train: the network gets the reference picture as latents.

`audio_modules.safetensors` has the difference of each weight from the base, by the reference's names after
`diffusion_model.`, ending in `diff` and `diff_b`, which this project and ComfyUI apply as they apply a LoRA.
"""

import json
import re
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.adapter import PREFIX
from wanavatar_lab.errors import LabError
from wanavatar_lab.lora.key_names import plain_parameters, reference_parameter
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.inpaint import WanS2VInpaintPatchEmbedding

PATTERNS = {
    "audio_encoder": re.compile(r"causal_audio_encoder\."),
    "audio_injectors": re.compile(r"blocks\.\d+\.audio_injection\."),
    "patch_embedding": re.compile(r"patch_embedding\."),
}


class _MasterLinear(nn.Linear):
    """Weights in float32 that are converted to the input's dtype where they are used; likewise below."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class _MasterRMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


_MASTERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _MasterLinear, nn.RMSNorm: _MasterRMSNorm}


def check_samples(parts: Collection[str], buckets: Collection[str]) -> None:
    """Check that samples have inpainting latents if and only if the patch embedding is trained.

    Args:
        parts: that are trained in full.
        buckets: of the samples, see `training.data.sample_list.Entry`.

    Raises:
        LabError: they have and it is not, or the other way round.
    """
    found, wanted = {"inpaint" in json.loads(bucket) for bucket in buckets}, "patch_embedding" in parts
    if wanted and False in found:
        raise LabError(
            "patch_embedding_rate is more than 0, but these samples have no inpainting latents to train it on. Encode "
            "them with --inpaint."
        )
    if not wanted and True in found:
        raise LabError(
            "These samples have inpainting latents, for which the network needs a trained patch embedding. Set "
            "patch_embedding_rate above 0, or encode them without --inpaint."
        )


def layers_of(network: nn.Module, parts: Collection[str]) -> set[str]:
    """Names of the modules of some parts."""
    return {name for name, _ in network.named_modules() if any(PATTERNS[part].match(f"{name}.") for part in parts)}


def parameters_of(network: nn.Module, part: str) -> dict[str, nn.Parameter]:
    """The weights of a part, by name."""
    return {name: weight for name, weight in network.named_parameters() if PATTERNS[part].match(name)}


def train_in_full(network: WanS2VTransformer3DModel, part: str) -> dict[str, Tensor]:
    """Make the weights of a part trainable, in float32 whatever the network computes in.

    Args:
        network: frozen, without adapters in this part.
        part: a key of `PATTERNS`.

    Returns:
        Copies of the base's weights, on the CPU, by name.
    """
    weights = parameters_of(network, part)
    origins = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
    for module in {network.get_submodule(name.rpartition(".")[0]) for name in weights}:
        own = [weight for weight in module.parameters(recurse=False) if weight.dtype != torch.float32]
        # the widened patch embedding converts by itself
        if own and not isinstance(module, WanS2VInpaintPatchEmbedding):
            # another class, so that the parameters stay the same objects: others refer to them
            module.__class__ = _MASTERS[type(module)]
    for weight in weights.values():
        weight.data = weight.data.float()
        weight.requires_grad_(True)
    return origins


def part_tensors(network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Differences of the trained weights from the base's, as the file has them: float32 on the CPU.

    Args:
        origins: the base's weights, see `train_in_full`.
    """
    parameters, found = plain_parameters(network), dict[str, Tensor]()
    for name, origin in origins.items():
        theirs = reference_parameter(network, name)
        module, _, leaf = theirs.rpartition(".")
        key = {"weight": f"{module}.diff", "bias": f"{module}.diff_b"}.get(leaf, f"{theirs}.diff")
        found[PREFIX + key] = parameters[name].detach().float().cpu() - origin.float()
    return found

"""Parts of the network that can be trained in full beside the LoRA, and the file that they come out as.

    audio_encoder     the causal audio encoder: from hidden states of wav2vec2 to audio tokens
    audio_injectors   the cross-attention to them in twelve blocks, with the norm before it
    patch_embedding   widened for inpainting, see `wanavatar_lab.s2v.inpaint`

S2V has no CLIP image branch, so there is none to train: the reference picture is seen as latents.

`audio_modules.safetensors` has the difference of each of their weights from what it was, by the reference's names
behind `diffusion_model.`, ending in `diff` and `diff_b`: it is applied as a LoRA is, by this project and by ComfyUI.
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

ROOMS = {
    "audio_encoder": re.compile(r"causal_audio_encoder\."),
    "audio_injectors": re.compile(r"blocks\.\d+\.audio_injection\."),
    "patch_embedding": re.compile(r"patch_embedding\."),
}
PARTS = tuple(ROOMS)


class _MasterLinear(nn.Linear):
    """Keeps float32, computes in its input's type; likewise below."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class _MasterRMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


_MASTERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _MasterLinear, nn.RMSNorm: _MasterRMSNorm}
# these take any input as they are
_WITHOUT = (WanS2VInpaintPatchEmbedding,)


def check_samples(parts: Collection[str], buckets: Collection[str]) -> None:
    """Check that samples say what is given, if and only if the patch embedding learns to see it.

    Args:
        parts: that are trained in full.
        buckets: of the samples, see `training.data.samples.Entry`.

    Raises:
        LabError: they do not.
    """
    given, wanted = {"inpaint" in json.loads(bucket) for bucket in buckets}, "patch_embedding" in parts
    if wanted and False in given:
        raise LabError(
            "patch_embedding_rate is more than 0, but samples do not say what is given, so there is nothing for it to "
            "learn. Encode them with --inpaint."
        )
    if not wanted and True in given:
        raise LabError(
            "These samples say what is given, for inpainting, which the network does not see. Give a "
            "patch_embedding_rate of more than 0, or encode them without --inpaint."
        )


def layers_of(network: nn.Module, parts: Collection[str]) -> set[str]:
    """Names of the modules of some parts."""
    return {name for name, _ in network.named_modules() if any(ROOMS[part].match(f"{name}.") for part in parts)}


def parameters_of(network: nn.Module, part: str) -> dict[str, nn.Parameter]:
    """The weights of a part, by name."""
    return {name: weight for name, weight in network.named_parameters() if ROOMS[part].match(name)}


def train_in_full(network: WanS2VTransformer3DModel, part: str) -> dict[str, Tensor]:
    """Let the weights of a part be trained, in float32 whatever the network computes in.

    Args:
        network: frozen, without adapters in this part.
        part: one of `PARTS`.

    Returns:
        The weights as they were, on the CPU, by name.
    """
    weights = parameters_of(network, part)
    origins = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
    for module in {network.get_submodule(name.rpartition(".")[0]) for name in weights}:
        own = [weight for weight in module.parameters(recurse=False) if weight.dtype != torch.float32]
        if own and not isinstance(module, _WITHOUT):
            # the weights and all that refers to them stay; what is another is how they are used
            module.__class__ = _MASTERS[type(module)]
    for weight in weights.values():
        weight.data = weight.data.float()
        weight.requires_grad_(True)
    return origins


def part_tensors(network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How weights differ from what they were, as they are written into a file: float32 on the CPU."""
    parameters, found = plain_parameters(network), dict[str, Tensor]()
    for name, origin in origins.items():
        theirs = reference_parameter(network, name)
        module, _, leaf = theirs.rpartition(".")
        key = {"weight": f"{module}.diff", "bias": f"{module}.diff_b"}.get(leaf, f"{theirs}.diff")
        found[PREFIX + key] = parameters[name].detach().float().cpu() - origin.float()
    return found

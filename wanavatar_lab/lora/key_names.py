"""Names of the weights of FLUX.2, Wan and Wan-S2V in diffusers' vocabulary (ours) and in the reference's.

LoRA files use either. `names_of` gives every name of every weight of a network, with underscores for dots, so that one
table serves all spellings that `parse_key` reads, and a name that is not in it is unknown.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import Flux2Transformer2DModel, WanTransformer3DModel
from torch import nn

from wanavatar_lab.errors import LabError
from wanavatar_lab.lora.keys import squash
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.key_names import S2V_OUTSIDE
from wanavatar_lab.wan.key_names import ATTENTION, BLOCK, OUTSIDE, to_reference

# as pairs (ours, the reference's), like the tables of `wan.key_names`
_AUDIO_ENCODER = (
    ("causal_audio_encoder.weights", "casual_audio_encoder.weights"),
    ("causal_audio_encoder", "casual_audio_encoder.encoder"),
)
_WAN = (*OUTSIDE, *S2V_OUTSIDE, *_AUDIO_ENCODER)
_FLUX2 = (
    ("x_embedder", "img_in"),
    ("context_embedder", "txt_in"),
    ("time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("time_guidance_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    ("time_guidance_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    ("double_stream_modulation_img.linear", "double_stream_modulation_img.lin"),
    ("double_stream_modulation_txt.linear", "double_stream_modulation_txt.lin"),
    ("single_stream_modulation.linear", "single_stream_modulation.lin"),
    ("proj_out", "final_layer.linear"),
)
_FLUX2_DOUBLE = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
_FLUX2_SINGLE = {
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
# the reference has one matrix for three of ours, stacked by rows
_FLUX2_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_BLOCK = re.compile(r"^(blocks|transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Target:
    """A weight of the network that a tensor of a file is for, and which of the tensor's rows.

    Attributes:
        parameter: its name in the network without adapters.
        part, parts: the rows are split into `parts`; the one with index `part` is for this weight.
        swapped: whether the network has the two halves of the rows in the other order.
    """

    parameter: str
    part: int = 0
    parts: int = 1
    swapped: bool = False

    @property
    def module(self) -> str:
        """The module that owns the weight."""
        return self.parameter.rpartition(".")[0]

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of a file's tensor that are for this weight, in the network's order."""
        if self.parts > 1:
            tensor = tensor.chunk(self.parts)[self.part]
        return torch.cat(tensor.chunk(2)[::-1]) if self.swapped else tensor


# (module or bare parameter with underscores for dots, "weight" or "bias" or "" for a bare parameter) → the weights
Names = dict[tuple[str, str], tuple[Target, ...]]


def plain_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The network's own weights, by their names without adapters."""
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in network.named_parameters()
        if ".lora_" not in name
    }


def names_of(network: nn.Module) -> Names:
    """Every name that a LoRA may use for a weight of this network.

    Raises:
        LabError: the network is of a kind that takes no LoRAs.
    """
    found: Names = {}
    for parameter in plain_parameters(network):
        for name, target in _names(network, parameter):
            module, _, leaf = name.rpartition(".")
            place = (squash(module), leaf) if leaf in ("weight", "bias") else (squash(name), "")
            # a fused matrix has several targets
            found[place] = (*found.get(place, ()), target)
    return found


def reference_module(network: nn.Module, module: str) -> str:
    """The reference's name of a module of ours; it may be the same.

    Raises:
        LabError: the network is of a kind that takes no LoRAs.
    """
    return reference_parameter(network, f"{module}.weight").removesuffix(".weight")


def reference_parameter(network: nn.Module, parameter: str) -> str:
    """The reference's name of a weight of ours, which is named without adapters; it may be the same.

    Raises:
        LabError: the network is of a kind that takes no LoRAs.
    """
    *_, (name, _) = _names(network, parameter)
    return name


def _names(network: nn.Module, parameter: str) -> Iterator[tuple[str, Target]]:
    yield parameter, Target(parameter)
    if isinstance(network, Flux2Transformer2DModel):
        yield from _flux2_names(parameter)
    elif isinstance(network, WanTransformer3DModel):
        yield from _wan_names(parameter, ())
    elif isinstance(network, WanS2VTransformer3DModel):
        yield from _wan_names(parameter, network.config.audio_inject_layers)
    else:
        raise LabError(f"{type(network).__name__} takes no LoRAs: there are no names for its modules.")


def _wan_names(parameter: str, audio_layers: Sequence[int]) -> Iterator[tuple[str, Target]]:
    match = _BLOCK.match(parameter)
    if match is None:
        theirs = to_reference(parameter, _WAN)
    elif match[3].startswith("audio_injection."):
        # the reference numbers the injections among themselves, whatever block they are in
        _, part, leaf = match[3].split(".", 2)
        group = "injector" if part == "attn" else "injector_adain_layers"
        theirs = f"audio_injector.{group}.{audio_layers.index(int(match[2]))}.{to_reference(leaf, ATTENTION)}"
    else:
        theirs = to_reference(match[3], BLOCK)
        if theirs.startswith(("self_attn.", "cross_attn.")):
            attention, leaf = theirs.split(".", 1)
            theirs = f"{attention}.{to_reference(leaf, ATTENTION)}"
        theirs = f"blocks.{match[2]}.{theirs}"
    if theirs != parameter:
        yield theirs, Target(parameter)


def _flux2_names(parameter: str) -> Iterator[tuple[str, Target]]:
    if match := _BLOCK.match(parameter):
        single = match[1].startswith("single")
        block = f"{'single' if single else 'double'}_blocks.{match[2]}"
        module, _, leaf = match[3].rpartition(".")
        theirs = (_FLUX2_SINGLE if single else _FLUX2_DOUBLE).get(module)
        if theirs:
            yield f"{block}.{theirs}.{leaf}", Target(parameter)
            if "_norm" in theirs:  # whose weight is a bare parameter in the reference
                yield f"{block}.{theirs}.scale", Target(parameter)
        for fused, modules in _FLUX2_FUSED.items():
            if not single and module in modules:
                yield f"{block}.{fused}.{leaf}", Target(parameter, modules.index(module), len(modules))
    elif parameter.startswith("norm_out.linear."):
        # the reference has shift before scale
        yield "final_layer.adaLN_modulation.1." + parameter.rpartition(".")[2], Target(parameter, swapped=True)
    elif (theirs := to_reference(parameter, _FLUX2)) != parameter:
        yield theirs, Target(parameter)

"""LoRA files as people have them, written from random updates of toy networks, and what they have to come to."""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel, WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from tests import toy_flux, toy_i2v
from tests.s2v.toy import flow, toy_inputs, toy_model
from wanavatar_lab.s2v import WanS2VTransformer3DModel

State = dict[str, torch.Tensor]

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "flux2": toy_flux.transformer,
    "wan": toy_i2v.expert,
    "s2v": lambda: toy_model(num_layers=2, audio_inject_layers=(1,)),
}

# what the reference calls the layers of a block of Wan
_WAN_LAYERS = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
_WAN_OTHERS = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "proj_out": "head.head",
}
_S2V_OTHERS = {
    "pose_embedding": "cond_encoder",
    "frame_packer.proj_2x": "frame_packer.proj_2x",
    "causal_audio_encoder.final_linear": "casual_audio_encoder.encoder.final_linear",
    "causal_audio_encoder.conv1_global.conv": "casual_audio_encoder.encoder.conv1_global.conv",
    "blocks.1.audio_injection.attn.to_q": "audio_injector.injector.0.q",
    "blocks.1.audio_injection.attn.to_out.0": "audio_injector.injector.0.o",
    "blocks.1.audio_injection.norm.linear": "audio_injector.injector_adain_layers.0.linear",
}
_DOUBLE, _SINGLE = "transformer_blocks.0.", "single_transformer_blocks.0."
_FLUX2_LAYERS: dict[str, tuple[str, ...]] = {
    "double_blocks.0.img_attn.qkv": tuple(f"{_DOUBLE}attn.{name}" for name in ("to_q", "to_k", "to_v")),
    "double_blocks.0.txt_attn.qkv": tuple(
        f"{_DOUBLE}attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj")
    ),
    "double_blocks.0.img_attn.proj": (f"{_DOUBLE}attn.to_out.0",),
    "double_blocks.0.txt_attn.proj": (f"{_DOUBLE}attn.to_add_out",),
    "double_blocks.0.img_mlp.0": (f"{_DOUBLE}ff.linear_in",),
    "double_blocks.0.img_mlp.2": (f"{_DOUBLE}ff.linear_out",),
    "double_blocks.0.txt_mlp.0": (f"{_DOUBLE}ff_context.linear_in",),
    "double_blocks.0.txt_mlp.2": (f"{_DOUBLE}ff_context.linear_out",),
    "single_blocks.0.linear1": (f"{_SINGLE}attn.to_qkv_mlp_proj",),
    "single_blocks.0.linear2": (f"{_SINGLE}attn.to_out",),
    "img_in": ("x_embedder",),
    "time_in.out_layer": ("time_guidance_embed.timestep_embedder.linear_2",),
    "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
    "final_layer.linear": ("proj_out",),
}


@dataclass
class Layer:
    """A random update: the file's name for its layer, ours (several where theirs is fused), and the matrices."""

    theirs: str
    ours: tuple[str, ...]
    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def reference_layers(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """The reference's names of layers, and ours."""
    if isinstance(network, Flux2Transformer2DModel):
        return _FLUX2_LAYERS
    layers = dict(_WAN_OTHERS)
    if isinstance(network, WanS2VTransformer3DModel):
        layers |= _S2V_OTHERS
    for block in range(2):
        layers |= {f"blocks.{block}.{ours}": f"blocks.{block}.{theirs}" for ours, theirs in _WAN_LAYERS.items()}
    return {theirs: (ours,) for ours, theirs in layers.items()}


def own_layers(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """The same layers under our names."""
    return {ours: (ours,) for group in reference_layers(network).values() for ours in group}


def random_layers(network: nn.Module, layers: Mapping[str, tuple[str, ...]], seed: int = 0) -> list[Layer]:
    """An update of each layer, its rank from 1 to 4 and its alpha from 1 to 6."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    made = []
    for theirs, ours in layers.items():
        shapes = [network.get_parameter(f"{name}.weight").shape for name in ours]
        outputs, inputs = sum(shape[0] for shape in shapes), shapes[0][1:]
        rank = whole(1, 4)
        down = 0.2 * torch.randn(rank, *inputs, generator=generator)
        up = 0.2 * torch.randn(outputs, rank, *[1] * (len(inputs) - 1), generator=generator)
        made.append(Layer(theirs, ours, down, up, float(whole(1, 6))))
    return made


def deltas(layers: list[Layer], scale: Callable[[Layer], float]) -> State:
    """What a file comes to: the difference of each weight of ours."""
    found: State = {}
    for layer in layers:
        whole = scale(layer) * (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(-1, *layer.down.shape[1:])
        found |= {f"{name}.weight": rows for name, rows in zip(layer.ours, whole.chunk(len(layer.ours)), strict=True)}
    return found


@torch.no_grad()
def merged(network: nn.Module, *differences: State, weights: tuple[float, ...] | None = None) -> nn.Module:
    """A copy of the network with differences added to its weights, weighted by 1 unless it is said."""
    made = copy.deepcopy(network)
    for state, weight in zip(differences, weights or (1.0,) * len(differences), strict=True):
        for name, delta in state.items():
            made.get_parameter(name).add_(weight * delta)
    return made


def output(network: nn.Module, device: str = "cpu") -> torch.Tensor:
    """What a network gives for fixed inputs."""
    inputs = toy_inputs() if isinstance(network, WanS2VTransformer3DModel) else _inputs(network)
    return flow(network, {name: _at(value, device) for name, value in inputs.items()})


def _at(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _inputs(network: nn.Module) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if isinstance(network, WanTransformer3DModel):
        return {
            "hidden_states": random(1, 36, 2, 8, 8),
            "timestep": torch.tensor([700]),
            "encoder_hidden_states": random(1, 5, 16),
        }
    return {
        "hidden_states": random(1, 9, 16),
        "encoder_hidden_states": random(1, 5, 24),
        "timestep": torch.tensor([0.7]),
        "img_ids": torch.cartesian_prod(*map(torch.arange, (1, 3, 3, 1)))[None].float(),
        "txt_ids": torch.cartesian_prod(*map(torch.arange, (1, 1, 1, 5)))[None].float(),
        "guidance": None,
    }


def by_rank(layer: Layer) -> float:
    return layer.alpha / layer.rank


def unscaled(_: Layer) -> float:
    return 1.0


def written(layers: list[Layer], name: Callable[[str], str], down: str, up: str, alpha: str | None = None) -> State:
    """The tensors of a file."""
    state = {}
    for layer in layers:
        state[f"{name(layer.theirs)}.{down}.weight"] = layer.down.clone()
        state[f"{name(layer.theirs)}.{up}.weight"] = layer.up.clone()
        if alpha:
            state[f"{name(layer.theirs)}.{alpha}"] = torch.tensor(layer.alpha)
    return state


def formats(network: nn.Module, seed: int) -> Iterator[tuple[str, State, dict[str, str], State]]:
    """Name, tensors and metadata of a file in each format, and the differences that it comes to."""
    ours = random_layers(network, own_layers(network), seed)
    theirs = random_layers(network, reference_layers(network), seed + 100)

    def dotted(prefix: str) -> Callable[[str], str]:
        return lambda name: prefix + name

    def underscored(prefix: str) -> Callable[[str], str]:
        return lambda name: prefix + name.replace(".", "_")

    yield "diffusers", written(ours, dotted("transformer."), "lora_A", "lora_B"), {}, deltas(ours, unscaled)
    config = {
        "transformer.lora_alpha": 3,
        "transformer.r": 4,
        "transformer.alpha_pattern": {re.escape(layer.theirs): layer.alpha for layer in ours[::2]},
        "transformer.use_rslora": False,
    }
    alphas = {layer.theirs: layer.alpha for layer in ours[::2]}
    yield (
        "diffusers with metadata",
        written(ours, dotted("transformer."), "lora_A", "lora_B"),
        {"lora_adapter_metadata": json.dumps(config)},
        deltas(ours, lambda layer: alphas.get(layer.theirs, 3.0) / layer.rank),
    )
    yield (
        "PEFT",
        written(ours, dotted("base_model.model."), "lora_A.default", "lora_B.default"),
        {"lora_adapter_metadata": json.dumps({"lora_alpha": 2, "r": 4, "use_rslora": True})},
        deltas(ours, lambda layer: 2 / layer.rank**0.5),
    )
    yield "ComfyUI", written(theirs, dotted("diffusion_model."), "lora_A", "lora_B"), {}, deltas(theirs, unscaled)
    yield (
        "ComfyUI with alpha",
        written(theirs, dotted("diffusion_model."), "lora_down", "lora_up", "alpha"),
        {},
        deltas(theirs, by_rank),
    )
    yield (
        "kohya",
        written(theirs, underscored("lora_unet_"), "lora_down", "lora_up", "alpha"),
        {"ss_network_alpha": "999"},
        deltas(theirs, by_rank),
    )
    yield (
        "kohya without alpha tensors",
        written(theirs, underscored("lora_unet_"), "lora_down", "lora_up"),
        {"ss_network_alpha": "2.0"},
        deltas(theirs, lambda layer: 2 / layer.rank),
    )
    yield (
        "VideoX-Fun",
        written(theirs, underscored("lora_transformer__"), "lora_down", "lora_up", "alpha"),
        {},
        deltas(theirs, by_rank),
    )
    yield "reference", written(theirs, dotted(""), "lora_A", "lora_B"), {}, deltas(theirs, unscaled)


def distilled(network: nn.Module, seed: int = 0, image_branch: bool = False) -> tuple[State, State]:
    """A LoRA with the keys of those that lightx2v publishes for 4 steps, and the differences that it comes to.

    They have no alpha, a difference for each bias, and whole differences for norms and modulations.

    Args:
        image_branch: with the keys of Wan2.1-I2V too, as the published one for low noise.
    """
    layers = [
        layer
        for layer in random_layers(network, reference_layers(network), seed)
        if layer.theirs.startswith("blocks.") or layer.theirs in _WAN_OTHERS.values()
    ]
    state = written(layers, lambda name: f"diffusion_model.{name}", "lora_down", "lora_up")
    differences = deltas(layers, unscaled)
    generator = torch.Generator().manual_seed(seed)

    def whole(key: str, parameter: str) -> None:
        shape = network.get_parameter(parameter).shape
        differences[parameter] = 0.05 * torch.randn(shape, generator=generator)
        # a modulation is [6, dim] in the file and [1, 6, dim] in the network
        state[f"diffusion_model.{key}"] = differences[parameter].squeeze(0)

    for layer in layers:
        whole(f"{layer.theirs}.diff_b", f"{layer.ours[0]}.bias")
    for block in range(2):
        for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            for norm in ("norm_q", "norm_k"):
                whole(f"blocks.{block}.{theirs}.{norm}.diff", f"blocks.{block}.{ours}.{norm}.weight")
        whole(f"blocks.{block}.norm3.diff", f"blocks.{block}.norm2.weight")
        whole(f"blocks.{block}.norm3.diff_b", f"blocks.{block}.norm2.bias")
        whole(f"blocks.{block}.diff_m", f"blocks.{block}.scale_shift_table")
        if image_branch:
            state |= tiny(f"diffusion_model.blocks.{block}.cross_attn.k_img")
            state[f"diffusion_model.blocks.{block}.cross_attn.k_img.diff_b"] = torch.ones(8)
            state[f"diffusion_model.blocks.{block}.cross_attn.norm_k_img.diff"] = torch.ones(8)
    if image_branch:
        state |= tiny("diffusion_model.img_emb.proj.1") | {"diffusion_model.img_emb.proj.0.diff": torch.ones(8)}
    return state, differences


def save(path: Path, state: State, **metadata: str) -> Path:
    """Write a safetensors file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"format": "pt", **metadata}
    )
    return path


def whole_file(path: Path, network: nn.Module, seed: int = 0, **metadata: str) -> tuple[Path, State]:
    """A file in diffusers' format over all layers, and the differences that it comes to."""
    layers = random_layers(network, own_layers(network), seed)
    state = written(layers, lambda name: f"transformer.{name}", "lora_A", "lora_B")
    return save(path, state, **metadata), deltas(layers, unscaled)


def tiny(*names: str, inputs: int = 8, rank: int = 2, outputs: int | None = None) -> dict[str, Any]:
    """A pair for each module of these names, prefix and all."""
    state: State = {}
    for name in names:
        state[f"{name}.lora_down.weight"] = torch.zeros(rank, inputs)
        state[f"{name}.lora_up.weight"] = torch.zeros(outputs or inputs, rank)
    return state

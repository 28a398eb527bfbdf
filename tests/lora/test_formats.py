"""Every format in which LoRAs come: a network with the adapter gives what it gives with W + scale·B·A."""

from functools import cache
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_wan_transformer_to_diffusers,
)
from torch import nn

from tests.lora.files import (
    NETWORKS,
    deltas,
    distilled,
    formats,
    merged,
    output,
    own_layers,
    random_layers,
    reference_layers,
    tiny,
    unscaled,
    written,
)
from tests.s2v.toy import golden_model, golden_tensors, relative_error
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.lora.key_names import names_of
from wanavatar_lab.lora.keys import count_image_branch, squash
from wanavatar_lab.lora.match import match, match_partly
from wanavatar_lab.s2v.key_names import our_name

FORMATS = [name for name, *_ in formats(NETWORKS["wan"](), 0)]


@cache
def network_of(kind: str) -> nn.Module:
    return NETWORKS[kind]()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_output_is_that_of_the_merged_weights(kind: str, name: str) -> None:
    plain, network = network_of(kind), NETWORKS[kind]()
    # other ranks and alphas for each format
    seed = FORMATS.index(name)
    state, metadata, difference = next(given[1:] for given in formats(plain, seed) if given[0] == name)
    adapters = adapters_of(network)
    adapters.load("face", match(network, state, metadata, "face"))
    without = output(plain)
    assert torch.equal(output(network), without), "loaded is not applied"
    for weight in (1.0, 0.4, -2.5):
        adapters.set_weights({"face": weight})
        wanted = output(merged(plain, difference, weights=(weight,)))
        assert relative_error(wanted, without) > 1e-3
        assert relative_error(output(network), wanted) <= 1e-5
    adapters.set_weights({})
    assert torch.equal(output(network), without)


@pytest.mark.parametrize("kind", NETWORKS)
def test_whole_differences_count_and_leave_the_weights_as_they_were(kind: str) -> None:
    plain, network = network_of(kind), NETWORKS[kind]()
    generator = torch.Generator().manual_seed(0)
    state, differences = {}, {}
    for parameter in plain.state_dict():
        module, _, leaf = parameter.rpartition(".")
        delta = 0.05 * torch.randn(plain.get_parameter(parameter).shape, generator=generator)
        name = parameter if leaf not in ("weight", "bias") else module
        state[f"diffusion_model.{name}.{'diff_b' if leaf == 'bias' else 'diff'}"] = delta
        differences[parameter] = delta
    layers = random_layers(plain, reference_layers(plain))
    pairs = deltas(layers, unscaled)
    state |= written(layers, lambda name: f"diffusion_model.{name}", "lora_A", "lora_B")
    adapters = adapters_of(network)
    adapters.load("face", match(network, state, {}, "face"))
    adapters.set_weights({"face": 0.7})
    wanted = output(merged(plain, differences, pairs, weights=(0.7, 0.7)))
    assert relative_error(wanted, output(plain)) > 1e-3
    assert relative_error(output(network), wanted) <= 1e-5
    adapters.set_weights({"face": 0.3})
    wanted = output(merged(plain, differences, pairs, weights=(0.3, 0.3)))
    assert relative_error(output(network), wanted) <= 1e-5
    adapters.set_weights({})
    adapters.unload(["face"])
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in network.state_dict().items())


def test_the_reference_s_names_of_differences_are_known() -> None:
    """Those of norms and modulations, which distilled LoRAs have and diffusers drops."""
    plain, network = network_of("s2v"), NETWORKS["s2v"]()
    dim = 72
    given = {
        "diffusion_model.blocks.0.norm3.diff": ("blocks.0.norm2.weight", (dim,)),
        "diffusion_model.blocks.0.norm3.diff_b": ("blocks.0.norm2.bias", (dim,)),
        "diffusion_model.blocks.0.modulation.diff": ("blocks.0.scale_shift_table", (1, 6, dim)),
        "diffusion_model.blocks.1.self_attn.norm_q.diff": ("blocks.1.attn1.norm_q.weight", (dim,)),
        "diffusion_model.blocks.1.diff_m": ("blocks.1.scale_shift_table", (6, dim)),
        "diffusion_model.head.modulation.diff": ("scale_shift_table", (1, 2, dim)),
        "diffusion_model.trainable_cond_mask.diff": ("token_kind_embedding.weight", (3, dim)),
        "diffusion_model.time_projection.1.diff_b": ("condition_embedder.time_proj.bias", (6 * dim,)),
    }
    state = {key: 0.1 * torch.randn(shape) for key, (_, shape) in given.items()}
    update = match(network, state, {}, "face")
    assert update.diffs.keys() == {name for name, _ in given.values()}
    adapters = adapters_of(network)
    adapters.load("face", update)
    adapters.set_weights({"face": 1.0})
    wanted = merged(plain, {name: state[key] for key, (name, _) in given.items()})
    assert relative_error(output(network), output(wanted)) <= 1e-6


@pytest.mark.parametrize("kind", ["wan", "s2v"])
def test_a_distilled_lora_as_it_is_published_is_applied_whole(kind: str) -> None:
    plain, network = network_of(kind), NETWORKS[kind]()
    state, differences = distilled(plain, image_branch=kind == "wan")
    adapters = adapters_of(network)
    adapters.load("face", match(network, state, {}, "face"))
    adapters.set_weights({"face": 1.0})
    wanted = output(merged(plain, differences))
    assert relative_error(wanted, output(plain)) > 1e-2
    assert relative_error(output(network), wanted) <= 1e-5
    assert count_image_branch(state) == ({"k_img": 8, "img_emb": 3} if kind == "wan" else {})


def test_a_bias_of_the_up_matrix_is_scaled_as_the_matrices_are() -> None:
    plain, network = network_of("wan"), NETWORKS["wan"]()
    down, up, bias = torch.randn(2, 24), torch.randn(24, 2), torch.randn(24)
    name = "transformer.blocks.0.attn1.to_q"
    state = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.lora_B.bias": bias}
    update = match(network, state | {f"{name}.alpha": torch.tensor(3.0)}, {}, "face")
    adapters = adapters_of(network)
    adapters.load("face", update)
    adapters.set_weights({"face": 0.5})
    layer = "blocks.0.attn1.to_q"
    wanted = merged(plain, {f"{layer}.weight": 1.5 * up @ down, f"{layer}.bias": 1.5 * bias}, weights=(0.5,))
    assert relative_error(output(network), output(wanted)) <= 1e-5


def reference_flux2() -> dict[str, torch.Tensor]:
    """The toy FLUX.2 in the names of those who published it, with other weights."""
    shapes = {
        "img_in": (16, 16),
        "txt_in": (16, 24),
        "time_in.in_layer": (16, 16),
        "time_in.out_layer": (16, 16),
        "double_stream_modulation_img.lin": (96, 16),
        "double_stream_modulation_txt.lin": (96, 16),
        "single_stream_modulation.lin": (48, 16),
        "final_layer.linear": (16, 16),
        "final_layer.adaLN_modulation.1": (32, 16),
        "single_blocks.0.linear1": (80, 16),
        "single_blocks.0.linear2": (16, 32),
    }
    for stream in ("img", "txt"):
        for layer, shape in {"attn.qkv": (48, 16), "attn.proj": (16, 16), "mlp.0": (32, 16), "mlp.2": (16, 16)}.items():
            shapes[f"double_blocks.0.{stream}_{layer}"] = shape
    state = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    for norm in ("query_norm", "key_norm"):
        for place in ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0"):
            state[f"{place}.norm.{norm}.scale"] = torch.randn(16)
    return state


def test_flux2_s_names_are_those_of_its_converter() -> None:
    network, state = network_of("flux2"), reference_flux2()
    wanted = convert_flux2_transformer_checkpoint_to_diffusers(dict(state))
    assert wanted.keys() == network.state_dict().keys()
    check_names(network, state, wanted)


def test_wan_s_names_are_those_of_its_converter() -> None:
    network = network_of("wan")
    # S2V has all that Wan has, under the same names
    state: dict[str, torch.Tensor] = {}
    for name in golden_tensors("s2v_model_a/diffusion_pytorch_model.safetensors"):
        converted = next(iter(convert_wan_transformer_to_diffusers({name: torch.zeros(1)})))
        if converted in network.state_dict():
            state[name] = torch.randn_like(network.get_parameter(converted))
    wanted = convert_wan_transformer_to_diffusers(dict(state))
    assert wanted.keys() == network.state_dict().keys()
    check_names(network, state, wanted)


def test_s2v_s_names_are_those_of_the_checkpoint_reader() -> None:
    network = golden_model("s2v_model_a")
    state = golden_tensors("s2v_model_a/diffusion_pytorch_model.safetensors")
    layers = network.config.audio_inject_layers
    check_names(network, state, {our_name(name, layers): tensor for name, tensor in state.items()})


def check_names(network: nn.Module, state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    names, found = names_of(network), {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        place = (squash(module), leaf) if leaf in ("weight", "bias") else (squash(name), "")
        for target in names[place]:
            found[target.parameter] = target.rows(tensor)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_name_means_two_things(kind: str) -> None:
    for (module, leaf), targets in names_of(network_of(kind)).items():
        parts = targets[0].parts
        assert len(targets) == parts, f"{module} {leaf}"
        assert [target.part for target in targets] == list(range(parts))


def refusal(kind: str, state: dict[str, Any], metadata: dict[str, str] | None = None) -> str:
    with pytest.raises(WeightsError) as caught:
        match(network_of(kind), state, metadata or {}, "freckles")
    return str(caught.value)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", FORMATS)
def test_values_that_are_not_finite_are_refused_by_their_keys(name: str, wrong: float) -> None:
    state, metadata, _ = next(given[1:] for given in formats(network_of("wan"), 0) if given[0] == name)
    # of the first layer each kind of tensor: the matrices, and alpha where the format has it
    for key in list(state)[: len(state) // len(own_layers(network_of("wan")))]:
        broken = state[key].clone()
        broken.view(-1)[-1] = wrong
        text = refusal("wan", state | {key: broken}, metadata)
        assert f"freckles has NaN or infinite values in 1 of its {len(state)} keys: {key}. Nothing of it" in text
        with pytest.raises(WeightsError, match="NaN or infinite"):
            match_partly(network_of("wan"), state | {key: broken}, metadata, "freckles")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_values_are_looked_at_in_every_type(dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in good().items()}
    match(network_of("wan"), state, {}, "freckles")
    key = next(iter(state))
    state[key] = torch.full_like(state[key].float(), float("nan")).to(dtype)
    assert f"keys: {key}." in refusal("wan", state)


@pytest.mark.parametrize(
    "noted",
    [
        {"ss_network_alpha": "nan"},
        {"lora_adapter_metadata": '{"lora_alpha": Infinity}'},
        {"lora_adapter_metadata": '{"lora_alpha": 1, "alpha_pattern": {"blocks.0": NaN}}'},
    ],
)
def test_an_alpha_in_the_metadata_that_is_not_finite_is_refused(noted: dict[str, str]) -> None:
    assert "freckles notes its alpha in a way that cannot be read (alpha is" in refusal("wan", good(), noted)


@pytest.mark.parametrize("ours", [True, False])
def test_the_image_branch_of_wan_2_1_is_left_out(ours: bool) -> None:
    plain = network_of("wan")
    layers = random_layers(plain, own_layers(plain) if ours else reference_layers(plain))
    prefix = "transformer." if ours else "diffusion_model."
    state = written(layers, lambda name: prefix + name, "lora_A", "lora_B")
    names = ("attn2.add_k_proj", "attn2.add_v_proj") if ours else ("cross_attn.k_img", "cross_attn.v_img")
    more = tiny(*(f"{prefix}blocks.{block}.{name}" for block in range(2) for name in names))
    more |= {f"{prefix}blocks.0.{'attn2.norm_added_k' if ours else 'cross_attn.norm_k_img'}.diff": torch.zeros(8)}
    more |= tiny(f"{prefix}{'condition_embedder.image_embedder.ff.net.0.proj' if ours else 'img_emb.proj.1'}")
    assert count_image_branch(more | state) == {"k_img": 5, "v_img": 4, "img_emb": 2}
    network = NETWORKS["wan"]()
    # even NaN there harms nobody
    more = {key: tensor * float("nan") for key, tensor in more.items()}
    adapters_of(network).load("face", match(network, state | more, {}, "face"))
    adapters_of(network).set_weights({"face": 1.0})
    assert relative_error(output(network), output(merged(plain, deltas(layers, unscaled)))) <= 1e-5
    assert "freckles is for the image branch of Wan2.1-I2V only" in refusal("wan", more)
    unknown = f"{prefix}blocks.0.cross_attn.k_imgs.diff"
    assert f"1 unknown: {unknown}" in refusal("wan", state | more | {unknown: torch.zeros(8)})


def good() -> dict[str, torch.Tensor]:
    return next(formats(network_of("wan"), 0))[1]


def test_unknown_keys_are_named_and_counted() -> None:
    state = good()
    for block in range(2, 8):
        state[f"transformer.blocks.{block}.attn1.to_q.lora_A.weight"] = torch.zeros(2, 24)
        state[f"transformer.blocks.{block}.attn1.to_q.lora_B.weight"] = torch.zeros(24, 2)
    said = refusal("wan", state)
    assert "freckles does not fit WanTransformer3DModel" in said
    assert f"Of its {len(state)} keys 12 unknown" in said
    assert "transformer.blocks.2.attn1.to_q.lora_A.weight" in said and "and 8 more" in said


def test_keys_of_the_text_encoder_are_not_dropped() -> None:
    state = good() | {"lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.zeros(2, 8)}
    assert "lora_te_encoder_block_0" in refusal("wan", state)


def test_a_matrix_alone_is_said() -> None:
    state = good()
    del state["transformer.blocks.0.attn1.to_q.lora_B.weight"]
    said = refusal("wan", state)
    assert "blocks.0.attn1.to_q.lora_A.weight without the matrix up" in said


def test_an_alpha_alone_is_said() -> None:
    said = refusal("wan", good() | {"transformer.blocks.0.attn1.norm_q.alpha": torch.tensor(1.0)})
    assert "attn1.norm_q.alpha" in said


def test_two_updates_of_one_layer_are_said() -> None:
    state = good()
    state["diffusion_model.blocks.0.self_attn.q.lora_A.weight"] = torch.zeros(2, 24)
    state["diffusion_model.blocks.0.self_attn.q.lora_B.weight"] = torch.zeros(24, 2)
    assert "1 incomplete or there twice" in refusal("wan", state)


@pytest.mark.parametrize("part", ["lora_A.weight", "alpha"])
def test_rank_0_and_empty_alphas_are_misshaped(part: str) -> None:
    state = good() | {f"transformer.blocks.0.attn1.to_q.{part}": torch.zeros(0, 24)}
    assert f"blocks.0.attn1.to_q.{part} [0, 24]" in refusal("wan", state)


def test_other_shapes_are_said_with_what_is_needed() -> None:
    state = good()
    state["transformer.blocks.0.ffn.net.2.lora_B.weight"] = torch.zeros(23, 2)
    said = refusal("wan", state)
    assert "1 misshaped" in said and "need [r, 32] and [24, r]" in said


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("LoKr", "blocks.0.attn1.to_q.lokr_w1"),
        ("LoHa", "blocks.0.attn1.to_q.hada_w1_a"),
        ("DoRA", "blocks.0.attn1.to_q.dora_scale"),
    ],
)
def test_other_methods_are_refused_by_name(method: str, key: str) -> None:
    said = refusal("wan", good() | {f"transformer.{key}": torch.zeros(4, 4)})
    assert f"freckles is a {method}" in said and key in said


def test_a_wider_network_s_lora_is_refused() -> None:
    state = {
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.zeros(4, 5120),
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": torch.zeros(5120, 4),
    }
    said = refusal("wan", state)
    assert "for another model (Wan-14B, 5120 wide)" in said and "WanTransformer3DModel, 24 wide" in said


def test_an_empty_file_is_refused() -> None:
    assert "changes nothing" in refusal("wan", {})


def test_damaged_metadata_is_not_taken_for_no_alpha() -> None:
    assert "alpha" in refusal("wan", good(), {"lora_adapter_metadata": "{"})

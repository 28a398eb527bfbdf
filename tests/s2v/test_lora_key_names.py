"""LoRA files as people have them: each vocabulary that `load_lora_weights` reads gives the merged weights' output."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.s2v.toy import blocks, flow, relative_error, toy_inputs, toy_model, toy_vae
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline

RANK = 3
# what a layer of block i is called: here, in the reference (and ComfyUI), and by kohya's trainer
LAYERS = {
    "attn1.to_q": ("self_attn.q", "self_attn_q"),
    "attn1.to_k": ("self_attn.k", "self_attn_k"),
    "attn1.to_v": ("self_attn.v", "self_attn_v"),
    "attn1.to_out.0": ("self_attn.o", "self_attn_o"),
    "attn2.to_q": ("cross_attn.q", "cross_attn_q"),
    "attn2.to_k": ("cross_attn.k", "cross_attn_k"),
    "attn2.to_v": ("cross_attn.v", "cross_attn_v"),
    "attn2.to_out.0": ("cross_attn.o", "cross_attn_o"),
    "ffn.net.0.proj": ("ffn.0", "ffn_0"),
    "ffn.net.2": ("ffn.2", "ffn_2"),
}
ALPHA = torch.tensor(1.5)  # where a file names one, its update counts alpha / rank
Update = tuple[torch.Tensor, torch.Tensor]


def updates(model: WanS2VTransformer3DModel, seed: int = 0) -> dict[tuple[int, str], Update]:
    """A down and an up matrix for every layer of every block."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for i, block in enumerate(blocks(model)):
        for layer in LAYERS:
            weight = block.get_submodule(layer).weight
            assert isinstance(weight, torch.Tensor)
            down = torch.randn(RANK, weight.shape[1], generator=generator)
            found[i, layer] = (0.2 * down, 0.2 * torch.randn(weight.shape[0], RANK, generator=generator))
    return found


@torch.no_grad()
def merged(
    model: WanS2VTransformer3DModel, update: dict[tuple[int, str], Update], scale: float
) -> WanS2VTransformer3DModel:
    for (i, layer), (down, up) in update.items():
        weight = blocks(model)[i].get_submodule(layer).weight
        assert isinstance(weight, torch.Tensor)
        weight += scale * up @ down
    return model


def files(update: dict[tuple[int, str], Update]) -> Iterator[tuple[str, dict[str, torch.Tensor], float]]:
    """The same update in each vocabulary, with the scale that the file implies."""
    ours, reference, with_alpha, kohya = {}, {}, {}, {}
    for (i, layer), (down, up) in update.items():
        dotted, underscored = LAYERS[layer]
        ours[f"transformer.blocks.{i}.{layer}.lora_A.weight"] = down
        ours[f"transformer.blocks.{i}.{layer}.lora_B.weight"] = up
        reference[f"diffusion_model.blocks.{i}.{dotted}.lora_A.weight"] = down
        reference[f"diffusion_model.blocks.{i}.{dotted}.lora_B.weight"] = up
        with_alpha[f"diffusion_model.blocks.{i}.{dotted}.lora_down.weight"] = down
        with_alpha[f"diffusion_model.blocks.{i}.{dotted}.lora_up.weight"] = up
        with_alpha[f"diffusion_model.blocks.{i}.{dotted}.alpha"] = ALPHA
        kohya[f"lora_unet_blocks_{i}_{underscored}.lora_down.weight"] = down
        kohya[f"lora_unet_blocks_{i}_{underscored}.lora_up.weight"] = up
        kohya[f"lora_unet_blocks_{i}_{underscored}.alpha"] = ALPHA
    yield "diffusers", ours, 1.0
    yield "reference", reference, 1.0
    yield "reference with alpha", with_alpha, float(ALPHA) / RANK
    yield "kohya", kohya, float(ALPHA) / RANK


def pipeline_of(model: WanS2VTransformer3DModel) -> WanSpeechToVideoPipeline:
    return WanSpeechToVideoPipeline(transformer=model, vae=toy_vae())


FILES = {name: (weights, scale) for name, weights, scale in files(updates(toy_model()))}


@pytest.mark.parametrize("name", FILES)
def test_every_vocabulary_is_read(name: str) -> None:
    weights, scale = FILES[name]
    inputs, model = toy_inputs(), toy_model()
    plain = flow(model, inputs)
    pipe = pipeline_of(model)
    # copies: where there is an alpha, diffusers scales the given tensors in place
    pipe.load_lora_weights({key: tensor.clone() for key, tensor in weights.items()}, adapter_name="face")
    wanted = flow(merged(toy_model(), updates(model), scale), inputs)
    assert relative_error(wanted, plain) > 0.01
    assert relative_error(flow(model, inputs), wanted) <= 1e-5
    pipe.set_adapters("face", 0.25)
    assert relative_error(flow(model, inputs), flow(merged(toy_model(), updates(model), scale / 4), inputs)) <= 1e-5
    pipe.unload_lora_weights()
    assert torch.equal(flow(model, inputs), plain)


def test_two_adapters_add_up_by_their_weights() -> None:
    inputs, model = toy_inputs(), toy_model()
    pipe = pipeline_of(model)
    for seed, name in enumerate(("face", "style")):
        _, weights, _ = next(files(updates(model, seed)))
        pipe.load_lora_weights(weights, adapter_name=name)
    pipe.set_adapters(["face", "style"], [0.5, -0.3])
    both = merged(merged(toy_model(), updates(model, 0), 0.5), updates(model, 1), -0.3)
    assert relative_error(flow(model, inputs), flow(both, inputs)) <= 1e-5
    pipe.disable_lora()
    assert relative_error(flow(model, inputs), flow(toy_model(), inputs)) <= 1e-6


def test_a_tensor_that_nobody_knows_is_an_error() -> None:
    weights = dict(FILES["reference"][0])
    weights["diffusion_model.blocks.0.self_attn.unheard.lora_A.weight"] = torch.zeros(RANK, 72)
    with pytest.raises(ValueError, match="unheard"):
        pipeline_of(toy_model()).load_lora_weights(weights)


ARGUMENTS: dict[str, Any] = {
    "image": torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)),
    "audio_features": torch.rand(3, 20, 8, generator=torch.Generator().manual_seed(1)),
    "prompt_embeds": torch.rand(1, 5, 24, generator=torch.Generator().manual_seed(2)),
    "negative_prompt_embeds": torch.rand(1, 4, 24, generator=torch.Generator().manual_seed(3)),
    "height": 64,
    "width": 64,
    "frames_per_segment": 4,
    "motion_frames": 5,
    "num_inference_steps": 3,
    "num_segments": 1,
}


def predictions(pipe: WanSpeechToVideoPipeline, scales: list[float], forget: bool = True) -> list[torch.Tensor]:
    """The network's prediction at every step of a segment whose adapter gets another weight after each step."""
    seen: list[torch.Tensor] = []

    def on_step(given: WanSpeechToVideoPipeline, step: int, _: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["noise_pred"])
        if step + 1 < len(scales):
            given.set_adapters("face", scales[step + 1])
            if forget:
                given.forget_projections()
        # the same latents at every step, so that only the adapter tells predictions apart
        return {"latents": torch.ones_like(tensors["latents"])}

    pipe.set_adapters("face", scales[0])
    names = ("latents", "noise_pred")
    pipe(**ARGUMENTS, output_type="pt", callback_on_step_end=on_step, callback_on_step_end_tensor_inputs=names)
    return seen


def test_an_adapter_may_change_between_steps() -> None:
    weights, _ = FILES["diffusers"]
    pipe = pipeline_of(toy_model())
    pipe.load_lora_weights(weights, adapter_name="face")
    faded = predictions(pipe, [1.0, 0.5, 0.0])
    for step, scale in enumerate([1.0, 0.5, 0.0]):
        steady = predictions(pipe, [scale] * 3, forget=False)
        assert relative_error(faded[step], steady[step]) <= 1e-6
    # keys and values of the old adapter would still be in use
    assert relative_error(predictions(pipe, [1.0, 0.5, 0.0], forget=False)[2], faded[2]) > 1e-4

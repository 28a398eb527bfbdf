"""Inpainting: a widened network is the same network until it is trained, and sees what is given after that."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.s2v.test_lora_key_names import ARGUMENTS
from tests.s2v.toy import flow, relative_error, toy_inputs, toy_model, toy_vae
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline
from wanavatar_lab.s2v.inpaint import encode_given, segment_given, widen_patch_embedding
from wanavatar_lab.wan.latents import LatentCodec

CPU = torch.device("cpu")
CLIP: dict[str, Any] = {**ARGUMENTS, "num_inference_steps": 1, "output_type": "pt"}


def given(seed: int = 5, **like: Any) -> torch.Tensor:
    latents = like.get("latents", toy_inputs()["hidden_states"])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(latents.shape[0], 20, *latents.shape[2:], generator=generator)


def trained(seed: int = 0) -> WanS2VTransformer3DModel:
    """A network whose further channels are not zero any more."""
    network = toy_model(seed)
    widen_patch_embedding(network)
    with torch.no_grad():
        network.patch_embedding.weight[:, 16:].normal_(0, 0.2, generator=torch.Generator().manual_seed(3))
    return network


@pytest.mark.parametrize("motion", [True, False])
def test_an_untrained_one_predicts_the_same_bit_by_bit(motion: bool) -> None:
    inputs, network = toy_inputs(motion=motion), toy_model()
    wanted = flow(network, inputs)
    widen_patch_embedding(network)
    assert (network.config.in_channels, network.config.out_channels) == (36, 16)
    assert torch.equal(flow(network, inputs), wanted)
    assert torch.equal(flow(network, inputs, inpaint_latents=given()), wanted)
    before = network.patch_embedding
    widen_patch_embedding(network)
    assert network.patch_embedding is before


def test_a_trained_one_sees_what_is_given_and_does_without_it() -> None:
    inputs, network = toy_inputs(), trained()
    with_nothing = flow(network, inputs)
    assert relative_error(with_nothing, flow(toy_model(), inputs)) == 0
    assert relative_error(flow(network, inputs, inpaint_latents=given()), with_nothing) > 1e-2
    assert torch.equal(flow(network, inputs, inpaint_latents=torch.zeros_like(given())), with_nothing)


def test_it_is_saved_and_loaded_with_its_channels(tmp_path: Path) -> None:
    network = trained()
    network.save_pretrained(tmp_path)
    wanted = flow(network, toy_inputs(), inpaint_latents=given())
    for load in (WanS2VTransformer3DModel.from_pretrained, WanS2VTransformer3DModel.from_official):
        found = load(tmp_path, torch_dtype=torch.float32)
        assert found.config.in_channels == 36
        assert torch.equal(flow(found, toy_inputs(), inpaint_latents=given()), wanted)


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="takes 16 channels and no more"):
        flow(toy_model(), toy_inputs(), inpaint_latents=given())
    with pytest.raises(ValueError, match=r"inpaint_latents is \(1, 20, 2, 8, 8\); need \(1, 20, 3, 8, 8\)"):
        flow(trained(), toy_inputs(), inpaint_latents=given()[:, :, :2])
    with pytest.raises(ValueError, match=r"in_channels is 20 and out_channels 16; need as many, or for inpainting 36"):
        toy_model(in_channels=20)
    network = toy_model()
    down, up = torch.zeros(1, 16, 1, 2, 2), torch.zeros(72, 1, 1, 1, 1)
    adapter = {"patch_embedding.lora_A.weight": down, "patch_embedding.lora_B.weight": up}
    network.load_lora_adapter(adapter, prefix=None)
    with pytest.raises(ValueError, match="widen the network first"):
        widen_patch_embedding(network)


def test_each_frame_of_a_latent_has_its_share_and_the_rest_is_grey() -> None:
    codec = LatentCodec(toy_vae())
    pixels = torch.rand(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shown = torch.zeros(1, 1, 8, 64, 64)
    shown[:, :, 1, :, :32] = 1
    shown[:, :, 6, :8, :4] = 1
    found = encode_given(codec, pixels, shown, CPU)
    assert found.shape == (1, 20, 2, 8, 8)
    wanted = torch.zeros(4, 2, 8, 8)
    wanted[1, 0, :, :4] = 1
    wanted[2, 1, 0, 0] = 0.5
    assert torch.equal(found[0, :4], wanted)
    other = torch.where(shown.bool(), pixels, torch.rand(pixels.shape))
    assert torch.equal(encode_given(codec, other, shown, CPU), found), "what is not given does not matter"


def test_beyond_the_videos_end_nothing_is_given() -> None:
    codec, video = LatentCodec(toy_vae()), torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = segment_given(codec, video, torch.zeros(6, 1, 64, 64), slice(4, 12), (64, 64), CPU)
    assert found[0, :4, :, 0, 0].tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


def test_the_pipeline_paints_into_a_video() -> None:
    network = trained()
    pipe = WanSpeechToVideoPipeline(transformer=network, vae=toy_vae())
    video = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept, made = torch.zeros(4, 1, 64, 64), torch.ones(4, 1, 64, 64)
    plain = pipe(**CLIP).frames
    assert torch.equal(pipe(**CLIP, inpaint_video=video, inpaint_mask=made).frames, plain), "nothing is given"
    assert not torch.allclose(pipe(**CLIP, inpaint_video=video, inpaint_mask=kept).frames, plain, atol=1e-3)
    with pytest.raises(ValueError, match="both, or neither"):
        pipe(**CLIP, inpaint_video=video)
    with pytest.raises(ValueError, match=r"inpaint_mask is \(4, 3, 64, 64\); need \[F, 1, 64, 64\]"):
        pipe(**CLIP, inpaint_video=video, inpaint_mask=video)
    with pytest.raises(ValueError, match="takes 16 channels and no mask"):
        WanSpeechToVideoPipeline(transformer=toy_model(), vae=toy_vae())(**CLIP, inpaint_video=video, inpaint_mask=kept)

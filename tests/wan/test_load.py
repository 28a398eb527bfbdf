"""Wan-AI's own folder of the image-to-video models, at toy size: the same pipeline as from diffusers layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from tests import toys
from tests.s2v.published import GOLDEN, write_checkpoint
from tests.toy_i2v import expert
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.stages.image_to_video import load_pipeline
from wanavatar_lab.wan.load import load_expert, load_text_encoder, load_vae
from wanavatar_lab.weights import find_weights, look

PARTS = GOLDEN / "reference_parts"
THEIRS = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "attn1.to_": "self_attn.",
    "attn2.to_": "cross_attn.",
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "proj_out": "head.head",
}


def reference_name(name: str) -> str:
    """Wan's name for a tensor of diffusers' network: norm2 there is the one before the cross attention, norm3 here."""
    for ours, theirs in THEIRS.items():
        name = name.replace(ours, theirs)
    return name.replace("scale_shift_table", "modulation" if name.startswith("blocks") else "head.modulation")


def write_expert(folder: Path, model: WanTransformer3DModel) -> None:
    config = model.config
    theirs = {
        "_class_name": "WanModel",
        "model_type": "i2v",
        "dim": config.num_attention_heads * config.attention_head_dim,
        "num_heads": config.num_attention_heads,
        "in_dim": config.in_channels,
        "out_dim": config.out_channels,
        "freq_dim": config.freq_dim,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "eps": config.eps,
        "text_len": 512,
    }
    tensors = {reference_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    write_checkpoint(folder, theirs, tensors, shard_bytes=20_000)


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Path:
    folder = tmp_path / "Wan2.2-I2V-A14B"
    write_expert(folder / "high_noise_model", expert(0))
    write_expert(folder / "low_noise_model", expert(1))
    shutil.copy(PARTS / "vae.pth", folder / "Wan2.1_VAE.pth")
    shutil.copy(PARTS / "t5.pth", folder / "models_t5_umt5-xxl-enc-bf16.pth")
    toys.text_encoder()[1].save_pretrained(folder / "google" / "umt5-xxl")
    return folder


def test_it_is_read_as_the_same_pipeline(folder: Path) -> None:
    assert len(list((folder / "high_noise_model").glob("*.safetensors"))) > 1
    pipeline = load_pipeline(folder, torch.float32)
    expected = {
        "transformer": expert(0),
        "transformer_2": expert(1),
        "vae": load_vae(PARTS / "vae.pth", torch.float32),
        "text_encoder": load_text_encoder(PARTS / "t5.pth", torch.float32),
    }
    for name, model in expected.items():
        read = getattr(pipeline, name)
        found = read.state_dict()
        assert found.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, found[key]) for key, tensor in model.state_dict().items()), name
        assert not read.training and not any(weight.requires_grad for weight in read.parameters())
    assert pipeline.config.boundary_ratio == 0.9
    assert pipeline.tokenizer("a person").input_ids == toys.text_encoder()[1]("a person").input_ids
    assert look(find_weights(folder.name), folder.parent).state == "present"


@torch.no_grad()
def test_an_expert_gives_the_same_answer_and_keeps_its_norms_in_float32(folder: Path) -> None:
    made, read = expert(0), load_expert(folder / "high_noise_model", torch.float32)
    given = {
        "hidden_states": torch.randn(1, 36, 2, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 5, 16),
    }
    assert torch.equal(made(**given).sample, read(**given).sample)
    dtypes = {
        name: weight.dtype
        for name, weight in load_expert(folder / "low_noise_model", torch.bfloat16).named_parameters()
    }
    assert dtypes["blocks.0.ffn.net.2.weight"] == torch.bfloat16
    assert dtypes["blocks.0.norm2.weight"] == dtypes["scale_shift_table"] == torch.float32


def drop_a_tensor(folder: Path) -> None:
    file = sorted((folder / "low_noise_model").glob("*.safetensors"))[0]
    tensors = load_file(file)
    tensors.pop(next(iter(sorted(tensors))))
    save_file(tensors, file)


def rewrite_config(folder: Path, **changes: Any) -> None:
    file = folder / "low_noise_model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes if changes else {"dim": 24}))


MISFITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an expert": (lambda folder: shutil.rmtree(folder / "low_noise_model"), "lacks low_noise_model"),
    "the VAE": (lambda folder: (folder / "Wan2.1_VAE.pth").unlink(), "lacks Wan2.1_VAE.pth"),
    "a tensor": (drop_a_tensor, "1 tensor missing: "),
    "the config": (rewrite_config, "config.json has no num_heads, in_dim"),
    "no heads": (lambda folder: rewrite_config(folder, num_heads=0), "config.json cannot be used: "),
    "a text": (lambda folder: rewrite_config(folder, num_layers="2"), "config.json cannot be used: "),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_named(misfit: str, folder: Path) -> None:
    damage, said = MISFITS[misfit]
    damage(folder)
    with pytest.raises(WeightsError, match=said):
        load_pipeline(folder, torch.float32)

"""Parts that are trained in full: what they are, what comes out of a run, and how inference takes it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.s2v.toy import flow, relative_error, toy_inputs, toy_model
from tests.training.forked import Run
from tests.training.test_train import write_config
from tests.training.toy import config_of, write_samples
from training.loop.checkpoint import STATE, same_bits
from training.loop.run_folder import AUDIO_MODULES, WEIGHTS, checkpoints
from training.loop.validate import without_training
from training.model.full_finetune import PATTERNS, parameters_of, part_tensors
from training.model.trainable import make_trainable
from training.train import train
from wanavatar_lab.errors import LabError
from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.lora.match import match
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.inpaint import widen_patch_embedding
from wanavatar_lab.weights.safetensors_header import read_header

RATES = {"audio_encoder_rate": 1e-3, "audio_injectors_rate": 1e-3, "patch_embedding_rate": 1e-3}
GIVEN = torch.randn(1, 20, 3, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all parts with an average."""
    folder = tmp_path_factory.mktemp("parts")
    write_samples(folder / "samples", inpaint=True)
    Run(write_config(folder, folder, ema_decay=0.9, checkpoints_total_limit=4, **RATES)).finish()
    return folder


def applied(network: WanS2VTransformer3DModel, checkpoint: Path) -> WanS2VTransformer3DModel:
    """A network with a checkpoint's files in it, as the LoRAs of a request are."""
    adapters = adapters_of(network)
    for name in (WEIGHTS, AUDIO_MODULES):
        file = checkpoint / name
        adapters.load(name.partition(".")[0], match(network, load_file(file), read_header(file).metadata, name))
    adapters.set_weights({"lora_weights": 1.0, "audio_modules": 1.0})
    return network


def test_the_files_of_a_run_make_inference_what_training_was(trained: Path) -> None:
    last = checkpoints(trained / "run")[-1]
    averages = {
        name.removesuffix(".average"): tensor
        for name, tensor in load_file(last / STATE).items()
        if name.endswith(".average")
    }
    whole = toy_model()
    make_trainable(whole, config_of(trained, ema_decay=0.9, **RATES))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(averages.pop(name))
    assert not averages
    inputs, wide = toy_inputs(), toy_model()
    widen_patch_embedding(wide)
    applied(wide, last)
    assert relative_error(flow(wide, inputs, inpaint_latents=GIVEN), flow(whole, inputs, inpaint_latents=GIVEN)) < 1e-5
    # without anything given, a network that was not widened does as well
    assert relative_error(flow(applied(toy_model(), last), inputs), flow(whole, inputs)) < 1e-5
    assert relative_error(flow(whole, inputs), flow(toy_model(), inputs)) > 1e-4
    assert relative_error(flow(whole, inputs, inpaint_latents=GIVEN), flow(whole, inputs)) > 1e-5


def test_a_run_of_parts_with_an_average_goes_on_bit_by_bit(trained: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, trained, ema_decay=0.9, checkpoints_total_limit=4, **RATES)
    first = checkpoints(trained / "run")[0]
    shutil.copytree(first, tmp_path / "run" / first.name)
    Run(file).finish()
    for name in (WEIGHTS, AUDIO_MODULES, STATE):
        mine, theirs = (load_file(checkpoints(run / "run")[-1] / name) for run in (tmp_path, trained))
        assert same_bits(mine, theirs), name
    facts = json.loads((checkpoints(tmp_path / "run")[-1] / "state.json").read_text())
    assert facts["parts"] == sorted(PATTERNS) and facts["ema_decay"] == 0.9


def test_every_part_has_its_weights_and_its_rate(tmp_path: Path) -> None:
    network = toy_model()
    found = make_trainable(network, config_of(tmp_path, audio_encoder_rate=1e-3, audio_injectors_rate=4e-3))
    _, encoder, injectors = found.groups
    assert [group["share"] for group in found.groups] == pytest.approx([1.0, 0.1, 0.4])
    assert {id(weight) for weight in encoder["params"]} == {id(w) for w in network.causal_audio_encoder.parameters()}
    assert len(injectors["params"]) == sum(".audio_injection." in name for name, _ in toy_model().named_parameters())
    mine = {id(weight) for group in found.groups for weight in group["params"]}
    assert mine == {id(weight) for weight in network.parameters() if weight.requires_grad}
    assert not any(".audio_injection." in name and "lora_" in name for name, _ in network.named_parameters())
    assert network.config.in_channels == 16 and set(found.origins) == {
        name for part in ("audio_encoder", "audio_injectors") for name in parameters_of(network, part)
    }


def test_only_what_is_trained_comes_out_and_it_is_the_difference(tmp_path: Path) -> None:
    network = toy_model()
    found = make_trainable(network, config_of(tmp_path, patch_embedding_rate=1e-3))
    with torch.no_grad():
        network.patch_embedding.weight[:, 20] += 1
    tensors = part_tensors(network, found.origins)
    assert tensors.keys() == {"diffusion_model.patch_embedding.diff", "diffusion_model.patch_embedding.diff_b"}
    difference = tensors["diffusion_model.patch_embedding.diff"]
    assert torch.equal(difference[:, 20], torch.ones_like(difference[:, 20])) and int(difference.count_nonzero()) == 288


@pytest.mark.parametrize("inpaint", [True, False])
def test_samples_have_to_be_those_that_the_parts_need(tmp_path: Path, inpaint: bool) -> None:
    write_samples(tmp_path / "samples", count=2, inpaint=inpaint)
    told = config_of(tmp_path) if inpaint else config_of(tmp_path, patch_embedding_rate=1e-3)
    with pytest.raises(LabError, match="without --inpaint" if inpaint else "with --inpaint"):
        train(told, toy_model())


def test_the_base_is_the_network_without_any_training(tmp_path: Path) -> None:
    network, inputs = toy_model(), toy_inputs()
    wanted = flow(network, inputs)
    found = make_trainable(network, config_of(tmp_path, **RATES))
    with torch.no_grad():
        for weight in found.parameters:
            weight.add_(0.05)
    moved = flow(network, inputs)
    with without_training(network, found.origins):
        assert relative_error(flow(network, inputs), wanted) < 1e-6
    assert torch.equal(flow(network, inputs), moved) and relative_error(moved, wanted) > 1e-2


def test_a_network_in_bfloat16_is_trained_in_float32(tmp_path: Path) -> None:
    network, inputs = toy_model(), toy_inputs()
    exact = make_trainable(toy_model(), config_of(tmp_path, **RATES))
    found = make_trainable(network, config_of(tmp_path, mixed_precision="bf16", base_dtype="fp8", **RATES))
    assert {weight.dtype for weight in found.parameters} == {torch.float32}
    assert network.proj_out.weight.dtype == torch.float32
    assert network.condition_embedder.time_proj.weight.dtype == torch.float32, "as in inference"
    network(**inputs, return_dict=False)[0].float().square().mean().backward()
    assert all(weight.grad is not None for group in found.groups[1:] for weight in group["params"])
    assert len(found.parameters) == len(exact.parameters)

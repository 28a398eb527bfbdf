"""The LoRA that is trained: it computes what PEFT's does, and its file is read by all who read LoRAs."""

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tests.s2v.toy import GOLDEN, flow, golden_model, relative_error, toy_inputs, toy_model, toy_vae
from training.model.adapter import adapter_tensors, add_adapter
from wanavatar_lab.lora.find import describe, find_adapters
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline

RANK, ALPHA = 4, 2.0


def with_adapter(lean: bool = True) -> tuple[WanS2VTransformer3DModel, list[nn.Parameter]]:
    """A toy network with a LoRA that changes it."""
    network = toy_model()
    trained = add_adapter(network, RANK, ALPHA, seed=0, lean=lean)
    generator = torch.Generator().manual_seed(1)
    for matrix in trained:
        matrix.data.normal_(0, 0.2, generator=generator)
    return network, trained


def gradients(network: WanS2VTransformer3DModel, trained: list[nn.Parameter]) -> torch.Tensor:
    network(**toy_inputs(), return_dict=False)[0].square().mean().backward()
    return torch.cat([matrix.grad.flatten() for matrix in trained if matrix.grad is not None])


def test_it_computes_what_pefts_own_layers_compute() -> None:
    (mine, my_matrices), (theirs, their_matrices) = with_adapter(), with_adapter(lean=False)
    assert relative_error(flow(mine, toy_inputs()), flow(theirs, toy_inputs())) < 1e-6
    assert relative_error(flow(mine, toy_inputs()), flow(toy_model(), toy_inputs())) > 1e-2
    assert relative_error(gradients(mine, my_matrices), gradients(theirs, their_matrices)) < 1e-5


def test_it_begins_as_pefts_own_does_and_changes_nothing() -> None:
    one, other = toy_model(), toy_model()
    for mine, theirs in zip(
        add_adapter(one, RANK, ALPHA, 7), add_adapter(other, RANK, ALPHA, 7, lean=False), strict=True
    ):
        assert torch.equal(mine, theirs) and mine.dtype == torch.float32
    assert torch.equal(flow(one, toy_inputs()), flow(toy_model(), toy_inputs()))


def test_layers_that_are_trained_themselves_get_none() -> None:
    network = toy_model()
    without = {name for name, _ in network.named_modules() if ".audio_injection." in name}
    add_adapter(network, RANK, ALPHA, 0, without)
    assert not any("audio_injection" in key and "lora_" in key for key in network.state_dict())
    assert any("attn2.to_q.lora_A" in key for key in network.state_dict())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder's LoRA, as a run writes it."""
    path = tmp_path_factory.mktemp("weights") / "loras" / "mov" / "character" / "me.safetensors"
    path.parent.mkdir(parents=True)
    tensors, metadata = adapter_tensors(with_adapter()[0])
    save_file(tensors, path, metadata)
    return path


def test_the_pipeline_loads_the_file_as_diffusers_loads_any(file: Path) -> None:
    inputs, wanted = toy_inputs(), flow(with_adapter()[0], toy_inputs())
    for source, options in ((str(file), {}), (str(file.parent), {"weight_name": file.name})):
        network = toy_model()
        pipe = WanSpeechToVideoPipeline(transformer=network, vae=toy_vae())
        pipe.load_lora_weights(source, adapter_name="me", **options)
        assert relative_error(flow(network, inputs), wanted) < 1e-5
        pipe.unload_lora_weights()
        assert torch.equal(flow(network, inputs), flow(toy_model(), inputs))


def test_what_is_no_lora_is_refused(file: Path) -> None:
    tensors = {"diffusion_model.audio_injector.injector.0.q.diff": torch.zeros(72, 72)}
    with pytest.raises(ValueError, match=r"injector\.0\.q\.diff is not a LoRA tensor"):
        WanSpeechToVideoPipeline(transformer=toy_model(), vae=toy_vae()).load_lora_weights(tensors)


def test_the_list_of_loras_knows_it(file: Path) -> None:
    weights_dir = file.parents[3]
    (described,) = describe(find_adapters(weights_dir), weights_dir)
    assert (described.name, described.rank, described.alpha) == ("me", (RANK, RANK), (ALPHA, ALPHA))
    assert described.base == "Wan2.2-S2V" and not described.problem


def test_its_modules_bear_the_names_that_the_reference_gives_them() -> None:
    network = golden_model("s2v_model_a")
    add_adapter(network, RANK, ALPHA, 0)
    tensors, metadata = adapter_tensors(network)
    with safe_open(GOLDEN / "s2v_model_a" / "diffusion_pytorch_model.safetensors", framework="pt") as published:
        known = set(published.keys())
    modules = {key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")}
    assert {f"{module.removeprefix('diffusion_model.')}.weight" for module in modules} <= known
    assert {f"{module}.{end}" for module in modules for end in ("lora_A.weight", "lora_B.weight")} <= tensors.keys()
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2")


def test_the_published_network_gets_the_documented_modules() -> None:
    with torch.device("meta"):
        network = WanS2VTransformer3DModel()
    trained = add_adapter(network, 128, 64.0, seed=0)
    layers = [name for name, layer in network.named_modules() if isinstance(layer, LoraLayer)]
    injectors = [name for name in layers if ".audio_injection." in name]
    assert (len(layers), len(injectors), len(trained)) == (460, 60, 2 * 460)
    assert sum(matrix.numel() for matrix in trained) == 699_924_480  # "trained" in docs/measured/training.jsonl

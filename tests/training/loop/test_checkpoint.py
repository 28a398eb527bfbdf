"""Checkpoints: whole or not there, averaged where a run has an average, and what a run may begin with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.s2v.toy import flow, relative_error, toy_inputs, toy_model
from tests.training.toy import config_of, write_samples
from training.config import TrainingConfig
from training.data.whole_folder import is_temporary, remove_folder, temporary_beside
from training.loop.checkpoint import FACTS, STATE, load_checkpoint, save_checkpoint, trained_parameters
from training.loop.run_folder import AUDIO_MODULES, WEIGHTS, checkpoints
from training.loop.warm_start import PROJECTOR, describe_unused, init_from
from training.model.adapter import adapter_tensors
from training.model.ema import averaged, new_ema
from training.model.trainable import Trainable, make_trainable
from training.train import train
from wanavatar_lab.errors import LabError
from wanavatar_lab.lora import with_usual_weights
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanS2VTransformer3DModel

Run = tuple[WanS2VTransformer3DModel, Trainable, torch.optim.Optimizer]


def begun(folder: Path, seed: int = 0, **told: Any) -> Run:
    """A network of which one step was trained, by gradients that are random numbers."""
    network = toy_model()
    trainable = make_trainable(network, config_of(folder, **told))
    optimizer = torch.optim.AdamW(trainable.groups, lr=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainable.parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return network, trainable, optimizer


def test_what_a_killed_process_left_is_cleared_away_by_the_next_checkpoint(tmp_path: Path) -> None:
    network, _, optimizer = begun(tmp_path)
    left = temporary_beside(tmp_path / "checkpoint-3")
    left.mkdir()
    (left / WEIGHTS).write_bytes(b"half of it")
    (tmp_path / "tensorboard").mkdir()
    assert checkpoints(tmp_path) == []
    for step in (4, 10, 4):
        save_checkpoint(tmp_path, step, network, optimizer, {"rank": 4}, limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4", "tensorboard"]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-10"]
    assert sorted(path.name for path in (tmp_path / "checkpoint-4").iterdir()) == [WEIGHTS, FACTS, STATE]


def test_a_checkpoint_says_the_weights_that_requests_give_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, trainable, optimizer = begun(tmp_path, audio_encoder_rate=1e-2)
    folder = save_checkpoint(tmp_path / "run", 1, network, optimizer, {}, limit=1, origins=trainable.origins)
    place = tmp_path / "weights" / "loras" / "mov" / "character"
    place.mkdir(parents=True)
    (folder / WEIGHTS).rename(place / "me.safetensors")
    (folder / AUDIO_MODULES).rename(place / "me_parts.safetensors")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    loras = with_usual_weights(SpeechToVideo(image="a.png", audio="a.wav", loras="me,me_parts")).loras
    assert [(lora.name, lora.high_weight, lora.low_weight) for lora in loras] == [("me", 0.5, 0.5), ("me_parts", 1, 1)]


def test_a_checkpoint_that_fails_leaves_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, optimizer = begun(tmp_path)
    save_checkpoint(tmp_path, 1, network, optimizer, {}, limit=1)
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(tmp_path, 2, network, optimizer, {}, limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_folder_that_goes_is_not_there_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / WEIGHTS).write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remove_folder(tmp_path / "checkpoint-1")
    assert checkpoints(tmp_path) == [] and all(is_temporary(path) for path in tmp_path.iterdir())


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    network, _, optimizer = begun(tmp_path)
    folder = save_checkpoint(tmp_path, 1, network, optimizer, {}, limit=1)
    (folder / STATE).unlink()
    with pytest.raises(LabError, match=r"checkpoint-1 lacks state\.safetensors"):
        load_checkpoint(folder, network, optimizer, {})


@pytest.mark.parametrize("name", [WEIGHTS, STATE, FACTS])
def test_a_file_that_is_cut_short_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    network, _, optimizer = begun(tmp_path)
    folder = save_checkpoint(tmp_path, 1, network, optimizer, {}, limit=1)
    (folder / name).write_bytes((folder / name).read_bytes()[:-8])
    with pytest.raises(LabError, match=f"checkpoint-1/{name} .* Remove its folder to resume") as raised:
        load_checkpoint(folder, network, optimizer, {})
    assert "ownload" not in str(raised.value)


def test_an_average_is_what_others_read_and_the_weights_go_on(tmp_path: Path) -> None:
    network, trainable, optimizer = begun(tmp_path, audio_encoder_rate=1e-3)
    parameters = list(trained_parameters(network).values())
    ema = new_ema(parameters, decay=0.5)
    before = [value.clone() for value in ema.shadow_params]
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1.0)
    ema.step(parameters)  # of the first, 2/11 stays
    for value, first in zip(ema.shadow_params, before, strict=True):
        assert torch.allclose(value, first + 9 / 11, atol=1e-6)
    ema.optimization_step = 999
    ema.step(parameters)  # and then half
    for value, first in zip(ema.shadow_params, before, strict=True):
        assert torch.allclose(value, first + 10 / 11, atol=1e-6)
    now = {name: parameter.detach().clone() for name, parameter in trained_parameters(network).items()}
    folder = save_checkpoint(tmp_path, 7, network, optimizer, {}, 1, trainable.origins, ema)
    saved = load_file(folder / WEIGHTS)
    with averaged(ema, parameters):
        assert all(torch.equal(saved[key], tensor) for key, tensor in adapter_tensors(network)[0].items())
    difference = load_file(folder / AUDIO_MODULES)["diffusion_model.casual_audio_encoder.weights.diff"]
    name = "causal_audio_encoder.weights"
    values = dict(zip(now, ema.shadow_params, strict=True))
    assert torch.equal(difference, values[name] - trainable.origins[name])
    assert all(torch.equal(parameter, now[name]) for name, parameter in trained_parameters(network).items())

    again, other, fresh = begun(tmp_path, seed=1, audio_encoder_rate=1e-3)
    kept = new_ema(list(trained_parameters(again).values()), decay=0.5)
    assert load_checkpoint(folder, again, fresh, {}, kept) == 7
    assert kept.optimization_step == 7
    for (name, parameter), value in zip(trained_parameters(again).items(), kept.shadow_params, strict=True):
        assert torch.equal(parameter, now[name]) and torch.equal(value, values[name])
    for mine, theirs in zip(other.parameters, trainable.parameters, strict=True):
        assert torch.equal(fresh.state[mine]["exp_avg_sq"], optimizer.state[theirs]["exp_avg_sq"])


# --- beginning with what was learnt before


def test_a_run_may_init_from_a_lora_of_another_rank_and_alpha(tmp_path: Path) -> None:
    network, trainable, optimizer = begun(tmp_path, audio_encoder_rate=1e-3, rank=2, alpha=6.0)
    folder = save_checkpoint(tmp_path / "before", 3, network, optimizer, {}, 1, trainable.origins)
    wanted = flow(network, toy_inputs())
    fresh = toy_model()
    made = make_trainable(fresh, config_of(tmp_path, audio_encoder_rate=1e-3, rank=5, alpha=1.0))
    left = init_from(folder, fresh, made.origins)
    assert left == {WEIGHTS: [], AUDIO_MODULES: []} and "all tensors" in describe_unused([])
    assert relative_error(flow(fresh, toy_inputs()), wanted) < 1e-5
    assert relative_error(flow(toy_model(), toy_inputs()), wanted) > 1e-3
    # one of a smaller rank has no room for the LoRA, and without the encoder for nothing
    poor = toy_model()
    left = init_from(folder, poor, make_trainable(poor, config_of(tmp_path, rank=1, audio_encoder_rate=1e-3)).origins)
    assert "blocks.0.attn1.to_q" in left[WEIGHTS] and not left[AUDIO_MODULES]
    poor = toy_model()
    with pytest.raises(LabError, match=r"Nothing in .*before/checkpoint-3 fits .*causal_audio_encoder"):
        init_from(folder, poor, make_trainable(poor, config_of(tmp_path, rank=1)).origins)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_run_may_init_from_a_lora_that_is_stored_in_fewer_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    network, _, _ = begun(tmp_path)
    tensors, metadata = adapter_tensors(network)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / WEIGHTS, metadata)
    fresh = toy_model()
    assert init_from(tmp_path, fresh, make_trainable(fresh, config_of(tmp_path)).origins) == {WEIGHTS: []}
    for name, tensor in adapter_tensors(fresh)[0].items():
        assert torch.equal(tensor, tensors[name].to(dtype).float())


def test_the_predecessors_files_are_read_as_far_as_names_match(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    lora: dict[str, torch.Tensor] = {}
    for layer in ("blocks_0_self_attn_q", "blocks_1_cross_attn_o", "blocks_0_cross_attn_k_img"):
        name = f"lora_transformer__{layer}"
        lora |= {f"{name}.lora_down.weight": random(4, 72), f"{name}.lora_up.weight": random(72, 4)}
        lora[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(lora, tmp_path / WEIGHTS)
    projector = {
        "vocal_projector.proj.weight": random(8, 8),
        "blocks.0.cross_attn.k_vocal.weight": random(72, 72),
        "casual_audio_encoder.weights": random(1, 3, 1, 1),
        "casual_audio_encoder.padding_tokens": random(1, 1, 1, 8),  # of another width
    }
    torch.save(projector, tmp_path / PROJECTOR)
    network = toy_model()
    made = make_trainable(network, config_of(tmp_path, audio_encoder_rate=1e-3))
    left = init_from(tmp_path, network, made.origins)
    assert len(left[WEIGHTS]) == 3 and all("k_img" in key for key in left[WEIGHTS])
    assert left[PROJECTOR] == [name for name in projector if name != "casual_audio_encoder.weights"]
    assert torch.equal(network.causal_audio_encoder.weights, projector["casual_audio_encoder.weights"])
    adapted: Any = network.get_submodule("blocks.0.attn1.to_q")
    up = adapted.lora_B["trained"].weight
    assert torch.equal(up, lora["lora_transformer__blocks_0_self_attn_q.lora_up.weight"])
    said = describe_unused(left[PROJECTOR])
    assert said.startswith("3 unused") and "vocal_projector.proj.weight" in said


def test_a_run_says_what_it_left_and_does_not_begin_again_when_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "samples", count=3)
    network, trainable, optimizer = begun(tmp_path)
    before = save_checkpoint(tmp_path / "before", 3, network, optimizer, {}, 1, trainable.origins)
    told = config_of(
        tmp_path,
        init_from=before,
        max_train_steps=1,
        checkpointing_steps=1,
        gradient_accumulation_steps=1,
        learning_rate=1e-9,
    )
    train(TrainingConfig(**told.model_dump()), toy_model())
    assert f"{WEIGHTS}: all tensors" in capsys.readouterr().out
    after = load_file(checkpoints(tmp_path / "run")[-1] / WEIGHTS)
    learnt = load_file(before / WEIGHTS)
    assert all(torch.allclose(after[key], learnt[key], atol=1e-6) for key in learnt)
    train(told.model_copy(update={"max_train_steps": 2}), toy_model())
    said = capsys.readouterr().out
    assert "resumed from step 1 of 2" in said and "all tensors" not in said
    for other in (None, tmp_path / "others"):
        with pytest.raises(LabError, match=f"init_from '{before}' and now .*{other}.*give the run another folder"):
            train(told.model_copy(update={"max_train_steps": 3, "init_from": other}), toy_model())
    with pytest.raises(LabError, match="nothing to start from"):
        train(told.model_copy(update={"init_from": tmp_path, "run": tmp_path / "other"}), toy_model())

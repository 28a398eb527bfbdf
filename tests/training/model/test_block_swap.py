"""Block swap: the same bits as without, and weights on the device only while they are needed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType  # type: ignore[import-untyped]
from torch import Tensor

from tests.s2v.toy import CONFIG, toy_inputs, toy_model
from tests.training.toy import config_of, toy_with_adapter, write_samples
from training.loop.checkpoint import same_bits
from training.loop.run_folder import WEIGHTS, checkpoints, read_metrics
from training.model.activations import Activations
from training.model.trainable import place
from training.train import train
from wanavatar_lab.errors import LabError
from wanavatar_lab.wan.checkpoint_files import read_safetensors

BLOCKS, CPU = CONFIG["num_layers"], torch.device("cpu")


def on_device(network: Any) -> list[int]:
    """Numbers of the blocks whose frozen weights have their memory."""
    weights = ((number, block.ffn.net[0].proj.base_layer.weight) for number, block in enumerate(network.blocks))
    return [number for number, weight in weights if weight.untyped_storage().nbytes()]


@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize("swapped", [1, BLOCKS - 1, BLOCKS])
def test_gradients_are_the_same_bits_and_two_blocks_are_there(swapped: int, float8: bool) -> None:
    def gradients(swap_blocks: int) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        network, trained = toy_with_adapter()
        Activations(keep_attention=1).install(network, place(network, CPU, float8, swap_blocks))
        seen = []
        block: Any
        for block in network.blocks:
            block.norm2.register_forward_hook(lambda *_: seen.append(len(on_device(network))))
        for _ in range(2):
            network.zero_grad()
            network(**toy_inputs(), return_dict=False)[0].square().mean().backward()
        with torch.no_grad():
            sample = network(**toy_inputs(), return_dict=False)[0]
        assert swap_blocks == 0 or max(seen) <= BLOCKS - swap_blocks + 2
        found = {str(i): matrix.grad for i, matrix in enumerate(trained) if matrix.grad is not None}
        return found, sample, on_device(network)

    (plain, wanted, _), (found, sample, left) = gradients(0), gradients(swapped)
    assert same_bits(found, plain) and torch.equal(sample, wanted)
    assert set(range(BLOCKS - swapped)) <= set(left) and len(left) <= BLOCKS - swapped + 2


def test_a_run_that_swaps_is_the_run_that_does_not(tmp_path: Path) -> None:
    """Also across a resume, where the weights are loaded again."""
    write_samples(tmp_path / "samples")
    fields = {"samples": tmp_path / "samples", "gradient_checkpointing": True, "validation_steps": 2}
    plain = config_of(tmp_path / "plain", **fields)
    swapping = config_of(tmp_path / "swapping", swap_blocks=BLOCKS, **fields)
    train(plain, toy_model())
    train(swapping.model_copy(update={"max_train_steps": 3}), toy_model())
    changes = train(swapping, toy_model())
    weights = [read_safetensors(checkpoints(config.run)[-1] / WEIGHTS) for config in (plain, swapping)]
    assert same_bits(*weights)
    losses = [[line["loss"] for line in read_metrics(config.run, "train")] for config in (plain, swapping)]
    assert losses[0] == losses[1] and set(changes) == {"lip", "face", "background"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (
            {"swap_blocks": BLOCKS + 1, "gradient_checkpointing": True},
            rf"network has {BLOCKS} blocks\. Set it to fewer",
        ),
        ({"swap_blocks": 1}, r"without gradient_checkpointing.*set gradient_checkpointing to true"),
    ],
)
def test_what_cannot_be_swapped_is_refused(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    write_samples(tmp_path / "samples")
    with pytest.raises(LabError, match=why):
        train(config_of(tmp_path, **fields), toy_model())


def test_several_processes_do_not_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(tmp_path / "samples")
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.MULTI_GPU)
    with pytest.raises(LabError, match="works on one GPU only: set it to 0"):
        train(config_of(tmp_path, swap_blocks=1, gradient_checkpointing=True), toy_model())


def test_moments_in_8_bits_resume_as_they_were(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'wanavatar-lab[adamw8bit]'")
    write_samples(tmp_path / "samples")
    # its moments are in 8 bits from 4,096 numbers on
    fields = {"samples": tmp_path / "samples", "optimizer": "adamw8bit", "rank": 64}
    whole, broken = config_of(tmp_path / "whole", **fields), config_of(tmp_path / "broken", **fields)
    train(whole, toy_model())
    train(broken.model_copy(update={"max_train_steps": 4}), toy_model())
    train(broken, toy_model())
    weights = [read_safetensors(checkpoints(config.run)[-1] / WEIGHTS) for config in (whole, broken)]
    assert same_bits(*weights)
    state = read_safetensors(checkpoints(whole.run)[-1] / "state.safetensors")
    assert {torch.uint8, torch.float32} == {tensor.dtype for tensor in state.values()}


def test_an_optimizer_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(tmp_path / "samples")
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(LabError, match=r"adamw8bit needs bitsandbytes.*pip install 'bitsandbytes"):
        train(config_of(tmp_path, optimizer="adamw8bit"), toy_model())

"""What is logged of a step, by hand: means over processes, and gradients by the part of the network that they pull."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    IMAGES,
    TENSORS,
    EventAccumulator,
)

from tests.training.toy import toy_with_adapter
from training.loop.run_folder import read_metrics
from training.loop.run_log import Log, step_tag
from training.train import gradient_norms, means


def test_means_are_over_the_values_of_all_processes() -> None:
    one, other = {"loss": [1.0, 2.0], "lip": [4.0, math.nan]}, {"loss": [6.0], "lip": [math.nan], "face": [3.0]}
    assert means([one, other]) == {"loss": 3.0, "lip": 4.0, "face": 3.0}
    assert means([{"lip": [math.nan]}]) == {}


def test_one_loss_that_is_no_number_is_none_of_all() -> None:
    assert math.isnan(means([{"loss": [1.0]}, {"loss": [math.inf, -math.inf]}])["loss"])
    assert math.isnan(means([{"loss": [1.0, math.nan]}])["loss"])


def test_gradients_are_told_apart_by_part() -> None:
    network, _ = toy_with_adapter()
    network.patch_embedding.requires_grad_(True)
    expected: dict[str, float] = {}
    names = {"attn1": "self_attention", "attn2": "cross_attention", "ffn": "feed_forward", "audio_": "audio_injectors"}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 2.0)
            group = next((names[key] for key in names if f".{key}" in name), "patch_embedding")
            expected[group] = expected.get(group, 0.0) + 4.0 * parameter.numel()
    assert len(expected) == 5
    found = gradient_norms(network)
    assert found == {f"gradient_norm_of_{group}": pytest.approx(square**0.5) for group, square in expected.items()}


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("loss", "loss/loss"),
        ("loss_motion", "loss/motion"),
        ("loss_of_branch_lip", "loss/lip"),
        ("loss_of_branch_lip_main", "loss/lip_main"),
        ("lip", "error/lip"),
        ("error_of_branch_lip", "error/branch_lip"),
        ("error_from_sigma_0.25", "error/sigma_0.25"),
        ("gradient_norm", "gradient/gradient_norm"),
        ("gradient_norm_of_feed_forward", "gradient/feed_forward"),
        ("lip_area", "masks/lip_area"),
        ("learning_rate", "step/learning_rate"),
    ],
)
def test_numbers_of_a_step_are_grouped_by_what_they_are(name: str, tag: str) -> None:
    assert step_tag(name) == tag


def test_tensorboard_has_settings_masks_and_numbers_and_the_log_has_the_same(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    log.show_config(0, {"rank": 8, "init_from": None})
    log.write("train", 1, {"loss": 2.0, "loss_of_branch_lip": 3.0, "face": math.nan})
    log.write("samples", 1, {"lip_r": 0.5})
    face, lip = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    face[0], lip[0, 0, 0] = 1, 1
    log.show_masks("masks/0", 1, np.full((2, 16, 24, 3), 128, np.uint8), face, lip)
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={IMAGES: 0, TENSORS: 0})
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"loss/loss", "loss/lip", "samples/lip_r"}
    (text,) = board.Tensors("config/text_summary")
    rows = ["| field | value |", "| --- | --- |", "| rank | 8 |", "| init_from | null |"]
    assert text.tensor_proto.string_val[0].decode().splitlines() == rows
    (image,) = board.Images("masks/0")
    picture = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB"))
    assert picture.shape == (16, 48, 3) and (np.abs(picture[:, 24:].astype(int) - 128) <= 1).all()
    (red, green, _), (other_red, other_green, _) = picture[1, 1].tolist(), picture[14, 20].tolist()
    assert red > green and other_green > 128 > other_red
    assert [line.get("loss_of_branch_lip") for line in read_metrics(tmp_path)] == [3.0, None]

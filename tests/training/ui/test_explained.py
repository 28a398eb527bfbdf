"""What a notebook says of a training is what the training does."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.test_encode import write_clip
from tests.training.toy import config_of
from tests.training.ui.test_results import xs, ys
from training.config.training_config import BRANCHES
from training.data.masks import CELL, FRAMES
from training.data.samples import write_list, write_sample
from training.loop.loss import LatentMasks, s2v_loss
from training.model.flow import flow_sigmas
from training.ui import loss_weights as loss_weights_module
from training.ui.curves import noise_plot, overlay_plots
from training.ui.explained import loss_code, settings_table
from training.ui.loss_weights import LossWeights, coloured, loss_weights
from training.ui.person import Person
from wanavatar_lab.errors import LabError


@pytest.mark.parametrize("branch", range(3), ids=BRANCHES)
@pytest.mark.parametrize(
    "told", [{"loss_floor": 0.3}, {"loss": "paper", "flow_shift": 5.0}], ids=["normalised", "paper"]
)
def test_the_code_that_is_shown_computes_the_loss_that_is_trained(
    told: dict[str, Any], branch: int, tmp_path: Path
) -> None:
    config = config_of(tmp_path, **told)
    generator = torch.Generator().manual_seed(0)
    clean, noise, answer = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(3))
    face, lips = torch.rand(4, 5, 6, generator=generator), torch.zeros(4, 5, 6)
    lips[:, 2, 2:4] = 0.5
    names: dict[str, Any] = {"u": 0.4, "clean": clean, "noise": noise, "face": face, "lips": lips}
    names |= {"branch": BRANCHES[branch], "network": lambda noisy, sigma: answer}
    exec(loss_code(config), names)
    masks = LatentMasks(face[None], lips[None], torch.ones(1, 4, dtype=torch.bool))
    mode, floor = config.loss, config.loss_floor
    trained = s2v_loss(answer[None], clean[None], noise[None], masks, torch.tensor([branch]), mode, floor)
    assert float(names["loss"]) == pytest.approx(float(trained.loss), rel=1e-5)
    assert names["sigma"] == pytest.approx(config.flow_shift * 0.4 / (1 + (config.flow_shift - 1) * 0.4))


def test_only_settings_that_differ_are_in_the_table(tmp_path: Path) -> None:
    table = settings_table(config_of(tmp_path, loss_floor=0.25, gradient_checkpointing=True)).data
    assert "<b>loss_floor</b></td>" in table and "<b>0.25</b>" in table and ">0.2</td>" in table
    assert "Share of the loss weight" in table and "flow_shift" not in table and "gradient_checkpointing" not in table


def test_the_noise_levels_are_those_that_a_training_draws() -> None:
    plot = noise_plot(5.0)
    drawn = flow_sigmas(100_000, torch.Generator().manual_seed(0), 5.0).numpy()
    shares = np.histogram(drawn, bins=4, range=(0, 1))[0] / len(drawn)
    said = [tick.get_text().partition("\n")[2] for tick in plot.axes.get_xticklabels()]
    assert [float(text.rstrip("%")) / 100 for text in said] == pytest.approx(shares.tolist(), abs=0.01)
    (density,) = plot.axes.lines[:1]
    assert np.trapezoid(ys(density), xs(density)) == pytest.approx(1, abs=0.01)


def test_runs_lie_over_each_other_by_name() -> None:
    def lines(lip: float) -> list[dict[str, Any]]:
        steps = [{"kind": "train", "step": step, "loss": lip / step} for step in (1, 2)]
        return [{"kind": "base", "step": 0, "lip": 1.0}, *steps, {"kind": "validation", "step": 2, "lip": lip}]

    held_out, loss = overlay_plots({"training": lines(0.5), "rank_4": lines(0.75), "no_validation": lines(1.0)[1:3]})
    drawn = {line.get_label(): ys(line) for line in held_out.axes.lines}
    assert (drawn["training"], drawn["rank_4"]) == ([0.0, -50.0], [0.0, -25.0]) and "no_validation" not in drawn
    assert len(loss.axes.lines) == 3
    assert [name for name, _ in held_out.legend] == ["training", "rank_4", "no_validation"]
    assert len({colour for _, colour in held_out.legend}) == 3
    assert not overlay_plots({"training": lines(0.5)[1:3]})[0].axes.has_data()


def test_the_map_of_the_loss_lies_over_the_frame_it_was_measured_on(tmp_path: Path) -> None:
    person = Person(tmp_path)
    write_clip(person.data / "processed" / "video_000", 32)
    # of the square about the face, 64 pixels from x = 32 on
    face, lip = torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)
    face[:, 1:7, 3:7], lip[:, 5, 4:6] = 1, 1
    tensors = {"face": face, "lip": lip, "valid": torch.ones(8, dtype=torch.bool), "target": torch.zeros(16, 8, 8, 8)}
    tensors |= {"text": torch.zeros(2, 4), "audio": torch.zeros(3, 8, 32), "reference": torch.zeros(16, 1, 8, 8)}
    person.samples.mkdir()
    entry = write_sample(person.samples, "video_000-square-0000-first-0123456789ab", tensors, "video_000", False)
    write_list(person.samples, [entry], torch.zeros(2, 4))
    config = config_of(tmp_path, samples=person.samples, loss_floor=0.0)
    found = asyncio.run(loss_weights(person, config))
    assert found.sample == entry.name and found.frame.shape == (64, 64, 3) and found.maps.shape == (4, 8, 8)
    # the light square of frame 18, of the latent in the middle
    assert (found.frame[18:26, 28:36] == 250).all()
    only_lips = np.zeros((8, 8), np.bool_)
    only_lips[5, 4:6] = True
    assert ((found.maps[2] > 0) == only_lips).all() and found.shares[2] == pytest.approx([1, 0, 0])
    assert found.area == pytest.approx([2 / 64, 22 / 64, 40 / 64])
    html = found._repr_html_()
    assert html.count('<img src="data:image/webp;base64,') == 5 and "lips 3.1%" in html
    assert "50% of the samples" in html and "all branches together" in html
    with pytest.raises(LabError, match="There is no sample other to train on"):
        asyncio.run(loss_weights(person, config, "other"))


def test_a_place_is_as_large_as_the_latents_say() -> None:
    assert (loss_weights_module.CELL, loss_weights_module.FRAMES) == (CELL, FRAMES)


def test_a_place_that_counts_more_is_lighter_and_a_map_without_differences_has_one_colour() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    drawn = coloured(grey, np.array([[0.0, 1.0], [10.0, 100.0]]), 100.0).astype(int).sum(axis=2)
    assert drawn[0, 0] < drawn[0, 15] < drawn[15, 0] < drawn[15, 15]
    flat = LossWeights("a", grey, np.ones((4, 2, 2)), np.full((4, 3), 1 / 3), np.full(3, 1 / 3))
    assert "10 × the mean" in flat._repr_html_() and len(np.unique(coloured(grey, np.ones((2, 2)), 10.0))) <= 3

"""Losses and masks against values computed by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.toy import write_samples
from training.config import TrainingConfig
from training.config.recipes import RECIPES
from training.config.training_config import BRANCHES, MOTION_SHARE
from training.data.masks import latent_masks, latent_validity
from training.loop.loss import LatentMasks, draw_branches, noisy, s2v_loss, total
from training.loop.loss_shares import gradient_shares, main, table, typical_masks
from training.loop.loss_shares import masks_of as masks_of_samples

FULL, FACE, LIP = range(3)


def masks_of(face: torch.Tensor, lip: torch.Tensor, valid: torch.Tensor | None = None) -> LatentMasks:
    return LatentMasks(face, lip, torch.ones(face.shape[:2], dtype=torch.bool) if valid is None else valid)


def loss_of(  # type: ignore[no-untyped-def]
    difference: torch.Tensor, masks: LatentMasks, branch: int, mode: str = "normalised", floor: float = 0.0
):
    """The loss where what is predicted differs from ε - x by `difference` [B, z, T, h, w]."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(difference.shape, generator=generator) for _ in range(2))
    branches = torch.full((len(difference),), branch)
    return s2v_loss(noise - clean + difference, clean, noise, masks, branches, mode, floor)  # type: ignore[arg-type]


def test_a_lip_of_60_by_25_pixels_keeps_its_weight() -> None:
    mask = torch.zeros(1, 80, 480, 832)
    mask[:, :, 301:326, 397:457] = 1
    reduced = latent_masks(mask)
    assert reduced.shape == (1, 20, 60, 104)
    assert reduced[0, 0].sum() * 64 == pytest.approx(60 * 25)
    # no cell that the lips touch is left without weight
    touched = torch.nn.functional.max_pool2d(mask[0, :1], 8)[0] > 0
    assert bool((reduced[0, 0][touched] > 0).all()) and not reduced[0, 0][~touched].any()


def test_latents_take_exactly_their_own_frames() -> None:
    # frame f is inside to f hundredths
    clip = (torch.arange(9) / 100).view(1, 9, 1, 1).expand(1, 9, 8, 8)
    assert latent_masks(clip[:, :8])[0, :, 0, 0].tolist() == pytest.approx([0.015, 0.055])
    found = torch.tensor([[True] * 6 + [False] + [True] * 2])
    assert latent_validity(found[:, :8]).tolist() == [[True, False]]


def test_what_is_no_whole_latent_is_refused() -> None:
    with pytest.raises(ValueError, match="6 frames"):
        latent_masks(torch.zeros(1, 6, 8, 8))
    with pytest.raises(ValueError, match="12x8"):
        latent_masks(torch.zeros(1, 4, 8, 12))


def test_the_lip_branch_is_the_mean_over_the_lips_and_the_papers_is_not() -> None:
    lip = torch.zeros(1, 2, 4, 4)
    lip[:, :, 1, 1:3] = torch.tensor([1.0, 0.5])
    difference = torch.zeros(1, 3, 2, 4, 4)
    difference[:, :, :, 1, 1], difference[:, :, :, 1, 2], difference[:, :, :, 3, 3] = 2.0, 4.0, 100.0
    masks = masks_of(lip, lip)
    # (1 · 4 + 0.5 · 16) / 1.5; the error does not change from latent to latent
    assert loss_of(difference, masks, LIP).loss == pytest.approx(0.75 * 8.0, rel=1e-5)
    # the same sum over all sixteen places
    assert loss_of(difference, masks, LIP, "paper").loss == pytest.approx(0.75 * 12 / 16, rel=1e-5)


def test_a_floor_gives_a_share_of_the_weight_to_the_whole_picture() -> None:
    lip = torch.zeros(1, 2, 4, 4)
    lip[:, :, 1, 1:3] = torch.tensor([1.0, 0.5])
    difference = torch.zeros(1, 3, 2, 4, 4)
    difference[:, :, :, 1, 1], difference[:, :, :, 1, 2], difference[:, :, :, 3, 3] = 2.0, 4.0, 8.0
    masks = masks_of(lip, lip)
    # the lips' (1 · 4 + 0.5 · 16) / 1.5, and (4 + 16 + 64) / 16 of all places
    expected = 0.75 * (0.6 * 8 + 0.4 * 84 / 16)
    assert loss_of(difference, masks, LIP, floor=0.4).loss == pytest.approx(expected, rel=1e-5)
    assert loss_of(difference, masks, FACE, floor=0.4).loss == pytest.approx(expected, rel=1e-5)
    for branch, mode in ((FULL, "normalised"), (FULL, "paper"), (LIP, "paper")):
        with_floor, without = (loss_of(difference, masks, branch, mode, floor) for floor in (0.4, 0.0))
        assert with_floor.loss == without.loss


def test_the_full_branch_counts_face_and_lips_once_more_each() -> None:
    face, lip = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    face[..., 0, :], lip[..., 0, 0] = 1, 1
    difference = torch.arange(1.0, 5.0).view(1, 1, 1, 2, 2)
    difference = torch.cat([difference, difference], dim=2)
    masks = masks_of(face.expand(1, 2, 2, 2), lip.expand(1, 2, 2, 2))
    weighted = 3 * 1 + 2 * 4 + 9 + 16
    assert loss_of(difference, masks, FULL).loss == pytest.approx(0.75 * weighted / 7, rel=1e-5)
    found = loss_of(difference, masks, FULL, "paper")
    assert found.loss == pytest.approx(0.75 * weighted / 4, rel=1e-5)
    # what is logged is never weighted
    figures = [float(value) for value in (found.error, found.face, found.lip, found.background)]
    assert figures == pytest.approx([30 / 4, 5 / 2, 1.0, 25 / 2], rel=1e-5)
    assert found.area[0].tolist() == pytest.approx([0.5, 0.25])


def test_an_error_that_stands_still_has_no_motion_loss_and_one_that_moves_has() -> None:
    everywhere = masks_of(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
    still = torch.full((1, 4, 3, 2, 2), 2.0)
    assert loss_of(still, everywhere, FULL).motion == pytest.approx(0, abs=1e-9)
    moving = still * torch.tensor([0.0, 1.0, 3.0]).view(1, 1, 3, 1, 1)
    found = loss_of(moving, everywhere, FULL)
    # changes of 2 and 4; errors of 0, 2 and 6
    assert found.motion == pytest.approx((4 + 16) / 2, rel=1e-5)
    assert found.loss == pytest.approx(0.75 * (0 + 4 + 36) / 3 + MOTION_SHARE * 10, rel=1e-5)
    # over time, not over channels: the same numbers along the channels move nothing
    channels = torch.tensor([0.0, 1.0, 3.0, 5.0]).view(1, 4, 1, 1, 1).expand(1, 4, 3, 2, 2)
    assert loss_of(channels, everywhere, FULL).motion == pytest.approx(0, abs=1e-9)


def test_a_face_that_nobody_found_is_no_lip_loss_in_disguise() -> None:
    lip = torch.zeros(2, 2, 4, 4)
    lip[:, :, 1, 1] = 1
    valid = torch.tensor([[True, True], [False, False]])
    difference = torch.ones(2, 3, 2, 4, 4)
    found = loss_of(difference, masks_of(lip, lip, valid), LIP)
    assert found.fell_back.tolist() == [False, True]
    assert [BRANCHES[i] for i in found.branch.tolist()] == ["lip", "full"]
    assert math.isnan(found.lip[1]) and math.isnan(found.background[1])
    # with every other frame lost, the lips of those that were found still count alone
    half = loss_of(difference, masks_of(lip, lip, torch.tensor([[True, False], [False, True]])), LIP)
    assert half.fell_back.tolist() == [False, False] and bool(half.loss.isfinite())


@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from(["paper", "normalised"]), st.integers(0, 2))
def test_the_loss_is_finite_and_its_gradient_points_at_the_target(b: int, t: int, mode: str, branch: int) -> None:
    generator = torch.Generator().manual_seed(b * 100 + t * 10 + branch)
    face = torch.rand(b, t, 3, 3, generator=generator)
    masks = masks_of(face, face * torch.rand(b, t, 3, 3, generator=generator).round())
    difference = torch.randn(b, 2, t, 3, 3, generator=generator).requires_grad_()
    found = loss_of(difference, masks, branch, mode)
    found.loss.backward()
    assert bool(found.loss.isfinite()) and difference.grad is not None and bool(difference.grad.isfinite().all())
    assert float((difference.grad * difference.detach()).sum()) >= 0


def test_branches_come_in_their_shares() -> None:
    drawn = draw_branches(20_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    assert shares.tolist() == pytest.approx([0.4, 0.1, 0.5], abs=0.02)


def test_noise_comes_by_its_level() -> None:
    clean, noise = torch.zeros(2, 1, 1, 1, 1), torch.ones(2, 1, 1, 1, 1)
    assert noisy(clean, noise, torch.tensor([0.25, 1.0])).flatten().tolist() == [0.25, 1.0]


def test_the_loss_is_made_of_its_logged_parts() -> None:
    generator = torch.Generator().manual_seed(3)
    face = torch.zeros(3, 2, 4, 4)
    face[:, :, :2] = 1
    lip = torch.zeros_like(face)
    lip[:, :, 1, 1] = 1
    predicted, clean, noise = (torch.randn(3, 2, 2, 4, 4, generator=generator) for _ in range(3))
    found = s2v_loss(predicted, clean, noise, masks_of(face, lip), torch.tensor([FULL, FACE, LIP]))
    assert found.loss == pytest.approx(float(total(found.main, found.motion_loss).mean()), rel=1e-6)
    # without a floor, the loss of a part's own branch is the error of that part
    assert found.main[LIP] == pytest.approx(float(found.lip[LIP]), rel=1e-6)
    assert found.main[FACE] == pytest.approx(float(found.face[FACE]), rel=1e-6)


# --- how much of the gradient each part of the picture gets


def test_shares_of_the_gradient_are_those_of_the_documented_table() -> None:
    documented = (Path(__file__).resolve().parents[3] / "docs/training.md").read_text(encoding="utf-8")
    for line in table([typical_masks()]):
        assert line in documented


def test_shares_follow_the_floor_and_the_branch() -> None:
    masks = typical_masks()
    for branch, part in ((LIP, "lips"), (FACE, "face")):
        none, some, more = (gradient_shares(masks, "normalised", floor, branch, draws=8) for floor in (0, 0.2, 0.6))
        assert none["rest"] < 0.05 and none[part] > some[part] > more[part]
    # a weight of 1 everywhere gives each part the share of its area
    assert gradient_shares(masks, "normalised", 1.0, LIP)["lips"] == pytest.approx(float(masks.lip.mean()), rel=0.05)


@pytest.mark.parametrize(("recipe", "floor"), [("pocket", 0.9), ("s2v_14b_1gpu", 0.2)])
def test_a_recipe_has_the_floor_of_its_profile(recipe: str, floor: float) -> None:
    assert TrainingConfig(samples=Path("a"), run=Path("b"), **RECIPES[recipe]()).loss_floor == floor


def test_a_map_has_the_shares_of_its_parts_and_nothing_where_the_branch_looks_away(tmp_path: Path) -> None:
    write_samples(tmp_path, count=2)
    main(["--samples", str(tmp_path), "--sample", "sample-0", "--loss_floor", "0", "--save", str(tmp_path / "a.npz")])
    saved = np.load(tmp_path / "a.npz")
    maps, shares = saved["maps"], saved["shares"]
    assert maps.shape == (4, 2, 8, 12) and maps.mean(axis=(1, 2, 3)) == pytest.approx(1, rel=1e-3)
    # the lips are 2 × 3 of 8 × 12 places, in a face of 6 × 6
    assert saved["area"] == pytest.approx([6 / 96, 30 / 96, 60 / 96], rel=1e-6)
    assert shares[LIP] == pytest.approx([1, 0, 0], abs=1e-6) and not maps[LIP][:, 0].any()
    assert shares[FACE, 2] == pytest.approx(0, abs=1e-6)
    # the whole picture once, the face once more, and the lips once more
    assert shares[FULL] == pytest.approx(np.array([3 * 6, 2 * 30, 60]) / 138, abs=0.03)
    assert shares[3].tolist() == [pytest.approx(share, abs=0.02) for share in expected(tmp_path).values()]


def expected(folder: Path) -> dict[str, float]:
    return gradient_shares(masks_of_samples(folder)[0], "normalised", 0.0)


def test_a_sample_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_samples(tmp_path, count=2)
    with pytest.raises(SystemExit, match="There is no sample other to train on"):
        main(["--samples", str(tmp_path), "--sample", "other", "--save", str(tmp_path / "a.npz")])
    assert not list(tmp_path.glob("*.npz"))

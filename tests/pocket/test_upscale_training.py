"""The toy upscaler: what its training sees, that it learns, that the stage reads what it writes; what is shipped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from safetensors.torch import load_file, save_file

from training.pocket.upscale import evaluate, train
from training.pocket.upscale.network import build, published
from training.pocket.upscale.pictures import Pictures
from training.pocket.upscale.soften import blurred, halved, jpeg, softened
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.upscale import enlarge, read_network

WEIGHTS = Path(__file__).parent.parent.parent / "weights"


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures.draw(6, 32, seed=0, split="train")


def test_pairs_show_the_same_thing_at_two_sizes(pictures: Pictures) -> None:
    assert pictures.large.shape == (6, 3, 64, 64) and pictures.small.shape == (6, 3, 32, 32)
    off = (halved(pictures.large.float()) - pictures.small.float()).abs().mean()
    shifted = (halved(pictures.large.float())[..., 1:] - pictures.small.float()[..., :-1]).abs().mean()
    assert off < 0.3 * shifted
    given, wanted = pictures.batch(16, 16, torch.Generator().manual_seed(0))
    assert given.shape == (16, 3, 16, 16) and wanted.shape == (16, 3, 32, 32)
    assert torch.allclose(given * 255, (given * 255).round(), atol=1e-4), "as a file would have it"
    assert (halved(wanted) - given).abs().mean() < 0.05
    again = pictures.batch(16, 16, torch.Generator().manual_seed(0))
    assert torch.equal(given, again[0]) and torch.equal(wanted, again[1])


def test_blur_keeps_brightness_and_takes_detail(pictures: Pictures) -> None:
    large = pictures.large.float() / 255
    soft = blurred(large, torch.linspace(0.2, 1.8, 6))
    assert torch.allclose(soft.mean(), large.mean(), atol=0.01)
    assert torch.allclose(soft[0], large[0], atol=0.01), "a fifth of a pixel is nothing"
    assert soft[5].diff().abs().mean() < 0.7 * large[5].diff().abs().mean()


def test_jpeg_is_as_far_off_as_a_jpeg_file(pictures: Pictures, tmp_path: Path) -> None:
    assert features.check("jpg")
    small = pictures.small.float() / 255
    for quality in (30, 90):
        made = jpeg(small, torch.full((6,), float(quality)))
        ours, theirs = [], []
        for picture, coded in zip(pictures.small, made, strict=True):
            levels = picture.permute(1, 2, 0).numpy()
            Image.fromarray(levels).save(tmp_path / "a.jpg", quality=quality, subsampling=0)
            theirs.append(np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(float) - levels).mean())
            ours.append(float((coded - picture / 255).abs().mean()) * 255)
        assert 0.5 < np.mean(ours) / np.mean(theirs) < 1.5, quality


def test_softening_is_drawn_by_seed(pictures: Pictures) -> None:
    large = pictures.large.float() / 255
    first = softened(large, torch.Generator().manual_seed(1))
    assert first.shape == (6, 3, 32, 32) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, softened(large, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, softened(large, torch.Generator().manual_seed(2)))


def test_it_begins_as_a_blurred_enlargement(pictures: Pictures) -> None:
    large = pictures.large.float() / 255
    with torch.no_grad():
        made = build()(halved(large))
    assert (made - large).abs().mean() < 0.1
    assert made.diff().abs().mean() < large.diff().abs().mean()


def test_published_names_are_the_networks_own_function(tmp_path: Path) -> None:
    network = build(seed=1, features=8, blocks=2).eval()
    save_file(published(network.state_dict()), tmp_path / "a.safetensors")
    picture = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = read_network(tmp_path / "a.safetensors", "cpu").module(picture)
        assert torch.allclose(made, network(picture), atol=1e-6)
    golden = torch.load(Path(__file__).parent.parent / "golden" / "realesrgan_x2" / "toy_x2.pth", weights_only=True)[
        "params_ema"
    ]
    assert set(published(network.state_dict())) == set(golden)


def test_it_learns_resumes_and_is_read_by_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: Pictures
) -> None:
    words = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--avatars", "6", "--pixels", "32", "--crop", "16", "--batch", "4"]
    train.main([*words, "--steps", "40"])
    train.main([*words, "--steps", "100"])
    assert "resumed at step 40" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 100

    network = read_network(tmp_path / "out" / train.FILE, "cpu").module
    given, wanted = pictures.batch(16, 16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (train.enlarging_loss(one(given), wanted) for one in (build(), network))
    assert after < 0.85 * before

    sizes = ["--avatars", "2", "--pixels", "32", "--device", "cpu"]
    evaluate.main(["--weights", str(tmp_path / "out" / train.FILE), *sizes])
    figures = json.loads(capsys.readouterr().out)
    halves = figures["halved"]
    assert halves["gain_db"] == pytest.approx(halves["psnr_db"] - halves["bicubic_db"], abs=0.011)


# --- what is shipped


@pytest.fixture(scope="module")
def shipped() -> Path:
    folder = PROFILES["pocket"].weights("upscale", WEIGHTS)
    (file,) = folder.iterdir()
    return file


def test_the_shipped_file_is_small_and_in_the_published_layout(shipped: Path) -> None:
    assert shipped.suffix == ".safetensors"
    assert shipped.stat().st_size <= 1.5 * 2**20
    assert {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.bias"} <= set(load_file(shipped))


def test_the_shipped_network_beats_bicubic_by_a_decibel_on_held_out_avatars(shipped: Path) -> None:
    network = read_network(shipped, "cpu")
    held_out = Pictures.draw(6, 128, seed=2, split="held_out")
    true = evaluate.as_pictures(held_out.large)
    for given in (halved(held_out.large.float() / 255), held_out.small):
        figures, _ = evaluate.measure(network, evaluate.as_pictures(given), true)
        assert figures["gain_db"] >= 1


def test_the_shipped_network_leaves_a_plain_picture_plain(shipped: Path, tmp_path: Path) -> None:
    network = read_network(shipped, "cpu")
    for colour in ((20, 20, 24), (245, 240, 235), (120, 170, 240), (200, 60, 40)):
        made = enlarge(np.full((32, 48, 3), colour, np.uint8), network, 0, StageContext(tmp_path, 0))
        off = np.abs(made.astype(int) - colour)
        # the network fills up with zeros around a picture, which the outermost pixels feel
        assert off[2:-2, 2:-2].max() <= 6
        assert off.max() <= 32

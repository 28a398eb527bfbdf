"""The toy VAE's fast form is diffusers' own function, and its training resumes."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from training.pocket.loop import Plan, Training
from training.pocket.video_vae import train
from training.pocket.video_vae.clips import ClipBank
from training.pocket.video_vae.figures import mouth_change, mouth_psnr, psnr
from training.pocket.video_vae.together import decode_together, encode_together, forget_the_past


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=6, z_dim=8, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    for name, parameter in vae.named_parameters():
        if "gamma" in name:  # ones at first, which would hide a norm that is applied wrongly
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    forget_the_past(vae)
    return vae.eval().requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_all_frames_at_once_equal_diffusers_frame_by_frame(vae: AutoencoderKLWan, frames: int) -> None:
    pixels = torch.rand(2, 3, frames, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moments = vae.encode(pixels).latent_dist.parameters
    assert torch.allclose(encode_together(vae, pixels), moments, atol=1e-5, rtol=1e-4)
    latents = moments[:, :8]
    assert torch.allclose(decode_together(vae, latents).clamp(-1, 1), vae.decode(latents).sample, atol=1e-4)


def test_a_still_clip_settles_within_five_latents(vae: AutoencoderKLWan) -> None:
    still = torch.rand(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(2)).expand(-1, -1, 41, -1, -1) * 2 - 1
    decoded = vae.decode(vae.encode(still).latent_dist.mode()).sample
    # an untrained decoder makes the four frames of a latent differ, and the same four again and again
    assert torch.allclose(decoded[:, :, 17:37], decoded[:, :, 21:41], atol=1e-4)


def test_training_in_two_sittings_equals_one(tmp_path: Path) -> None:
    data = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    wanted = data @ torch.tensor([[1.0], [-2.0], [0.5]])

    def train(folder: Path, *sittings: int) -> torch.Tensor:
        for steps in sittings:
            torch.manual_seed(0)
            model = torch.nn.Linear(3, 1)
            training = Training(model, folder, Plan(40, 60, 1, 0.05, warm_up=1))

            def loss_of(step: int) -> dict[str, torch.Tensor]:
                if step >= steps:  # noqa: B023 - called within this sitting only
                    raise KeyboardInterrupt
                return {"loss": (model(data) - wanted).square().mean()}  # noqa: B023

            try:
                training.run(loss_of)
            except KeyboardInterrupt:
                training.save()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.allclose(train(tmp_path / "one", 40), train(tmp_path / "two", 20, 40), atol=2e-3)


@pytest.fixture(scope="module")
def clips() -> ClipBank:
    return ClipBank.draw(3, 9, 64, torch.device("cpu"), seed=3)


def test_what_changes_in_mouths_is_told_from_what_stands_still(clips: ClipBank) -> None:
    true, mouths, _ = clips.batch(3, 9, torch.Generator().manual_seed(0))
    assert mouth_change(true, true, mouths) == 1
    still = true.mean(dim=2, keepdim=True).expand_as(true)
    assert mouth_change(still, true, mouths) == pytest.approx(0, abs=1e-6)
    # halfway between the two, half of every change is gone, which is a quarter of its energy
    assert mouth_change((true + still) / 2, true, mouths) == pytest.approx(0.75, abs=1e-4)
    # the mouth is what moves, so a clip that stands still loses more there than elsewhere
    assert mouth_psnr(still, true, mouths) < psnr(still, true).mean()


def test_an_error_in_the_mouth_costs_many_times_one_in_the_background(clips: ClipBank) -> None:
    network = train.build()
    batch = train.draw_batch(clips, 2, 9, 0)
    none = dict.fromkeys(("mouth", "features"), torch.zeros_like(batch["mouth"]))
    figures = train.vae_loss(network, batch)
    plain = train.vae_loss(network, batch | none)
    everywhere = {name: torch.ones_like(batch[name]) for name in none}
    assert plain["reconstruction"] < figures["reconstruction"]
    most = train.vae_loss(network, batch | everywhere)["reconstruction"] / plain["reconstruction"]
    assert most == pytest.approx(1 + train.MOUTH_WEIGHT + train.FEATURE_WEIGHT, rel=1e-3)
    assert figures["psnr"] == plain["psnr"]


def test_a_vae_is_trained_and_another_begins_with_it(tmp_path: Path) -> None:
    few = ["--clips", "4", "--frames", "5", "--pixels", "32", "--batch", "2", "--device", "cpu"]
    train.main(["--run", str(tmp_path / "one"), "--out", str(tmp_path / "vae"), "--steps", "3", *few])
    first = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    assert len(first.config.latents_std) == first.config.z_dim and min(first.config.latents_std) > 0
    begin = ["--begin-with", str(tmp_path / "vae"), "--learning-rate", "1e-9", "--steps", "1"]
    train.main(["--run", str(tmp_path / "two"), "--out", str(tmp_path / "again"), *begin, *few])
    again = AutoencoderKLWan.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.allclose(again[name], tensor, atol=1e-6) for name, tensor in first.state_dict().items())
    # the past stays forgotten
    assert not again["encoder.conv_in.weight"][:, :, :-1].any()

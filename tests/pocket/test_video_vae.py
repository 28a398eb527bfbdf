"""The toy VAE's fast form is diffusers' own function, and its training goes on where it stopped."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from training.pocket.loop import Plan, Training
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

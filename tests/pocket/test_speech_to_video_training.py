"""What the toy S2V is trained on is what the pipeline will show it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from tests import toys
from training.model.flow import flow_sigmas
from training.pocket.flow import flow_error, weighted_mean
from training.pocket.speech_to_video.segments import SegmentBank, at_video_rate
from training.pocket.text import embed, train_tokenizer
from wanavatar_lab.s2v.audio_features import AudioFeatures

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "pocket"


def test_the_voice_is_sampled_as_the_pipeline_samples_it() -> None:
    states = torch.randn(3, 249, 8, generator=torch.Generator().manual_seed(0))
    features = AudioFeatures.from_tensor(states)
    buckets = torch.cat([features.bucket(i, 16, 40) for i in range(3)], dim=2)[:, :, :90]
    assert torch.allclose(at_video_rate(states[None], 90)[0], buckets, atol=1e-4)


def test_noise_levels_follow_the_shift() -> None:
    sigmas = flow_sigmas(20_000, torch.Generator().manual_seed(0), shift=3.0)
    assert sigmas.min() >= 0 and sigmas.max() <= 1
    assert sigmas.median() == pytest.approx(0.75, abs=0.01)  # 3·½ / (1 + 2·½)


def test_the_error_is_zero_for_the_true_flow_and_weights_are_a_mean_of_places() -> None:
    clean, noise = torch.randn(2, 2, 4, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    assert flow_error(noise - clean, clean, noise).abs().max() == 0
    wrong = torch.zeros_like(clean)
    wrong[..., 2, 2] = 2.0
    error = flow_error(noise - clean + wrong, clean, noise)
    assert error.shape == (2, 5, 6, 6)
    assert error.round(decimals=4).unique().tolist() == [0.0, 4.0]
    mouth = torch.zeros(2, 5, 6, 6)
    assert weighted_mean(error, mouth) == 0  # a clip without a mouth in sight
    mouth[:, :, 2, 2:4] = 1.0
    assert weighted_mean(error, mouth) == pytest.approx(2.0, abs=1e-5)
    assert weighted_mean(error, 1 + 8 * mouth) == pytest.approx(9 * 4 / (36 + 16), abs=1e-5)


@pytest.mark.slow  # the weights that ship are rarely trained again
def test_embeddings_end_where_the_text_ends() -> None:
    tokenizer = train_tokenizer()
    encoder, _ = toys.text_encoder()
    encoder.resize_token_embeddings(len(tokenizer))
    states = embed(["a woman with red hair", ""], tokenizer, encoder, length=16)
    lengths = [len(tokenizer(text).input_ids) for text in ("a woman with red hair", "")]
    for row, length in zip(states, lengths, strict=True):
        assert row[:length].abs().sum(dim=1).min() > 0
        assert row[length:].abs().max() == 0
    assert tokenizer.decode(tokenizer("a lilac xylophone").input_ids, skip_special_tokens=True).strip() == (
        "a lilac xylophone"
    )


def test_a_batch_is_of_one_kind() -> None:
    count, frames = 3, 160
    generator = torch.Generator().manual_seed(0)
    bank = SegmentBank(
        reference=torch.zeros(count, 4, 1, 2, 2),
        first=torch.ones(count, 4, 20, 2, 2),
        motion=torch.full((count, 4, 19, 2, 2), 2.0),
        second=torch.full((count, 4, 20, 2, 2), 3.0),
        mouths=torch.rand(count, 2, 20, 2, 2, generator=generator),
        features=torch.rand(count, 2, 20, 2, 2, generator=generator),
        audio=torch.arange(frames).float().expand(count, 2, 3, frames),
        text=torch.arange(count).float()[:, None, None].expand(count, 5, 8),
        no_text=torch.full((1, 5, 8), -1.0),
    )
    untold = torch.tensor([True, False])
    first, second = (bank.batch(torch.tensor([0, 2]), continued, untold) for continued in (False, True))
    assert first["target"].unique().tolist() == [1.0] and second["target"].unique().tolist() == [3.0]
    assert first["audio_embeds"][0, 0, 0].tolist() == list(range(80))
    assert second["audio_embeds"][0, 0, 0].tolist() == list(range(80, 160))
    assert torch.equal(second["mouth"], bank.mouths[[0, 2], 1])
    assert torch.equal(first["features"], bank.features[[0, 2], 0])
    assert first["encoder_hidden_states"][:, 0, 0].tolist() == [-1.0, 2.0]


@pytest.mark.slow  # a long clip
def test_the_shipped_vae_holds_its_quality_over_a_long_clip() -> None:
    from training.pocket.video_vae.clips import ClipBank
    from training.pocket.video_vae.figures import psnr
    from training.pocket.video_vae.together import decode_together, encode_together

    vae = AutoencoderKLWan.from_pretrained(WEIGHTS / "video_vae", torch_dtype=torch.float32).eval()
    bank = ClipBank.draw(1, 33, 128, torch.device("cpu"), seed=1, split="held_out")
    clips, _, _ = bank.batch(1, 33, torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = decode_together(vae, encode_together(vae, clips)[:, : vae.config.z_dim])
    each = psnr(made, clips).mean(dim=0).numpy()
    assert np.mean(each) > 26
    assert each[-1] > each[0] - 2

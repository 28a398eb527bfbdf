"""Dubbing in the bare pipeline: what a mask keeps is the recording's, and all else is made anew."""

from typing import Any

import pytest
import torch

from tests.s2v.test_inpaint import CLIP, trained
from tests.s2v.test_pipeline import arguments, clip, random, shared_pipe
from tests.s2v.toy import toy_vae
from wanavatar_lab.s2v import WanSpeechToVideoPipeline
from wanavatar_lab.s2v.recording import RecordedSegment
from wanavatar_lab.wan.latents import LatentCodec
from wanavatar_lab.wan.scheduler import set_flow_timesteps, with_flow_shift

CPU = torch.device("cpu")
VIDEO = random(7, 8, 3, 64, 64)  # of both segments; the first one makes one frame
HALF = torch.zeros(8, 1, 64, 64)
HALF[..., 32:] = 1  # the right half is made anew


def test_what_is_kept_is_the_recordings_and_what_is_not_is_the_models() -> None:
    nothing, all_anew = torch.zeros(8, 1, 64, 64), torch.ones(8, 1, 64, 64)
    plain = clip(shared_pipe())
    assert torch.allclose(clip(shared_pipe(), video=VIDEO, mask=nothing)[0], VIDEO[3:], atol=1e-6)
    assert torch.allclose(clip(shared_pipe(), video=VIDEO, mask=all_anew), plain, atol=1e-6)
    dubbed = clip(shared_pipe(), video=VIDEO, mask=HALF)[0]
    assert torch.allclose(dubbed[..., :32], VIDEO[3:, ..., :32], atol=1e-6)
    assert (dubbed - VIDEO[3:])[..., 32:].abs().mean() > 0.05
    # the model sees the rest of the picture
    assert not torch.allclose(dubbed[..., 32:], plain[0, ..., 32:], atol=1e-3)


def test_after_each_step_the_kept_latents_have_the_noise_of_that_step() -> None:
    seen: list[torch.Tensor] = []

    def look(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> None:
        seen.append(tensors["latents"].clone())

    noise, steps = torch.randn(2, 16, 1, 8, 8, generator=torch.Generator().manual_seed(3)), 3
    given = arguments(latents=noise, num_inference_steps=steps, num_segments=1)
    given["image"] = (given["image"] * 255).round() / 255  # a picture has 8 bits
    shared_pipe()(**given, video=VIDEO, mask=HALF, callback_on_step_end=look)
    scheduler = with_flow_shift(shared_pipe().scheduler, 3.0)
    set_flow_timesteps(scheduler, steps, "cpu")
    # the latents of a first segment are those behind the picture
    frames = torch.cat([given["image"][None], VIDEO[:4]]).transpose(0, 1)[None] * 2 - 1
    known = LatentCodec(shared_pipe().vae).encode(frames, CPU)[:, :, 1:]
    for latents, sigma in zip(seen, scheduler.sigmas[1:], strict=True):
        wanted = (1 - sigma) * known + sigma * noise[:1]
        assert torch.allclose(latents[..., :4], wanted[..., :4], atol=1e-5)
        assert not torch.allclose(latents[..., 4:], wanted[..., 4:], atol=1e-2)
    assert torch.allclose(seen[-1][..., :4], known[..., :4], atol=1e-5)  # without noise at the end


def test_beyond_the_recordings_end_all_is_made_anew() -> None:
    short = clip(shared_pipe(), video=VIDEO[:4], mask=HALF[:4])[0]
    filled = torch.cat([VIDEO[:4], torch.full((4, 3, 64, 64), 0.5)])
    whole = torch.cat([HALF[:4], torch.ones(4, 1, 64, 64)])
    assert torch.equal(short, clip(shared_pipe(), video=filled, mask=whole)[0])


def test_a_segment_continues_from_the_frames_that_it_was_laid_into() -> None:
    other = VIDEO.clone()
    other[:4, :, :, :32] = random(8, 4, 3, 64, 32)
    # the second segments keep the same, and what is made anew differs by what was before
    first, second = (clip(shared_pipe(), video=video, mask=HALF)[0, 1:] for video in (VIDEO, other))
    assert torch.allclose(first[..., :32], second[..., :32], atol=1e-6)
    assert (first - second)[..., 32:].abs().max() > 1e-5


def test_one_pixel_is_enough_for_a_latent_to_be_made_anew() -> None:
    mask = torch.zeros(1, 1, 8, 16, 16)
    mask[0, 0, 5, 9, 3] = 0.01
    zeros = torch.zeros(1, 16, 2, 2, 2)
    kept = RecordedSegment(torch.zeros(1, 3, 8, 16, 16), mask, zeros).overwrite(torch.ones_like(zeros), zeros, 0.5)
    assert kept[0, 0].flatten().tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_colours_are_those_of_the_recording_in_the_soft_edge() -> None:
    pixels = random(1, 1, 3, 12, 16, 16) - 0.5
    mask = torch.linspace(0, 1, 16).expand(1, 1, 12, 16, 16)
    shifted = pixels + torch.tensor([0.1, -0.05, 0.2]).view(1, 3, 1, 1, 1)
    found = RecordedSegment(pixels, mask, torch.zeros(0)).composite(shifted)
    assert torch.allclose(found, pixels, atol=1e-5)
    # where there is no edge nothing is known of the colours
    hard = (mask > 0.5).float()
    assert torch.equal(RecordedSegment(pixels, hard, torch.zeros(0)).composite(shifted)[..., 8:], shifted[..., 8:])


def test_a_network_that_was_trained_for_inpainting_sees_the_recording_too() -> None:
    seen: list[torch.Tensor | None] = []
    pipe = WanSpeechToVideoPipeline(transformer=trained(), vae=toy_vae())
    pipe.transformer.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["inpaint_latents"]), with_kwargs=True
    )
    frames = pipe(**CLIP, video=VIDEO[:4], mask=HALF[:4]).frames
    assert all(each is not None and each.shape[1] == 20 for each in seen)
    assert seen[0] is not None and seen[0][0, :4, 0, :, 0].eq(1).all() and seen[0][0, :4, 0, :, -1].eq(0).all()
    assert torch.allclose(frames[0, 0, ..., :32], VIDEO[3, ..., :32], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"video": VIDEO}, "Pass video and mask both, or neither"),
        ({"video": VIDEO, "mask": VIDEO}, r"mask is \(8, 3, 64, 64\); need \[F, 1, 64, 64\]"),
        ({"video": VIDEO[..., :32], "mask": HALF}, r"video is \(8, 3, 64, 32\); need \[F, 3, 64, 64\]"),
        ({"video": VIDEO, "mask": HALF, "inpaint_video": VIDEO, "inpaint_mask": HALF}, "either video or inpaint_video"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared_pipe()(**arguments(**given))

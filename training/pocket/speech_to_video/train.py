"""Train the toy S2V by flow matching on drawn talking avatars.

    python -m training.pocket.speech_to_video.train --corpus data/pocket/speech --weights weights/pocket \
        --run runs/training/speech_to_video --out weights/pocket/speech_to_video --minutes 8

(for several GPUs see `training/pocket/ranks.py`). Needs the trained `video_vae` and `audio_encoder`, and `text_encoder`
and `tokenizer` in the out folder; all of them stay frozen. The network is an unmodified `WanS2VTransformer3DModel`. Run
the same command again to resume.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from training.model.flow import flow_sigmas
from training.pocket.audio_encoder.train import SpeechBank
from training.pocket.flow import flow_error, noise_like, weighted_mean
from training.pocket.graphs import GraphedLoss
from training.pocket.loop import Plan, Training, add_plan_arguments, begin_with
from training.pocket.ranks import Ranks
from training.pocket.saving import save_own_parts
from training.pocket.speech.clips import Corpus
from training.pocket.speech_to_video.segments import SegmentBank, draw_segments
from training.pocket.text import load_words
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline

CONFIG = {
    "num_attention_heads": 3,
    "attention_head_dim": 64,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 768,
    "num_layers": 9,
    "audio_dim": 128,
    "num_audio_layers": 5,
    "num_audio_tokens": 4,
    "audio_inject_layers": (0, 2, 4, 6, 8),
}
FLOW_SHIFT = 3.0  # shift of the sampled noise levels towards more noise
# loss weights: mouths and other facial features cover little of the picture and matter most
MOUTH_WEIGHT, FEATURE_WEIGHT = 8.0, 3.0
# share of samples with text and audio both dropped, for classifier-free guidance; half as many drop one of them
DROPPED = 0.1


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=8.0, steps=100_000, batch=32, learning_rate=8e-4)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder that contains video_vae and audio_encoder")
    parser.add_argument("--out", type=Path, required=True, help="output folder, with text_encoder and tokenizer")
    parser.add_argument("--begin-with", type=Path, help="folder of a trained network to start from")
    parser.add_argument("--clips", type=int, default=2000, help="clips that each process draws")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    ranks = Ranks.joined(device)
    torch.manual_seed(0)
    network = WanS2VTransformer3DModel(**CONFIG).to(device).train()
    if arguments.begin_with:
        begin_with(network, arguments.begin_with)
    plan = Plan.of(arguments)
    training = Training(network, arguments.run, plan, weight_decay=0.01, ranks=ranks)
    vae = AutoencoderKLWan.from_pretrained(arguments.weights / "video_vae", torch_dtype=torch.float32).to(device).eval()
    listener = Wav2Vec2Model.from_pretrained(arguments.weights / "audio_encoder").to(device).eval()
    words = load_words(arguments.out, device)
    speech = SpeechBank(Corpus(arguments.corpus), "train", device)

    began = time.monotonic()
    # the step is part of the seed, so that a resumed session trains on new avatars
    seed = ranks.own(training.step)
    bank = draw_segments(arguments.clips, speech, vae, listener, words, seed=seed, size=arguments.pixels)
    print(f"drawn and encoded: {arguments.clips} clips in {time.monotonic() - began:.0f} s", flush=True)
    if device.type == "cuda":
        network.compile_repeated_blocks(fullgraph=True, dynamic=False)

    def loss(continued: bool, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return segment_loss(network, batch, continued)

    graphed = GraphedLoss(loss, network, arguments.graphs)

    def loss_of(number: int) -> dict[str, Tensor]:
        continued = number // ranks.world % 2 == 1  # the same on all ranks, since a continuation takes longer
        return graphed(continued, draw_batch(bank, arguments.batch, number, continued))

    training.run(loss_of)
    if ranks.first:
        with training.averaged():
            pipeline = WanSpeechToVideoPipeline(
                transformer=network.eval().to(torch.bfloat16),
                vae=vae,
                text_encoder=words[1].to(torch.bfloat16),
                tokenizer=words[0],
                audio_encoder=listener,
                audio_processor=Wav2Vec2FeatureExtractor.from_pretrained(arguments.weights / "audio_encoder"),
            )
            save_own_parts(pipeline, "speech_to_video", arguments.out)
    ranks.leave()


def draw_batch(bank: SegmentBank, count: int, number: int, continued: bool) -> dict[str, Tensor]:
    """Sample batch `number`: clips, noise levels, noise, and the conditions dropped for guidance."""
    device = bank.first.device
    generator = torch.Generator().manual_seed(number)
    rows = torch.randint(len(bank), (count,), generator=generator)
    dice = torch.rand(count, generator=generator)
    text_dropped = dice < 1.5 * DROPPED  # both, or only the text
    audio_dropped = (dice < DROPPED) | ((dice >= 1.5 * DROPPED) & (dice < 2 * DROPPED))
    batch = bank.batch(rows.to(device), continued, text_dropped.to(device))
    batch["audio_embeds"] = batch["audio_embeds"].masked_fill(audio_dropped.to(device)[:, None, None, None], 0.0)
    batch["sigma"] = flow_sigmas(count, generator, FLOW_SHIFT).to(device)
    batch["noise"] = noise_like(batch["target"], number)
    return batch


def segment_loss(network: WanS2VTransformer3DModel, batch: Mapping[str, Tensor], continued: bool) -> dict[str, Tensor]:
    """Flow-matching loss of first segments, or of continuations, weighted towards mouth and features."""
    clean, noise, mouth, features = (batch[name] for name in ("target", "noise", "mouth", "features"))
    conditions = ("encoder_hidden_states", "ref_latents", "motion_latents", "audio_embeds")
    level = batch["sigma"][:, None, None, None, None]
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=clean.device.type == "cuda"):
        predicted = network(
            hidden_states=torch.lerp(clean, noise, level),
            timestep=batch["sigma"] * 1000,
            motion_frames=73,
            drop_motion_frames=not continued,
            return_dict=False,
            **{name: batch[name] for name in conditions},
        )[0]
    error = flow_error(predicted, clean, noise)
    loss = weighted_mean(error, 1 + MOUTH_WEIGHT * mouth + FEATURE_WEIGHT * features)
    return {"loss": loss, "lips": weighted_mean(error, mouth), "features": weighted_mean(error, features)}


if __name__ == "__main__":
    main()

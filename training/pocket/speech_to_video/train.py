"""Train the toy S2V by flow matching on avatars that speak.

    python -m training.pocket.speech_to_video.train --corpus data/pocket/speech --weights weights/pocket \
        --run runs/training/speech_to_video --out weights/pocket/speech_to_video --minutes 8

(on several GPUs by `python -m torch.distributed.run --nproc-per-node N -m …`) needs the trained `video_vae` and `audio_encoder`, which stay where they are. The network is `WanS2VTransformer3DModel`
as it stands; its text encoder, which image_to_video shares, is trained along with it.
"""

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5EncoderModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from training.pocket.audio_encoder.train import SpeechBank
from training.pocket.flow import flow_loss, flow_sigmas
from training.pocket.loop import Plan, Training
from training.pocket.ranks import Ranks
from training.pocket.saving import save_own_parts
from training.pocket.speech.clips import Corpus
from training.pocket.speech_to_video.segments import SegmentBank, draw_segments
from training.pocket.text import build_text_encoder, embed, train_tokenizer
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
FLOW_SHIFT = 3.0
MOUTH_WEIGHT = 8.0
DROPPED = 0.1  # share of samples without text and voice, for classifier-free guidance; as many without one of them


class Speaker(nn.Module):
    """The network and the text encoder that learns with it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = WanS2VTransformer3DModel(**CONFIG)
        self.text_encoder: UMT5EncoderModel = build_text_encoder()


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder with video_vae and audio_encoder")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="of this sitting")
    parser.add_argument("--total-minutes", type=float, default=8.0, help="of the whole training")
    parser.add_argument("--steps", type=int, default=40000, help="of the whole training, at most")
    parser.add_argument("--clips", type=int, default=2000, help="drawn by each process")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="of each process")
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    ranks = Ranks.joined(device)
    speaker = Speaker().to(device).train()
    tokenizer = train_tokenizer()
    plan = Plan(arguments.steps, arguments.total_minutes, arguments.minutes, arguments.learning_rate)
    training = Training(speaker, arguments.run, plan, weight_decay=0.01, ranks=ranks)
    vae = AutoencoderKLWan.from_pretrained(arguments.weights / "video_vae", torch_dtype=torch.float32).to(device).eval()
    listener = Wav2Vec2Model.from_pretrained(arguments.weights / "audio_encoder").to(device).eval()
    speech = SpeechBank(Corpus(arguments.corpus), "train", device)

    began = time.monotonic()
    # a later sitting draws other people
    seed = ranks.own(training.step)
    bank = draw_segments(arguments.clips, speech, vae, listener, seed=seed, size=arguments.pixels)
    print(f"drawn and encoded: {arguments.clips} clips in {time.monotonic() - began:.0f} s", flush=True)
    if device.type == "cuda":
        speaker.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)

    def loss_of(step: int) -> dict[str, Tensor]:
        return segment_loss(speaker, bank, tokenizer, arguments.batch, step)

    training.run(loss_of)
    if ranks.first:
        save(training, speaker, vae, listener, tokenizer, arguments)
    ranks.leave()


def save(
    training: Training,
    speaker: Speaker,
    vae: AutoencoderKLWan,
    listener: Wav2Vec2Model,
    tokenizer: object,
    arguments: argparse.Namespace,
) -> None:
    """Write the pipeline's own parts with their averaged weights, in bfloat16."""
    with training.averaged():
        speaker.eval()
        pipeline = WanSpeechToVideoPipeline(
            transformer=speaker.transformer.to(torch.bfloat16),
            vae=vae,
            text_encoder=speaker.text_encoder.to(torch.bfloat16),
            tokenizer=tokenizer,
            audio_encoder=listener,
            audio_processor=Wav2Vec2FeatureExtractor.from_pretrained(arguments.weights / "audio_encoder"),
        )
        save_own_parts(pipeline, "speech_to_video", arguments.out)


def segment_loss(speaker: Speaker, bank: SegmentBank, tokenizer: object, count: int, step: int) -> dict[str, Tensor]:
    """The loss of one step: first segments and continuations in turn."""
    device = bank.first.device
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(len(bank.captions), (count,), generator=generator)
    continued = step % 2 == 1
    batch = bank.batch(rows.to(device), continued)
    clean, mouth = batch.pop("target"), batch.pop("mouth")
    dice = torch.rand(count, generator=generator)
    texts = [bank.captions[int(row)] for row in rows]
    for i, roll in enumerate(dice.tolist()):
        if roll < 1.5 * DROPPED:  # both, or the text alone
            texts[i] = ""
    silent = ((dice < DROPPED) | ((dice >= 1.5 * DROPPED) & (dice < 2 * DROPPED))).to(device)
    batch["audio_embeds"] = torch.where(silent[:, None, None, None], 0.0, batch["audio_embeds"])

    sigma = flow_sigmas(count, generator, FLOW_SHIFT).to(device)
    # on the device: millions of numbers a step take the CPU longer than the network takes the GPU
    noise = torch.randn(clean.shape, generator=torch.Generator(device).manual_seed(step), device=device)
    level = sigma[:, None, None, None, None]
    with torch.autocast(device.type, torch.bfloat16):
        predicted = speaker.transformer(
            hidden_states=(1 - level) * clean + level * noise,
            timestep=sigma * 1000,
            encoder_hidden_states=embed(texts, tokenizer, speaker.text_encoder),
            motion_frames=73,
            drop_motion_frames=not continued,
            return_dict=False,
            **batch,
        )[0]
    loss, lips = flow_loss(predicted, clean, noise, mouth, MOUTH_WEIGHT)
    return {"loss": loss, "lips": lips.detach()}


if __name__ == "__main__":
    main()

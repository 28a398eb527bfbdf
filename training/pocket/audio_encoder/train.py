"""Train a small Wav2Vec2Model to predict mouth tracks, visemes and loudness from speech.

    python -m training.pocket.speech.corpus --out data/pocket/speech
    python -m training.pocket.audio_encoder.train --corpus data/pocket/speech --run runs/training/audio_encoder \
        --out weights/pocket/audio_encoder --minutes 4

The published model is pretrained on thousands of hours of recorded people; this one is trained on synthetic voices with
augmentation (`training.pocket.speech.augment`). From the augmented audio it predicts, at 50 Hz, the mouth's eight
tracks, the viseme and the loudness of the clean voice. The heads are discarded after training; S2V uses the hidden
states of all layers. Run the same command again to resume.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from training.pocket.loop import Plan, Training, add_plan_arguments
from training.pocket.speech.augment import augment
from training.pocket.speech.clips import SAMPLES_PER_FRAME, Corpus
from training.pocket.speech.sentences import Split
from training.pocket.world.pose import MOUTH
from training.pocket.world.visemes import FPS, NAMES

FEATURE_RATE = 50  # Hz
CONFIG = Wav2Vec2Config(
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=384,
    conv_dim=[48, 64, 64, 64, 96, 96, 96],
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    conv_bias=True,
    num_conv_pos_embeddings=32,
    num_conv_pos_embedding_groups=8,
    hidden_dropout=0.05,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
    apply_spec_augment=False,
    vocab_size=32,
)


class Listener(nn.Module):
    """The encoder with its prediction heads.

    Args:
        config: config of the encoder.
    """

    def __init__(self, config: Wav2Vec2Config = CONFIG) -> None:
        super().__init__()
        self.encoder = Wav2Vec2Model(config)
        self.mouth = nn.Linear(config.hidden_size, len(MOUTH))
        self.viseme = nn.Linear(config.hidden_size, len(NAMES))
        self.loudness = nn.Linear(config.hidden_size, 1)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mouth [B, T, 8], viseme logits [B, T, V] and loudness [B, T] at 50 Hz for normalised audio [B, samples]."""
        states = self.encoder(audio).last_hidden_state
        return self.mouth(states), self.viseme(states), self.loudness(states)[..., 0]


def normalised(audio: Tensor) -> Tensor:
    """Normalise each clip [B, samples] to zero mean and unit variance, like the feature extractor."""
    mean = audio.mean(dim=1, keepdim=True)
    return (audio - mean) / torch.sqrt(audio.var(dim=1, keepdim=True, unbiased=False) + 1e-7)


def at_feature_rate(tracks: Tensor, length: int) -> Tensor:
    """Interpolate tracks [B, F, C] at 16 fps to [B, length, C] at 50 Hz, at the centres of the receptive fields."""
    times = (torch.arange(length, device=tracks.device) * 320 + 200) / 16_000
    position = (times * FPS - 0.5).clamp(0, tracks.shape[1] - 1)
    left = position.floor().long().clamp(max=tracks.shape[1] - 2)
    weight = (position - left)[None, :, None]
    return tracks[:, left] * (1 - weight) + tracks[:, left + 1] * weight


class SpeechBank:
    """All clips of one split, in device memory.

    Args:
        corpus: the speech corpus.
        split: "train" or "held_out".
        device: device to store them on.
    """

    def __init__(self, corpus: Corpus, split: Split, device: torch.device) -> None:
        corpus.preload(split, threads=8)
        self.clips = corpus.indices(split)
        frames = [corpus.clips[i].frames for i in self.clips]
        self.first = torch.tensor([0, *np.cumsum(frames)], device=device)
        self.frames = torch.tensor(frames)
        self.audio = torch.from_numpy(np.concatenate([corpus.samples(i) for i in self.clips])).half().to(device)
        self.mouth = torch.from_numpy(np.concatenate([corpus.mouth(i) for i in self.clips])).to(device)
        self.viseme = torch.from_numpy(np.concatenate([corpus.visemes(i) for i in self.clips])).to(device)
        loudness = np.concatenate([corpus.loudness(i) for i in self.clips])
        self.loudness = torch.from_numpy(loudness).float().to(device)

    def batch(self, count: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Audio [B, frames·1000], mouth [B, F, 8], viseme [B, F] and loudness [B, F] of random windows."""
        long_enough = torch.nonzero(self.frames >= frames)[:, 0]
        rows = long_enough[torch.randint(len(long_enough), (count,), generator=generator)]
        room = self.frames[rows] - frames + 1
        starts = (torch.rand(count, generator=generator) * room).long()
        first = self.first[rows.to(self.first.device)] + starts.to(self.first.device)
        index = first[:, None] + torch.arange(frames, device=first.device)
        samples = first[:, None] * SAMPLES_PER_FRAME + torch.arange(frames * SAMPLES_PER_FRAME, device=first.device)
        return self.audio[samples].float(), self.mouth[index], self.viseme[index], self.loudness[index]


def listening_loss(
    listener: Listener, audio: Tensor, mouth: Tensor, viseme: Tensor, loudness: Tensor
) -> dict[str, Tensor]:
    """Loss of the predicted mouth tracks, visemes and loudness, with the correlation of the opening."""
    said_mouth, said_viseme, said_loudness = listener(normalised(audio))
    length = said_mouth.shape[1]
    wanted = at_feature_rate(mouth, length)
    one_hot = at_feature_rate(F.one_hot(viseme, len(NAMES)).float(), length)
    loud = at_feature_rate((loudness / loudness.amax(dim=1, keepdim=True).clamp(min=1e-3))[..., None], length)[..., 0]
    mouth_error = (said_mouth.float() - wanted).square()
    cross_entropy = -(one_hot * said_viseme.float().log_softmax(dim=-1)).sum(dim=-1).mean()
    loudness_error = (said_loudness.float() - loud).square().mean()
    opening = torch.stack([said_mouth[..., 0].float().flatten(), wanted[..., 0].flatten()])
    return {
        # the opening gets more weight, since it is the most visible
        "loss": 4 * mouth_error.mean() + 8 * mouth_error[..., 0].mean() + 0.2 * cross_entropy + loudness_error,
        "mouth": mouth_error.mean().detach(),
        "opening_r": torch.corrcoef(opening)[0, 1].detach(),
        "viseme": cross_entropy.detach(),
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=4.0, steps=20_000, batch=48, learning_rate=8e-4)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=96, help="video frames per window")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    torch.manual_seed(0)
    listener = Listener().to(device).train()
    training = Training(
        listener,
        arguments.run,
        Plan.of(arguments),
        weight_decay=0.01,
    )
    corpus = Corpus(arguments.corpus)
    bank = SpeechBank(corpus, "train", device)
    held_out = SpeechBank(corpus, "held_out", device)

    def loss_of(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        audio, *truth = bank.batch(arguments.batch, arguments.frames, generator)
        audio = augment(audio, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = listening_loss(listener, audio, *truth)
        if step % 50 == 49:
            losses["held_out_opening_r"] = held_out_opening(listener, held_out)
        return losses

    training.run(loss_of)
    with training.averaged():
        listener.eval()
        print(f"held-out opening r = {float(held_out_opening(listener, held_out, 64)):.3f}")
        listener.encoder.save_pretrained(arguments.out)
        Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(arguments.out)


@torch.no_grad()
def held_out_opening(listener: Listener, bank: SpeechBank, count: int = 16) -> Tensor:
    """Pearson's r of predicted and true opening, over clean windows of held-out voices and sentences."""
    listener.eval()
    losses = listening_loss(listener, *bank.batch(count, 96, torch.Generator().manual_seed(1)))
    listener.train()
    return losses["opening_r"]


if __name__ == "__main__":
    main()

"""Training data of the toy S2V: latents of drawn talking avatars, audio features, and caption embeddings.

The clips have half the world's idle sway, and the reference picture shows the same person at another time of the same
motion. So the small network learns mainly the mouth; it has not the capacity to transfer every detail between arbitrary
poses.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import Wav2Vec2Model

from training.pocket.audio_encoder.train import SpeechBank, normalised
from training.pocket.speech.augment import augment
from training.pocket.text import Words, embed
from training.pocket.video_vae.latents import normalised_latents
from training.pocket.world.attributes import Split, sample_attributes
from training.pocket.world.captions import caption
from training.pocket.world.cells import feature_cells
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.motion import sample_actions, sample_motion
from training.pocket.world.pose import Pose
from training.pocket.world.truth import masks_of
from wanavatar_lab.s2v.audio_features import FEATURE_RATE, INTERPOLATED_RATE, hidden_states

FPS = 16
SEGMENT, MOTION = 80, 73  # frames
CLIP = 2 * SEGMENT  # a first segment and one that continues it
CALM = 0.5  # factor on the world's idle sway
MOVING = 6  # one clip in this many shows an action that its caption names
CAPTION_LENGTH = 64  # tokens
FIRST_MOTION = SEGMENT - MOTION  # first of the second segment's motion frames
# generic prompts that leave the looks to the picture; the first is the request's default
PLAIN = (
    "A person speaks to the camera with natural expressions.",
    "a person is talking",
    "a person speaks to the camera",
    "someone is talking",
    "a portrait of a person who speaks",
    "talking head",
    "an avatar that talks",
    "a talking avatar with a natural expression",
)


@dataclass
class SegmentBank:
    """N clips of two segments each, in device memory.

    Attributes:
        reference: [N, z, 1, h, w], the reference picture: eyes open, any mouth.
        first: [N, z, 20, h, w] latents of frames 0 to 79 that follow the reference.
        motion: [N, z, 19, h, w] latents of frames 7 to 79.
        second: [N, z, 20, h, w] latents of frames 80 to 159 that follow the motion frames.
        mouths: [N, 2, 20, h, w], share of each latent cell covered by lips.
        features: [N, 2, 20, h, w], share of each latent's frames in which the cell contains an eye, a brow or lips.
        audio: [N, layers, dim, 160] at 16 fps.
        text: [N, L, d], the caption's embedding.
        no_text: [1, L, d], embedding of the empty text.
    """

    reference: Tensor
    first: Tensor
    motion: Tensor
    second: Tensor
    mouths: Tensor
    features: Tensor
    audio: Tensor
    text: Tensor
    no_text: Tensor

    def __len__(self) -> int:
        return len(self.text)

    def batch(self, rows: Tensor, continued: bool, text_dropped: Tensor) -> dict[str, Tensor]:
        """Training batch of the clips `rows`: their first segment, or the second if `continued`.

        Args:
            text_dropped: [B], where to drop the text (classifier-free guidance).
        """
        frames = slice(SEGMENT, CLIP) if continued else slice(0, SEGMENT)
        return {
            "target": (self.second if continued else self.first)[rows].float(),
            "ref_latents": self.reference[rows].float(),
            "motion_latents": self.motion[rows].float(),
            "audio_embeds": self.audio[rows][..., frames].float(),
            "encoder_hidden_states": torch.where(text_dropped[:, None, None], self.no_text, self.text[rows]).float(),
            "mouth": self.mouths[rows, int(continued)].float(),
            "features": self.features[rows, int(continued)].float(),
        }


@torch.no_grad()
def draw_segments(
    count: int,
    speech: SpeechBank,
    vae: AutoencoderKLWan,
    listener: Wav2Vec2Model,
    words: Words,
    seed: int,
    size: int = 128,
    split: Split = "train",
    chunk: int = 16,
) -> SegmentBank:
    """Draw and encode `count` talking clips of ten seconds.

    Args:
        speech: speech with its mouth tracks.
        vae: latents are normalised with its config.
        listener: the trained audio encoder, in evaluation mode.
        words: the tokenizer and the trained text encoder, in evaluation mode.
        seed: of all random draws.
        size: width and height of the pictures.
        chunk: clips encoded at a time, to bound memory.
    """
    device = speech.audio.device
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, chunk):
        clips = min(chunk, count - start)
        chunk_seed = seed * 1_000_003 + start
        generator = torch.Generator().manual_seed(chunk_seed)
        voices, mouth, _, _ = speech.batch(clips, CLIP, generator)
        attributes = sample_attributes(clips, chunk_seed, split)
        drawn = enumerate(sample_actions(clips, chunk_seed))
        actions = [names if i % MOVING == 1 else () for i, names in drawn]
        pose = sample_motion(clips, CLIP, chunk_seed, actions, calm=CALM).speaking(mouth.cpu())
        # without the action: the reference shows the pose before it
        still = sample_motion(clips, CLIP, chunk_seed, calm=CALM).having(blink=0.0).speaking(mouth.cpu())
        moment = torch.randint(CLIP, (clips,), generator=generator)
        picture = Pose(still.values[torch.arange(clips), moment][:, None])
        pixels = render(attributes, Pose(torch.cat([picture.values, pose.values], dim=1)), (size, size), device) * 2 - 1
        sheet, latents = sheet_of(attributes, pose).to(device), (clips, 2, SEGMENT // 4, 4)
        lips = F.avg_pool2d(masks_of(sheet, size, size)[1].float()[:, None], 8)[:, 0]
        said = [
            PLAIN[(start + i) // 4 % len(PLAIN)]
            if i % 4 == 2
            else caption(attributes, i, chunk_seed, actions=actions[i], brief=i % 8 == 5, must=("hair",))
            for i in range(clips)
        ]
        pixels = pixels.transpose(1, 2)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            first = normalised_latents(vae, pixels[:, :, : SEGMENT + 1])
            second = normalised_latents(vae, pixels[:, :, 1 + FIRST_MOTION :])
            states = torch.stack(hidden_states(listener, normalised(augment(voices, generator))), dim=1).float()
        parts.append(
            {
                "reference": first[:, :, :1],
                "first": first[:, :, 1:],
                "motion": second[:, :, : (MOTION + 3) // 4],
                "second": second[:, :, (MOTION + 3) // 4 :],
                "mouths": lips.unflatten(0, latents).mean(dim=3),
                "features": feature_cells(sheet, size).float().unflatten(0, latents).mean(dim=3),
                "audio": at_video_rate(states, CLIP),
                "text": embed(said, *words, length=CAPTION_LENGTH),
            }
        )
    joined = {name: torch.cat([part[name].bfloat16() for part in parts]) for name in parts[0]}
    return SegmentBank(**joined, no_text=embed([""], *words, length=CAPTION_LENGTH).bfloat16())


def at_video_rate(states: Tensor, frames: int) -> Tensor:
    """Resample hidden states [B, layers, T, dim] at 50 Hz to [B, layers, dim, frames] at 16 fps, as in inference."""
    length = states.shape[2]
    total = int(length / FEATURE_RATE * INTERPOLATED_RATE)
    # round half to even, as torch and numpy both do
    nearest = torch.round(torch.arange(frames, dtype=torch.float64) / FPS * INTERPOLATED_RATE)
    position = (nearest * (length - 1) / (total - 1)).to(states.device)
    left = position.floor().long().clamp(max=length - 1)
    right = (left + 1).clamp(max=length - 1)
    weight = (position - left).float()[:, None]
    mixed = states[:, :, left] * (1 - weight) + states[:, :, right] * weight
    mixed = torch.where((nearest < total).to(states.device)[:, None], mixed, torch.zeros_like(mixed))
    return mixed.transpose(2, 3)

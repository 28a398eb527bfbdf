"""Sources of talking clips: the pipeline with its weights, or the renderer, to validate the measurement."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from training.pocket.judge.pictures import decode, encode, render_sheet
from training.pocket.talking.spoken import Spoken
from training.pocket.world.attributes import Attributes, sample_attributes
from training.pocket.world.figure import sheet_of
from training.pocket.world.motion import sample_motion
from training.pocket.world.pose import Pose
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanSpeechToVideoPipeline
from wanavatar_lab.s2v.components import load_components

SIZE = 128
# The pipeline drops the first frames of the first segment: frame 0 of a clip matches the sound at 3/16 s.
START_FRAME = 3


@dataclass(frozen=True)
class Talking:
    """A talking clip.

    Attributes:
        frames: uint8 [F, H, W, 3].
        start_frame: index in the sound, in video frames, of the first frame.
        reference: uint8 [H, W, 3], the reference picture.
    """

    frames: NDArray[np.uint8]
    start_frame: int
    reference: NDArray[np.uint8]


class Source(Protocol):
    """Makes the clip in which held-out avatar number `seed` says `spoken`; deterministic."""

    def talk(self, spoken: Spoken, seed: int) -> Talking: ...


class Pipeline:
    """`WanSpeechToVideoPipeline` with the toy weights, called like in the stage."""

    def __init__(self, weights: Path, *, device: str = "cpu", steps: int | None = None, size: int = SIZE) -> None:
        """Load the pipeline.

        Args:
            weights: weights folder, laid out as in the profile.
            steps: denoising steps; None takes the profile's.
            size: width and height of the pictures, a multiple of 64.

        Raises:
            WeightsError: a part is missing or does not fit.
        """
        profile, stage = PROFILES["pocket"], SpeechToVideo.stage
        components = load_components(
            profile.weights(stage, weights),
            torch_dtype=getattr(torch, profile.dtype(device)),
            device=device,
            elsewhere=profile.shared_parts(stage, weights),
        )
        self.pipeline = WanSpeechToVideoPipeline(**components)
        self.pipeline.set_progress_bar_config(disable=True)
        self.request = SpeechToVideo(profile="pocket", image="drawn", audio="spoken")
        self.steps = steps or self.request.num_inference_steps
        self.size = size

    def talk(self, spoken: Spoken, seed: int) -> Talking:
        """Generate the clip; see `Source`."""
        picture = reference_picture(seed, self.size)
        made = self.pipeline(
            image=picture,
            audio=spoken.sound,
            prompt=self.request.prompt,
            negative_prompt=self.request.negative_prompt,
            height=self.size,
            width=self.size,
            frames_per_segment=self.request.frames_per_segment,
            num_inference_steps=self.steps,
            guidance_scale=self.request.guidance_scale,
            flow_shift=self.request.the_flow_shift(),
            seed=seed,
            output_type="np",
        )
        last = spoken.frames - made.start_frame
        return Talking((made.frames[0][:last] * 255).round().astype(np.uint8), made.start_frame, picture)


class Drawn:
    """Rendered ground truth passed through the VAE: the best result that any network could reach."""

    def __init__(self, vae: Path | None) -> None:
        """Render, and pass through the VAE in the folder `vae`; None skips the VAE."""
        self.vae: AutoencoderKLWan | None = None
        if vae is not None:
            # in float32: a CPU without AVX-512 takes forty times as long for convolutions in bfloat16
            self.vae = AutoencoderKLWan.from_pretrained(vae, torch_dtype=torch.float32).eval().requires_grad_(False)

    def talk(self, spoken: Spoken, seed: int) -> Talking:
        """Render the clip; see `Source`."""
        pose = sample_motion(1, spoken.frames, seed).speaking(torch.from_numpy(spoken.mouth))
        frames = softened(avatar(seed), pose, self.vae)[START_FRAME:]
        return Talking(frames, START_FRAME, reference_picture(seed))


def avatar(seed: int) -> Attributes:
    """Held-out avatar number `seed`."""
    return sample_attributes(1, seed + 1_000_000, "held_out")


def reference_picture(seed: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Avatar number `seed` with the mouth shut, at another time than in its clips, uint8 [size, size, 3]."""
    pose = sample_motion(1, 1, seed, start=60.0)
    return _bytes(render_sheet(sheet_of(avatar(seed), pose), size, size))[0]


def softened(
    attributes: Attributes, pose: Pose, vae: AutoencoderKLWan | None, *, at_a_time: int = 80
) -> NDArray[np.uint8]:
    """Draw an avatar's clip and pass it through a VAE in parts of `at_a_time` (4n) frames, uint8 [F, SIZE, SIZE, 3]."""
    drawn = render_sheet(sheet_of(attributes, pose), SIZE, SIZE)
    if vae is None:
        return _bytes(drawn)
    count = len(drawn)
    # pad to whole latents of four frames each; the padding is cut off at the end
    padded = torch.cat([drawn, drawn[-1:].expand(-count % 4 + 1, -1, -1, -1)])
    parts, start = [], 0
    while start < count:
        # each chunk starts four frames early, since the VAE encodes the first frame of a chunk alone
        early = min(start, 4)
        part = padded[start - early : start + at_a_time + 1]
        parts.append(decode(vae, encode(vae, part[None]))[0][early : early + at_a_time])
        start += at_a_time
    return _bytes(torch.cat(parts)[:count])


def _bytes(pictures: Tensor) -> NDArray[np.uint8]:
    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

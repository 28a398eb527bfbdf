"""What a run's network makes of held-out sounds, as clips with their sound, every so many steps.

    <run>/clips/true-<sample>.mp4        the clip as it is, through the VAE: what a perfect network would make
                000000-<sample>.mp4      made by the base
                000060-<sample>.mp4      made after step 60, from the same noise

The same clips move in TensorBoard, beside their sound.
"""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from numpy.typing import NDArray
from torch import Tensor

from training.config.config import TrainingConfig
from training.data.samples import Samples
from training.loop.run_folder import CLIPS
from training.loop.run_log import Log
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import Audio, read_audio, write_talking_clip
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.s2v.pipeline import denoise_segment
from wanavatar_lab.settings import read_settings
from wanavatar_lab.wan.latents import LatentCodec
from wanavatar_lab.wan.scheduler import flow_unipc

FPS = 16
MOST = 2  # clips
_SEED = 7


class SampleClips:
    """Makes the sample clips of a run.

    Args:
        config: of the run.
        held_out: its first segments are spoken, at most `MOST` of them.
        accelerator: of this process. All processes compute, since a network may be spread over them; the first writes.
        log: of the first process.

    Raises:
        LabError: nothing is held out, or its sound is not beside the samples.
        WeightsError: the VAE is not there.
    """

    def __init__(self, config: TrainingConfig, held_out: Samples, accelerator: Accelerator, log: Log | None) -> None:
        self.config, self.held_out, self.accelerator, self.log = config, held_out, accelerator, log
        self.folder = config.run / CLIPS
        first = [row for row, entry in enumerate(held_out.entries) if '"motion"' not in entry.bucket]
        # one of each clip
        by_clip = {held_out.entries[row].clip: row for row in reversed(first)}
        self.rows = sorted(by_clip.values())[:MOST]
        if not self.rows:
            raise LabError(
                f"Sample clips need a clip that is held out, and {held_out.folder} has none. Prepare with --hold-out 1 "
                "or more, or set sample_every to 0."
            )
        self.sounds = [self._sound(row) for row in self.rows]
        request = SpeechToVideo(profile=config.profile, image="held out", audio="held out")
        self.guidance = request.guidance_scale
        self.codec = LatentCodec(_load_vae(config.profile, accelerator.device)) if log else None

    @torch.no_grad()
    def make(self, network: WanS2VTransformer3DModel, step: int) -> list[Path]:
        """Sample each clip with the network as it is now; gives the files that this process wrote."""
        training, made = network.training, []
        network.eval()
        for number, (row, sound) in enumerate(zip(self.rows, self.sounds, strict=True)):
            name = self.held_out.entries[row].name
            batch = self.held_out.batch([row], self.accelerator.device)
            latents = self._sampled(network, batch, number)
            if self.log is None:
                continue
            true = self.folder / f"true-{name}.mp4"
            if not true.is_file():
                self._write(true, batch["reference"], batch["target"], sound)
            made.append(self.folder / f"{step:06d}-{name}.mp4")
            frames = self._write(made[-1], batch["reference"], latents, sound)
            self.log.show_clip(f"clips/{number}", step, frames, FPS, sound)
        network.train(training)
        return made

    def is_made(self, step: int) -> bool:
        """Whether the clips of a step are there."""
        return all((self.folder / f"{step:06d}-{self.held_out.entries[row].name}.mp4").is_file() for row in self.rows)

    def _sampled(self, network: WanS2VTransformer3DModel, batch: dict[str, Tensor], number: int) -> Tensor:
        device = self.accelerator.device
        noise = torch.randn(batch["target"].shape, generator=torch.Generator().manual_seed(_SEED + number)).to(device)
        latents = denoise_segment(
            network,
            flow_unipc(self.config.shift),
            noise,
            prompt_embeds=[batch["text"], batch["no_text"]][: 2 if self.guidance > 1 else 1],
            audio_embeds=batch["audio"],
            num_inference_steps=self.config.sample_steps,
            guidance_scale=self.guidance,
            ref_latents=batch["reference"],
        )
        assert latents is not None  # no step stops it
        return latents

    def _write(self, path: Path, reference: Tensor, latents: Tensor, sound: Audio) -> NDArray[np.uint8]:
        """Decode a segment behind its reference, and write it; gives its frames [F, H, W, 3]."""
        assert self.codec is not None
        # the reference has a frame of its own, which is not part of the segment
        pixels = self.codec.decode(torch.cat([reference, latents.float()], dim=2))[0, :, 1:]
        levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_talking_clip(path, levels, fps=FPS, audio=sound, start_frame=0)
        return levels

    def _sound(self, row: int) -> Audio:
        path = self.held_out.folder / f"{self.held_out.entries[row].name}.wav"
        if not path.is_file():
            raise LabError(f"{path} is missing, the sound of a sample clip. Encode the data again, it takes seconds.")
        return read_audio(path)


def _load_vae(profile: str, device: torch.device) -> torch.nn.Module:
    weights_dir, stage = read_settings().weights_dir, SpeechToVideo.stage
    others = ("transformer", "text_encoder", "tokenizer", "audio_encoder", "audio_processor")
    return load_components(
        PROFILES[profile].weights(stage, weights_dir),
        device=device,
        elsewhere={
            name: place for name, place in PROFILES[profile].shared_parts(stage, weights_dir).items() if name == "vae"
        },
        leave_out=others,
    )["vae"]

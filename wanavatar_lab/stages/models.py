"""What the models of the three stages that denoise latents share: where they come from and how they are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from wanavatar_lab.memory.apply_offload import OffloadableModels
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.latent_preview import fit_video_colours
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH
from wanavatar_lab.weights import append_download_command, missing_weights
from wanavatar_lab.weights.folders import fingerprint


@dataclass
class StageModels(OffloadableModels):
    """The models of a stage, kept in the worker's model cache. A stage derives from it and implements `read`.

    Attributes:
        folder: of the weights.
        elsewhere: folders of parts that other stages share, by name.
        dtype: of the networks.
        device: where they compute.
        fingerprint: of the weights, for the manifest.
        pipeline: all components.
        colours: from the VAE's latents to RGB, for previews.
    """

    folder: Path
    elsewhere: Mapping[str, Path]
    dtype: torch.dtype
    device: str
    fingerprint: dict[str, str] = field(init=False)
    pipeline: Any = field(init=False)
    colours: torch.Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint(self.folder, self.elsewhere.values())
        self.read()
        self.colours = self.fit_colours()

    def fit_colours(self) -> torch.Tensor | None:
        """The map `colours` of the pipeline's VAE; here of a video VAE."""
        return fit_video_colours(self.pipeline.vae)

    def say_cut_prompts(self, request: ImageToVideo | SpeechToVideo, context: StageContext) -> None:
        """Log how many tokens of the prompts a Wan network does not read."""
        for name in ("prompt", "negative_prompt"):
            text = prompt_clean(getattr(request, name))  # as the pipelines do
            context.say_tokens(name, len(self.pipeline.tokenizer(text, verbose=False).input_ids), TEXT_LENGTH)

    @classmethod
    def load(cls, stage: str, profile: Profile, device: str) -> Self:
        """Load the models of a stage and a profile into main memory.

        Raises:
            WeightsError: they are missing, or not what the pipeline needs; with the command that downloads them.
        """
        weights_dir = read_settings().weights_dir
        folder = profile.weights(stage, weights_dir)
        if not folder.is_dir():
            raise missing_weights(stage, folder)
        with append_download_command(folder):
            return cls(folder, profile.shared_parts(stage, weights_dir), getattr(torch, profile.dtype(device)), device)

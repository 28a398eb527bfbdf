"""Stages whose models are random numbers instead of files: everything but the reading is what a worker runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from wanavatar_lab.bench.random_models import SIZES, Sizes, random_pipeline, write_random_upscaler
from wanavatar_lab.bench.watch import Watch, wait
from wanavatar_lab.memory import Choice, Work
from wanavatar_lab.memory.components import PUBLISHED
from wanavatar_lab.memory.place import Resident, networks
from wanavatar_lab.profiles import Profile
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.stages import image_to_video, speech_to_video, text_to_image, upscale
from wanavatar_lab.stages.upscale import Network


class _Random(Resident):
    """A pipeline with random weights that is watched.

    Attributes:
        watch: of its networks.
        choice: what `place` chose last.
        place_seconds: how long that took.
    """

    stage: str
    sizes: Sizes
    watch: Watch
    choice: Choice | None = None
    place_seconds: float = 0.0

    def read(self) -> None:
        self.pipeline = random_pipeline(self.stage, self.sizes, self._dtype())
        self.watch = Watch(networks(self.pipeline))

    def place(self, offload: str, work: Work) -> Choice:
        wait()
        start = time.perf_counter()
        self.choice = super().place(offload, work)
        wait()
        self.place_seconds = time.perf_counter() - start
        return self.choice

    def _dtype(self) -> torch.dtype:
        raise NotImplementedError


class _Picture(_Random, text_to_image.Models):
    stage = "text_to_image"

    def __init__(self, sizes: Sizes, profile: Profile, device: str, folder: Path) -> None:
        self.sizes = sizes
        super().__init__(profile, device, folder)

    def _dtype(self) -> torch.dtype:
        return cast(torch.dtype, getattr(torch, self.profile.dtype(self.device)))


class _Moving(_Random, image_to_video.Models):
    stage = "image_to_video"

    def __init__(self, sizes: Sizes, profile: Profile, device: str, folder: Path) -> None:
        self.sizes = sizes
        super().__init__(folder, {}, getattr(torch, profile.dtype(device)), device)

    def _dtype(self) -> torch.dtype:
        return self.dtype


class _Talking(_Random, speech_to_video.Models):
    stage = "speech_to_video"

    def __init__(self, sizes: Sizes, profile: Profile, device: str, folder: Path) -> None:
        self.sizes = sizes
        super().__init__(folder, {}, getattr(torch, profile.dtype(device)), device)

    def _dtype(self) -> torch.dtype:
        return self.dtype


class _Upscaling(upscale.Models):
    """The network of a file of random numbers, watched."""

    watch: Watch | None = None

    def network(self, weights: str | None = None) -> Network:
        network = super().network(weights)
        if self.watch is None:
            self.watch = Watch({"network": network.module})
        return network


class RandomStage(ModuleType):
    """A stage for `ModelCache`: `load` makes random weights, `run` is the stage's own.

    Args:
        stage: which.
        size: published or tiny.
        folder: where upscale's file is written.
    """

    _MODULES: Mapping[str, ModuleType] = {
        "text_to_image": text_to_image,
        "upscale": upscale,
        "image_to_video": image_to_video,
        "speech_to_video": speech_to_video,
    }

    def __init__(self, stage: str, size: str, folder: Path) -> None:
        super().__init__(f"random_{stage}")
        self._stage, self._size, self._folder = stage, size, folder

    def load(self, profile: Profile, device: str) -> Any:
        """Models in main memory."""
        if self._stage == "upscale":
            file = self._folder / "RealESRGAN_random.pth"
            write_random_upscaler(file, SIZES[self._size])
            models = _Upscaling(file, device)
            models.network()
            return models
        # has no files whose hashes a manifest could name
        empty = self._folder / "no_files"
        empty.mkdir(exist_ok=True)
        made = {kind.stage: kind for kind in (_Picture, _Moving, _Talking)}[self._stage]
        return made(SIZES[self._size], profile, device, empty)

    def bytes_to_load(self) -> int:
        """Main memory that its networks take; tiny ones are not worth counting."""
        if self._size == "tiny":
            return 0
        return sum(each.component().gpu_bytes for each in PUBLISHED[self._stage])

    def run(self, request: Any, models: Any, context: Any) -> list[Artifact]:
        """As the stage itself."""
        return list(self._MODULES[self._stage].run(request, models, context))

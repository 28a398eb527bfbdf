"""Progress of a clip that is made segment by segment, each of them denoised and then decoded."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wanavatar_lab.memory import Workload, decoding_share, this_machine
from wanavatar_lab.memory.activations import tiles_of
from wanavatar_lab.memory.apply_offload import OffloadableModels
from wanavatar_lab.stages.context import StageContext


class SegmentProgress:
    """Reports denoising and decoding, each with the part of its segment's time that it takes.

    That part is estimated from floating-point operations until a segment is done, and measured from then on.

    Args:
        context: gets the reports.
        workload: of one segment.
        models: of the stage, placed on their devices.
        segments: how many there are; None for a clip that has no segments to count.
    """

    def __init__(
        self,
        context: StageContext,
        workload: Workload,
        models: OffloadableModels,
        segments: int | None,
    ) -> None:
        self._context, self._workload, self._models, self._segments = context, workload, models, segments
        self._tiled = bool(models.choice and models.choice.tiled)
        tiles, size = tiles_of(workload.stage), (workload.width, workload.height)
        whole = not self._tiled or max(size) <= tiles.side
        self._tiles = 1 if whole else math.prod(len(tiles.widths(side)) for side in size)
        self._segment = self._calls = self._decoded = 0
        self._begun = self._denoised_at = self._decoding = 0.0

    def begin(self, latents: int) -> None:
        """The next segment begins.

        Args:
            latents: latent frames that will be decoded for it, those before the new ones included.
        """
        now = time.monotonic()
        if self._segment:
            self._decoding = (now - self._denoised_at) / max(now - self._begun, 1e-9)
        else:
            machine = this_machine(self._models.device, 1)
            found = self._models.components()
            self._decoding = decoding_share(self._workload, found, latents, machine, tiled=self._tiled)
        self._segment, self._begun, self._calls, self._decoded = self._segment + 1, now, latents * self._tiles, 0
        self._report("denoise", 0, self._workload.steps)

    def denoised(self, steps: int) -> None:
        """So many steps of the segment are done; after the last one it is decoded."""
        self._report("denoise", steps, self._workload.steps)
        if steps == self._workload.steps:
            self._denoised_at = time.monotonic()
            self._report("decode", 0, self._calls)

    @contextmanager
    def watching(self, vae: Any) -> Iterator[None]:
        """Report what the autoencoder decodes meanwhile: it decodes a few latent frames, of a tile, at a time."""

        def decoded(_: Any, given: tuple[Any, ...], __: Any) -> None:
            self._decoded += given[0].shape[2]
            self._report("decode", min(self._decoded, self._calls), self._calls)

        hook = vae.decoder.register_forward_hook(decoded)
        try:
            yield
        finally:
            hook.remove()

    def _report(self, phase: str, step: int, steps: int) -> None:
        edge = 1 - self._decoding
        place = {"segment": self._segment, "segments": self._segments} if self._segments else {}
        part = (0.0, edge) if phase == "denoise" else (edge, 1.0)
        self._context.progress(phase, step, steps, part=part, **place)

"""What a run says of itself: a line of JSON for every event, and the same numbers for TensorBoard."""

import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from training.loop.run_folder import METRICS, TENSORBOARD, logged_step
from wanavatar_lab.media import Audio

# by kind, what is a curve: errors of the base are those of no steps of training. TensorBoard opens on the first group
CURVES = {"train": "train", "base": "validation", "validation": "validation"}


class Log:
    """The log of one run, written by its first process.

    Lines of steps after the one that a run goes on from are taken out: they will come again.
    """

    def __init__(self, run: Path, step: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.file = run / METRICS
        if self.file.is_file():
            kept = [line for line in self.file.read_text().splitlines() if logged_step(line) <= step]
            self.file.write_text("".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(run / TENSORBOARD, purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Note named numbers of a step; what is no number is left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **finite}
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if kind in CURVES:
            for name, value in finite.items():
                self.board.add_scalar(f"{CURVES[kind]}/{name}", value, step)

    def show_clip(self, name: str, step: int, frames: NDArray[np.uint8], fps: float, sound: Audio) -> None:
        """Show a clip [F, H, W, 3] that moves, and its sound, in TensorBoard."""
        pictures = [Image.fromarray(frame) for frame in frames]
        stream = io.BytesIO()
        # TensorBoard has no video; a moving picture is what its image is, and its sound stands beside it
        pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
        height, width = frames.shape[1:3]
        moving = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=stream.getvalue())
        writer = self.board._get_file_writer()
        writer.add_summary(Summary(value=[Summary.Value(tag=name, image=moving)]), step)
        self.board.add_audio(f"{name}/sound", torch.from_numpy(sound.samples.mean(axis=1)), step, sound.rate)

    def close(self) -> None:
        """Write what is still held back."""
        self.board.close()

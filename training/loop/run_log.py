"""The log that a run writes: a line of JSON per event, and the same numbers for TensorBoard."""

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
from wanavatar_lab.files import report_write_errors, write_text
from wanavatar_lab.media import Audio

# the curves' group in TensorBoard, by kind of line. The base's errors are the first point of validation's curves, and
# TensorBoard opens on the first group by name
CURVES = {"train": "train", "base": "validation", "validation": "validation"}


class Log:
    """The log of one run, written by its first process.

    Lines of steps after `step`, from which the run resumes, are removed: those steps are computed again.
    """

    def __init__(self, run: Path, step: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.file = run / METRICS
        if self.file.is_file():
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
            # damaged lines go too: a line that is cut short would swallow the next one
            kept = [line for line in lines if 0 <= logged_step(line) <= step]
            write_text(self.file, "".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(run / TENSORBOARD, purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Log named numbers of a step; those that are not finite are left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **finite}
        with report_write_errors(self.file), open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if kind in CURVES:
            for name, value in finite.items():
                self.board.add_scalar(f"{CURVES[kind]}/{name}", value, step)

    def show_clip(self, name: str, step: int, frames: NDArray[np.uint8], fps: float, sound: Audio) -> None:
        """Show a clip [F, H, W, 3] and its sound in TensorBoard."""
        pictures = [Image.fromarray(frame) for frame in frames]
        stream = io.BytesIO()
        # TensorBoard plays no video with sound: the frames are an animated GIF, and the sound is beside it
        pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
        height, width = frames.shape[1:3]
        moving = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=stream.getvalue())
        writer = self.board._get_file_writer()
        writer.add_summary(Summary(value=[Summary.Value(tag=name, image=moving)]), step)
        self.board.add_audio(f"{name}/sound", torch.from_numpy(sound.samples.mean(axis=1)), step, sound.rate)

    def close(self) -> None:
        """Write what is buffered."""
        self.board.close()

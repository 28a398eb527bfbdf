"""The log that a run writes: a line of JSON per event, and the same numbers for TensorBoard."""

import io
import json
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.tensorboard import SummaryWriter

from training.loop.run_folder import CLIPS, METRICS, TENSORBOARD, logged_step
from wanavatar_lab.files import entries, remove, report_write_errors, write_text
from wanavatar_lab.media import Audio

# the curves' group in TensorBoard, by kind of line; the base's errors are the first point of validation's curves
CURVES = {"base": "validation", "validation": "validation", "samples": "samples"}
# those of a training step are in groups by what they are: the beginnings of names, and what stands for these
_BEGINNINGS = {
    "loss_of_branch_": "loss/",
    "loss_": "loss/",
    "gradient_norm_of_": "gradient/",
    "error_of_branch_": "error/branch_",
    "error_from_": "error/",
}
_GROUPS = {
    "loss": "loss",
    "gradient_norm": "gradient",
    **dict.fromkeys(("error", "face", "lip", "background", "motion"), "error"),
    **dict.fromkeys(("face_area", "lip_area", "fell_back"), "masks"),
}
_TINTS = ((0.0, 0.62, 0.45), (0.84, 0.37, 0.0))  # of face and lips


def step_tag(name: str) -> str:
    """What a number of a training step is called in TensorBoard: its group, and its name there."""
    for begins, group in _BEGINNINGS.items():
        if name.startswith(begins):
            return group + name.removeprefix(begins)
    return f"{_GROUPS.get(name, 'step')}/{name}"


def say(accelerator: Accelerator, text: str) -> None:
    """Print a line once for all processes of a run, where accelerate's own prints it on every machine."""
    if accelerator.is_main_process:
        print(text, flush=True)


class Log:
    """The log of one run, written by its first process.

    Lines and sample clips of steps after `step`, from which the run resumes, are removed: those steps are computed
    again, and until then their clips would be taken for the latest. A run that begins at step 0 computes all of them,
    the base's errors and clips too.

    Raises:
        DiskFull: by any method, there is no room.
    """

    def __init__(self, run: Path, step: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.file = run / METRICS
        if self.file.is_file():
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
            # damaged lines go too: a line that is cut short would swallow the next one
            kept = [line for line in lines if step and 0 <= logged_step(line) <= step]
            write_text(self.file, "".join(f"{line}\n" for line in kept))
        for clip in entries(run / CLIPS, "*.mp4"):
            made_at = clip.name.partition("-")[0]
            if made_at.isdecimal() and int(made_at) > step:
                remove(clip)
        self._folder = run / TENSORBOARD
        with self._writing():
            self.board = SummaryWriter(self._folder, purge_step=step + 1 if step else 0)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Log named numbers of a step; those that are not finite are left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **finite}
        with report_write_errors(self.file), open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if kind == "train" or kind in CURVES:
            with self._writing():
                for name, value in finite.items():
                    tag = step_tag(name) if kind == "train" else f"{CURVES[kind]}/{name}"
                    self.board.add_scalar(tag, value, step)

    def show_config(self, step: int, settings: Mapping[str, Any]) -> None:
        """Show the settings of a start, at the step from which it goes on, as a table in TensorBoard."""
        rows = "\n".join(f"| {name} | {json.dumps(value)} |" for name, value in settings.items())
        with self._writing():
            self.board.add_text("config", f"| field | value |\n| --- | --- |\n{rows}", step)

    def show_masks(self, name: str, step: int, frames: NDArray[np.uint8], face: Tensor, lip: Tensor) -> None:
        """Show frames [F, H, W, 3] beside each other, the face tinted green and the lips red by masks [F, h, w]."""
        size = frames.shape[1:3]
        weights = [interpolate(mask[:, None].float().cpu(), size=size)[:, 0, ..., None] for mask in (face, lip)]
        shown = torch.from_numpy(frames).float() / 255
        for weight, colour in zip(weights, _TINTS, strict=True):
            shown = torch.lerp(shown, torch.tensor(colour).expand_as(shown), 0.5 * weight)
        with self._writing():
            self.board.add_image(name, torch.cat([*shown], dim=1), step, dataformats="HWC")

    def show_clip(self, name: str, step: int, frames: NDArray[np.uint8], fps: float, sound: Audio) -> None:
        """Show a clip [F, H, W, 3] and its sound in TensorBoard."""
        pictures = [Image.fromarray(frame) for frame in frames]
        stream = io.BytesIO()
        # TensorBoard plays no video with sound: the frames are an animated GIF, and the sound is beside it
        pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
        height, width = frames.shape[1:3]
        moving = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=stream.getvalue())
        writer = self.board._get_file_writer()
        with self._writing():
            writer.add_summary(Summary(value=[Summary.Value(tag=name, image=moving)]), step)
            self.board.add_audio(f"{name}/sound", torch.from_numpy(sound.samples.mean(axis=1)), step, sound.rate)

    def close(self) -> None:
        """Write what is buffered."""
        with self._writing():
            self.board.close()

    def _writing(self) -> AbstractContextManager[None]:
        # a thread of the writer's writes, and what it could not is raised by a later call
        return report_write_errors(self._folder)

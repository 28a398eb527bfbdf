"""The judge as a program: a clip in, the opening of the mouth in every frame out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.pocket.judge.measure import main
from training.pocket.world.attributes import usual
from training.pocket.world.figure import render
from training.pocket.world.motion import sample_motion
from wanavatar_lab.media import VideoWriter


def write(path: Path, frames: NDArray[np.uint8]) -> str:
    with VideoWriter(path, fps=16) as video:
        for frame in frames:
            video.write(frame)
    return str(path)


def test_the_opening_of_every_frame_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opening = np.linspace(0, 1, 8, dtype=np.float32)
    pose = sample_motion(1, 8, seed=1).having(open=torch.from_numpy(opening)[None])
    frames = (render(usual(), pose, (128, 128))[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert main([write(tmp_path / "a.mp4", frames)]) == 0
    read = json.loads(capsys.readouterr().out)["opening"]
    assert np.corrcoef(read, opening)[0, 1] > 0.95


def test_what_the_judge_cannot_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write(tmp_path / "wide.mp4", np.zeros((3, 64, 128, 3), np.uint8))]) == 1
    assert "squares of a multiple of 64 pixels (got 64 x 128)" in capsys.readouterr().err
    assert main([str(tmp_path / "none.mp4")]) == 1
    assert "none.mp4" in capsys.readouterr().err

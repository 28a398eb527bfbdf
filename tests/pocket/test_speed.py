"""What `speed` promises, held by the pocket models that ship, from file to file."""

from pathlib import Path
from typing import Any

import pytest

from wanavatar_lab.bench.speed import measure_speed


def measured(stage: str, steps: int, frames: int, folder: Path, *modes: str) -> dict[str, dict[str, Any]]:
    found = measure_speed(stage, "pocket", steps, frames, "cpu", folder, ("exact", *modes))
    return {row["mode"]: row for row in found["rows"]}


def test_a_balanced_clip_is_at_35_db(tmp_path: Path) -> None:
    """At the 8 default steps of pocket a quarter of the forward passes is skipped: each step changes a lot."""
    rows = measured("speech_to_video", 8, 32, tmp_path, "balanced")
    assert rows["exact"]["computed"] == 16
    assert rows["balanced"]["computed"] <= 12 and rows["balanced"]["psnr"] >= 35
    assert rows["balanced"]["lip_r"] >= rows["exact"]["lip_r"] - 0.02


@pytest.mark.slow
def test_at_25_steps_balanced_saves_1_7_and_fast_3_times(tmp_path: Path) -> None:
    """The default of the published model, at the length that the pocket model was trained for."""
    rows = measured("speech_to_video", 25, 80, tmp_path, "balanced", "fast")
    assert rows["exact"]["computed"] == 50
    assert rows["balanced"]["computed"] * 1.7 <= 50 and rows["balanced"]["psnr"] >= 35
    assert rows["balanced"]["lip_r"] >= rows["exact"]["lip_r"] - 0.02
    assert rows["fast"]["computed"] * 3 <= 50 and rows["fast"]["psnr"] >= 30


@pytest.mark.slow
def test_a_balanced_movement_is_at_35_db(tmp_path: Path) -> None:
    rows = measured("image_to_video", 8, 48, tmp_path, "balanced")
    assert rows["balanced"]["computed"] < 16 and rows["balanced"]["psnr"] >= 35

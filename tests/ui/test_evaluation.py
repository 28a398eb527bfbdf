"""The panel that evaluates clips: it runs the command, shows its picture, and says what went wrong."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.metrics.test_evaluate import drawn
from tests.real_face import voice
from tests.ui.looking import everything
from wanavatar_lab import metrics
from wanavatar_lab.errors import LabError
from wanavatar_lab.metrics.evaluate import evaluate
from wanavatar_lab.ui.evaluation import EvaluationPanel, evaluated
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.player import Player


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    sound = voice(2)
    level = metrics.loudness(sound, frames=32)
    return [str(drawn(tmp_path / f"{name}.mp4", np.roll(level, late), sound)) for name, late in (("a", 0), ("b", 2))]


def test_two_clips_are_measured_and_shown_in_sync(clips: list[str]) -> None:
    panel = EvaluationPanel(*clips)
    assert "Nothing is measured yet" in panel.summary()
    (found,) = asyncio.run(panel.run())
    assert [found[side]["measures"]["lip_lag_ms"] for side in ("clip", "other")] == [0, 125]
    (lag,) = [line for line in panel.summary().splitlines() if line.startswith("Lips late")]
    assert lag.split()[-2:] == ["0", "125"]
    values = [getattr(each, "value", "") for each in everything(panel)]
    assert any(isinstance(value, str) and "data:image/svg+xml" in value for value in values)
    (player,) = [each for each in everything(panel) if isinstance(each, Player) and len(each.paths) == 2]
    assert player.paths == ["a.mp4", "b.mp4"]
    panel.close()


def test_one_clip_is_measured_without_a_panel(clips: list[str]) -> None:
    assert asyncio.run(evaluated(clips[1], faces="drawn")) == evaluate(clips[1], faces="drawn")
    with pytest.raises(LabError, match=r"There is no .*gone\.mp4"):
        asyncio.run(evaluated("gone.mp4"))


def test_what_goes_wrong_is_said_in_the_panel(tmp_path: Path, clips: list[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    panel = EvaluationPanel(str(broken))
    with pytest.raises(LabError, match=r"broken\.mp4"):
        asyncio.run(panel.run())
    asyncio.run(panel._pressed())
    assert any("broken.mp4" in str(getattr(each, "value", "")) for each in everything(panel))
    with pytest.raises(LabError, match=r"clip: .*Give the path of a file"):
        asyncio.run(EvaluationPanel().run())


def test_the_panel_speaks_every_language() -> None:
    panel = EvaluationPanel()
    assert [_button(panel, code) for code in ("ko", "zh", "en")] == ["평가", "开始评测", "Evaluate"]


def _button(panel: EvaluationPanel, code: str) -> str:
    language.code = code
    return str(panel._button.description)

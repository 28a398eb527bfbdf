"""The panel that evaluates clips: it runs the command, shows its picture, and says what went wrong."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from tests.metrics.test_evaluate import drawn
from tests.real_face import voice
from tests.training.ui.test_results import xs, ys
from tests.ui.looking import everything, text
from wanavatar_lab import metrics
from wanavatar_lab.errors import LabError
from wanavatar_lab.metrics import REGIONS, evaluate
from wanavatar_lab.metrics.evaluate import MEASURES
from wanavatar_lab.ui import evaluation
from wanavatar_lab.ui.evaluation import MEASURE_WORDS, EvaluationPanel, evaluated, identity_plot, measures_html
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.messages import in_language
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
    shown = text(panel)
    assert "Mouth opening against loudness: a.mp4" in shown and "Mouth opening against loudness: b.mp4" in shown
    assert '<th scope="row">Lips late (+) or early (−)</th><td><strong>0 ms</strong></td><td>+125 ms</td>' in shown
    language.code = "zh"
    shown = text(panel)
    assert '<th scope="row">口型滞后（+）或提前（−）</th><td><strong>0 ms</strong></td>' in shown
    assert "张口程度与响度：a.mp4" in shown and "loudness" not in shown and "measured" not in shown
    language.code = "en"
    (player,) = [each for each in everything(panel) if isinstance(each, Player) and len(each.paths) == 2]
    assert player.paths == ["a.mp4", "b.mp4"]
    panel.close()


def test_clips_of_a_runs_folder_outside_of_the_servers_root_are_shown(
    clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path / "served"))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path))
    panel = EvaluationPanel(clips[0])
    asyncio.run(panel.run())
    (player,) = panel._players.children
    assert player.paths == [""], "the kernel sends it"
    assert "<video" in panel.record().html, "and the notebook keeps it"
    panel.close()


def test_one_clip_is_measured_without_a_panel(clips: list[str]) -> None:
    assert asyncio.run(evaluated(clips[1], faces="drawn")) == evaluate.evaluate(clips[1], faces="drawn")
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


def test_the_labels_are_those_of_the_command() -> None:
    assert {name: MEASURE_WORDS[name]["en"] for name in MEASURES} == {name: m.label for name, m in MEASURES.items()}
    for name in REGIONS:
        assert f"region_{name}" in MEASURE_WORDS


def test_what_could_not_be_measured_is_said_in_the_language() -> None:
    source = Path(evaluate.__file__).read_text(encoding="utf-8")
    for words in read_words(evaluation.__file__, "evaluation_notes").values():
        for part in re.split(r"\{\w+\}", words["en"]):
            assert part in source  # the command says it so
    language.code = "ko"
    assert in_language("Lips were not measured: a face was found in 40% of the frames only.") == (
        "입술을 측정하지 못했습니다. 프레임의 40%에서만 얼굴을 찾았습니다."
    )


def test_of_several_clips_there_are_medians_and_the_picture(tmp_path: Path, clips: list[str]) -> None:
    pair = {"clip": {"clip": "x/a.mp4", "measures": dict.fromkeys(MEASURES)}, "other": None}
    found = []
    for value in (0.2, 0.3, 0.7):
        measures = dict.fromkeys(MEASURES) | {"lip_r": value}
        found.append({**pair, "clip": {"clip": f"x/{value}.mp4", "measures": measures}})
    html = measures_html(found)
    assert "x, median of 3" in html and '<th scope="row">Lips follow the sound, r</th><td>0.30</td>' in html
    assert '<th scope="row">Black frames</th><td>–</td>' in html and "<strong>" not in html


def test_the_look_of_the_parts_is_drawn_by_region() -> None:
    look = {
        "reference": "me.png",
        "starts": [0, 32],
        "colours": [{"hair": 0.5, "skin": None}, {"hair": 2.0, "skin": None}],
    }
    clip = {"identity": look, "frames": 64, "fps": 16.0, "seconds": 4.0}
    plot = identity_plot(clip)
    line = plot.axes.lines[0]
    assert (xs(line), ys(line)) == ([1.0, 3.0], [0.5, 2.0])
    assert [name for name, _ in plot.legend] == ["hair"] and plot.title == "Colours against the reference: me.png"
    assert not identity_plot({**clip, "identity": None}).axes.has_data()


def test_the_panel_speaks_every_language() -> None:
    panel = EvaluationPanel()
    assert [_button(panel, code) for code in ("ko", "zh", "en")] == ["평가", "开始评测", "Evaluate"]


def _button(panel: EvaluationPanel, code: str) -> str:
    language.code = code
    return str(panel._button.description)

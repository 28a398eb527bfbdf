"""The table of clips."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.faces import face
from tests.training.prepare.test_report import babble, observed
from tests.training.prepare.test_report import clip as prepared
from tests.training.test_encode import write_clip
from tests.training.ui.made_run import clip, write_report
from training.prepare.draw_masks import Masks
from training.prepare.measures import Observer
from training.prepare.people import Choice
from training.prepare.people import Person as Seen
from training.prepare.prepare import _sound_of
from training.prepare.report import assess, divide
from training.ui.person import Person
from training.ui.report import COLUMNS, ReportTable, lip_plot_of, used_clips
from wanavatar_lab.errors import LabError, MediaError
from wanavatar_lab.media import MediaInfo
from wanavatar_lab.ui.evaluation import lip_plot
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.messages import in_language


def test_a_row_for_each_clip_and_those_that_are_flagged_stand_out(tmp_path: Path) -> None:
    ann = Person(tmp_path)
    no_face = {"face_found": 0.0, "face_area": None, "lip_area": None, "lag": None, "lag_r": None}
    late = {"left_out": "out of sync by +5 frames", "lag": 5, "hdr": "HLG", "notes": ["zoomed"]}
    write_report(
        ann,
        clip("video_000"),
        clip("video_001", problems=["no <face>"], held_out=True, **no_face),
        clip("video_002", **late),
    )
    text = ReportTable(ann).value
    first, second, third = text.split("<tr")[2:]
    assert ">2.1%</td>" in first and ">+0</td>" in first and ">training</td>" in first
    assert "style" not in first and "style" in second
    assert "no &lt;face&gt;" in second and ">unknown</td>" in second and ">validation</td>" in second
    assert ">nothing: out of sync by +5 frames</td>" in third and ">+5</td>" in third
    assert ">HDR (HLG) mapped to SDR; zoomed</td>" in third
    assert "3 clips, 6 s, 1 flagged" in text
    assert "b&lt;b&gt;.mp4: it has no sound" in text


def test_its_heads_follow_the_language(tmp_path: Path) -> None:
    ann = Person(tmp_path)
    late = "out of sync: its mouth moves 5 frames (0.31 s) after the sound"
    write_report(ann, clip("video_000", problems=[late], left_out="out of sync by +5 frames"))
    table = ReportTable(ann)
    assert "1 clip, " in table.value and ">used for</th>" in table.value and f">{late}</td>" in table.value
    language.code = "ko"
    assert "영상 1개, " in table.value and ">용도</th>" in table.value
    assert ">쓰지 않음: 싱크가 +5프레임 어긋남</td>" in table.value
    assert ">싱크 어긋남: 입이 소리보다 5프레임(0.31초) 늦음</td>" in table.value
    language.code = "zh"
    assert ">用途</th>" in table.value and "各列含义" in table.value and "used for" not in table.value
    assert ">音画不同步：嘴部比声音晚 5 帧（0.31 秒）</td>" in table.value


def test_a_column_that_has_nothing_to_say_is_left_out(tmp_path: Path) -> None:
    ann = Person(tmp_path)
    write_report(ann, clip("video_000"))
    text = ReportTable(ann).value
    assert ">flagged</th>" not in text and ">notes</th>" not in text and text.count("<td ") == len(COLUMNS) - 3


def test_whatever_a_preparation_says_of_a_clip_is_said_in_the_language() -> None:
    said = list(findings())
    assert len(said) > 15
    for code, script in (("ko", "[가-힣]"), ("zh", "[一-鿿]")):
        language.code = code
        for text in said:
            found = in_language(text)
            assert re.search(script, found), text
            assert not re.search("[A-Za-z]{4,}", re.sub(r"video_\d+|dBFS", "", found)), (text, found)


def findings() -> Iterator[str]:
    """Problems, reasons and notes as they are really made, of clips that are bad in every way."""
    faceless, small = Observer(48), Observer(48)
    masks = Masks(np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8), True)
    for frame in range(48):
        shown = face(32, 30, 20)
        faceless.see(np.zeros((64, 64, 3), np.uint8), None, masks)
        small.see(np.zeros((64, 64, 3), np.uint8), shown if frame < 40 else None, masks)
    sound = babble(48, 0)[0]
    good, late, early = observed(seed=1), observed(seed=2, late=5), observed(seed=3, late=-3)
    measured = [good, observed(60, seed=1, offset=4), late, early, observed(seed=4, gain=0.005), observed(gain=3)]
    measured += [replace(observed(seed=8), sharpness=good.sharpness / 9), faceless.measures(sound, through_speech=True)]
    measured += [small.measures(sound), replace(late, lag=1, lag_r=0.1)]
    clips = assess(dict(prepared(f"video_{i:03d}", each) for i, each in enumerate(measured)))
    yield from (problem for each in clips for problem in each.problems)
    for keep in (False, True):
        yield from divide(clips, 1, keep_out_of_sync=keep)[1].values()
    yield from divide(clips[:3], 1, keep_out_of_sync=True)[1].values()  # of two that are the same one is held out
    seen = Seen({0: face()})
    for by in ("speaks", "looks", "size"):
        yield str(Choice(seen, [seen], by).said())
    for info in (
        MediaInfo("picture"),
        MediaInfo("audio"),
        MediaInfo("video"),
        MediaInfo("video", duration=1.0, audio_rate=16),
    ):
        with pytest.raises(MediaError) as refused:
            _sound_of(Path("a.mp4"), info)
        yield str(refused.value)


def test_the_mouth_of_a_clip_is_drawn_against_its_sound_as_it_was_measured(tmp_path: Path) -> None:
    ann = Person(tmp_path)
    write_report(ann, clip("video_000", opening=[0.1, None, 0.2], level=[-20.0, -6.0206, 0.0]))
    shown = lip_plot_of(ann, "video_000").data
    assert "Mouth opening against loudness: video_000" in shown and shown.count("<svg") == 1
    with pytest.raises(LabError, match="There is no clip video_001"):
        lip_plot_of(ann, "video_001")
    plot = lip_plot({"before": [0.1, None, 0.2], "after": [0.4, 0.3]}, [0.1, 0.5, 1.0], 16, "video_000")
    line, other = plot.axes.lines
    assert [words for words, _ in plot.legend] == ["loudness", "before", "after"]
    assert other.get_ydata() == pytest.approx([100, 75])  # of the largest of all
    assert line.get_ydata() == pytest.approx([25, np.nan, 50], nan_ok=True)
    assert line.get_xdata() == pytest.approx([0.5 / 16, 1.5 / 16, 2.5 / 16])


def test_the_clips_that_are_trained_on_need_no_report(tmp_path: Path) -> None:
    processed = tmp_path / "data" / "processed"
    write_clip(processed / "video_003", 16)
    (processed / "video_path.txt").write_text("video_003\n")
    assert used_clips(Person(tmp_path)) == [processed / "video_003"]


def test_where_nothing_was_prepared_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="Run notebook 10_prepare first"):
        ReportTable(Person(tmp_path))
    with pytest.raises(LabError, match="Run notebook 10_prepare first"):
        used_clips(Person(tmp_path))

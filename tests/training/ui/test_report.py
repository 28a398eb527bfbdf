"""The table of clips."""

from pathlib import Path

import pytest

from tests.training.test_encode import write_clip
from tests.training.ui.made_run import clip, write_report
from training.ui.person import Person
from training.ui.report import ReportTable, used_clips
from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.language import language


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
    assert "<td>2.1%</td>" in first and "<td>+0</td>" in first and "<td>training</td>" in first
    assert "style" not in first and "style" in second
    assert "no &lt;face&gt;" in second and "<td>unknown</td>" in second and "<td>validation</td>" in second
    assert "<td>nothing: out of sync by +5 frames</td>" in third and "<td>+5</td>" in third
    assert "<td>HDR (HLG) mapped to SDR; zoomed</td>" in third
    assert "3 clips, 6 s, 1 flagged" in text
    assert "b&lt;b&gt;.mp4: it has no sound" in text


def test_its_heads_follow_the_language(tmp_path: Path) -> None:
    ann = Person(tmp_path)
    write_report(ann, clip("video_000"))
    table = ReportTable(ann)
    assert "1 clip, " in table.value and ">used for</th>" in table.value
    try:
        language.code = "ko"
        assert "영상 1개, " in table.value and ">용도</th>" in table.value and "<td>학습</td>" in table.value
        language.code = "zh"
        assert ">用途</th>" in table.value and "各列含义" in table.value and "used for" not in table.value
    finally:
        language.code = "en"


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

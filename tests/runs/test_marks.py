"""Marks of runs: what is written is read, by the next process too, and a damaged file is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanavatar_lab.errors import RunError
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.runs import trash
from wanavatar_lab.runs.marks import LONGEST_TAG, MOST_TAGS, Marks, as_tags, read_marks, write_marks
from wanavatar_lab.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(TextToImage(prompt="a cat"), runs_dir=tmp_path)


def test_what_is_written_is_read(run: Run) -> None:
    assert read_marks(run) == Marks()
    marks = Marks(favourite=True, tags=("앤", "lips"))
    write_marks(run, marks)
    assert read_marks(Run.open(run.id, runs_dir=run.folder.parent)) == marks
    assert sorted(path.name for path in run.folder.glob("*marks*")) == ["marks.json"]  # whole, and nothing beside it


def test_they_move_with_the_run(run: Run) -> None:
    write_marks(run, Marks(tags=("lips",)))
    run.write_status(run.status().model_copy(update={"state": "failed"}))
    trash.discard(run)
    assert read_marks(trash.restore(run.id, runs_dir=run.folder.parent)).tags == ("lips",)


@pytest.mark.parametrize("text", ["{", "[]", '{"favourite": "perhaps"}', '{"tags": 3}'])
def test_a_damaged_file_is_named(run: Run, text: str) -> None:
    (run.folder / "marks.json").write_text(text)
    with pytest.raises(RunError, match=r"marks\.json does not hold marks of a run\. Correct it, or delete it\."):
        read_marks(run)


@given(st.lists(st.text(max_size=LONGEST_TAG), max_size=MOST_TAGS))
def test_tags_are_kept_once_and_as_they_are(texts: list[str]) -> None:
    try:
        tags = as_tags(texts)
    except RunError:  # an escape is longer than what it stands for
        assert any(not text.isprintable() or "\ud800" <= max(text) <= "\udfff" for text in texts if text)
        return
    assert as_tags(tags) == tags and len({tag.casefold() for tag in tags}) == len(tags)
    assert {" ".join(text.split()).casefold() for text in texts} - {""} >= {tag.casefold() for tag in tags}


def test_too_long_and_too_many_are_refused() -> None:
    with pytest.raises(RunError, match=r"at most 40 characters \(got 41\)"):
        as_tags(["x" * 41])
    with pytest.raises(RunError, match=r"at most 20 tags \(got 21\)"):
        as_tags(map(str, range(21)))

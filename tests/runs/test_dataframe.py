"""All runs as rows."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.queue_for_tests import queue_settings_fixture  # noqa: F401  fixtures
from tests.stages_for_tests import Relax
from wanavatar_lab import runs
from wanavatar_lab.errors import LabError
from wanavatar_lab.runs import Artifact, Run, Status
from wanavatar_lab.runs.marks import Marks, write_marks


def made() -> tuple[Run, Run, Run]:
    """One that succeeded, one that waits, and one whose request is damaged, from the oldest to the newest."""
    done, waiting, damaged = (Run.create(Relax(profile="pocket", steps=steps)) for steps in (1, 2, 3))
    (done.folder / "result.npy").touch()
    done.write_status(
        Status(
            state="succeeded",
            seed=41,
            memory_bytes=5000,
            submitted_at=1e9,
            started_at=1e9 + 2,
            finished_at=1e9 + 9.5,
            artifacts=[Artifact(kind="numbers", path="result.npy")],
        )
    )
    waiting.write_status(Status(submitted_at=1e9 + 10))
    damaged.write_status(Status(state="failed", submitted_at=1e9 + 20))
    (damaged.folder / "request.json").write_text("{")
    return done, waiting, damaged


def test_rows_have_the_request_the_seed_that_was_used_and_what_came_of_it(queue_settings: Path) -> None:
    done, waiting, damaged = made()
    write_marks(done, Marks(favourite=True, tags=("kept",)))
    last, second, first = runs.records()
    assert [row["id"] for row in (first, second, last)] == [done.id, waiting.id, damaged.id]
    assert first == {
        "id": done.id,
        "stage": "relax",
        "state": "succeeded",
        "submitted": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
        "seconds": 7.5,
        "memory_bytes": 5000,
        "result": str(done.folder / "result.npy"),
        "error": None,
        "favourite": True,
        "tags": ["kept"],
        **Relax(profile="pocket", steps=1, seed=41).to_json(),
    }
    assert (second["state"], second["seconds"], second["seed"], second["steps"]) == ("queued", None, -1, 2)
    assert "request.json cannot be read" in last["error"] and "steps" not in last


def test_the_table_needs_pandas_and_says_so(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LabError, match=r"uv pip install pandas\. runs\.records\(\) has the same rows"):
        runs.table()


def test_the_table_is_a_data_frame_by_id(queue_settings: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="runs.table() needs pandas, which set-up does not install")
    columns = ["stage", "state", "submitted", "seconds", "memory_bytes", "result", "error", "favourite", "tags"]
    assert list(runs.table().columns) == columns
    done, waiting, _ = made()
    frame = runs.table()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 3
    assert frame.loc[done.id, "seconds"] == 7.5 and frame.loc[done.id, "seed"] == 41
    assert pandas.isna(frame.loc[waiting.id, "seconds"])
    assert str(frame["submitted"].dt.tz) == "UTC"

"""What 00_check.ipynb shows."""

from pathlib import Path

import pytest

from wanavatar_lab.cli import check
from wanavatar_lab.errors import LabError


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    return tmp_path


def test_it_is_looked_at_by_a_process_of_its_own() -> None:
    found = check.look("full")
    assert "none that torch sees" in found.machine
    assert found.stages.startswith("text_to_image ")


def test_what_is_missing_is_said_with_the_command_that_gets_it(on_the_cpu: Path) -> None:
    text = check.look_here("full").weights
    rows = [line.split() for line in text.splitlines()]
    assert ["Wan2.2-S2V-14B", "absent", "45.7", "GB", str(on_the_cpu / "Wan2.2-S2V-14B")] in rows
    assert "download with: wanavatar-lab weights download Wan2.2-S2V-14B" in text
    (on_the_cpu / "Wan2.2-S2V-14B").mkdir()
    (on_the_cpu / "Wan2.2-S2V-14B" / "config.json").write_text("{}")
    assert "    missing: " in check.look_here("full").weights


def test_a_profile_that_is_not_there_is_refused() -> None:
    with pytest.raises(LabError, match="There is no profile 'huge'; there are full, pocket"):
        check.look("huge")


def test_a_machine_that_cannot_be_looked_at_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_DEVICE", "abacus")
    with pytest.raises(LabError, match="abacus"):
        check.look("pocket")

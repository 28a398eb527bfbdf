"""Tools as a user of the command line has them, from file to file."""

import json
from pathlib import Path

import pytest

from tests.tools.clips import sound, video
from wanavatar_lab.cli import main
from wanavatar_lab.media import probe


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_part_is_written_and_what_it_lacks_is_said(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sound(place / "v.wav", 16_000, 16_000)
    assert main(["trim", "--media", "v.wav", "--start", "0.5", "--duration", "3", "--out", "part.wav"]) == 0
    out, err = capfd.readouterr()
    assert out == "part.wav\n"
    assert "v.wav ends 0.50 s after 0.5 s" in err and "Trim: succeeded in 0:0" in err
    assert probe(place / "part.wav").duration == 0.5
    assert main(["runs", "list", "--limit", "1"]) == 0
    assert capfd.readouterr().out.split()[4] == "v.wav"


def test_loudness_is_printed_for_each_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound(place / "v.wav", 16_000, 16_000)
    video(place / "c.mp4", 32, tone=1000)
    assert main(["loudness", "v.wav", "c.mp4"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("v.wav  ") and "LUFS, range " in second and " dBTP" in second
    assert main(["loudness", "c.mp4", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["file"] == "c.mp4" and told["integrated"] == pytest.approx(-13.5, abs=0.5)
    assert main(["loudness", "v.wav", "no.wav"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("v.wav  ") and "There is no file no.wav" in err


def test_names_with_dashes_are_files_behind_two_dashes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("-v.wav", "--v_1.wav"):
        sound(place / name, 16_000, 16_000)
    assert main(["loudness", "--", "-v.wav", "--v_1.wav"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["-v.wav", "--v_1.wav"]

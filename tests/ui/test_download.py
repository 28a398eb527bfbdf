"""The button that downloads a file."""

from pathlib import Path

import pytest

from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.download import Download
from wanavatar_lab.ui.language import language


def test_it_offers_a_file_below_the_servers_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    file = tmp_path / "runs" / "lora_weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(bytes(1_500_000))
    button = Download(file, "ann.safetensors")
    assert (button.path, button.name, button.size) == ("runs/lora_weights.safetensors", "ann.safetensors", "1.5 MB")
    assert 'download="ann.safetensors"' in button.record().html and str(file) in button.record().text
    before = button.version
    file.write_bytes(bytes(2_500_000))
    button.offer(file)
    assert (button.name, button.size) == ("lora_weights.safetensors", "2.5 MB") and button.version != before
    language.code = "ko"
    assert button.words["download"] == "{name} 다운로드"


def test_a_file_elsewhere_is_named_and_one_that_is_gone_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path / "root"))
    file = tmp_path / "a.safetensors"
    file.touch()
    button = Download(file)
    assert (button.path, button.place) == ("", str(file))
    with pytest.raises(LabError, match=r"gone\.safetensors cannot be downloaded: No such file"):
        Download(tmp_path / "gone.safetensors")
    empty = Download()
    assert empty.place == "" and empty.record().html == ""

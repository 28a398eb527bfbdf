"""What the command doctor and 00_check.ipynb show."""

import json
import socket
from pathlib import Path

import pytest
import torch

from tests.queue_for_tests import REPOSITORY
from wanavatar_lab.cli import doctor, main
from wanavatar_lab.errors import LabError


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    return tmp_path


def test_it_is_looked_at_by_a_process_of_its_own() -> None:
    found = doctor.look("full")
    assert "none that torch sees" in found.machine
    assert found.stages.startswith("text_to_image ")


def test_what_is_missing_is_said_with_the_command_that_gets_it(on_the_cpu: Path) -> None:
    text = doctor.look_here("full").weights
    rows = [line.split() for line in text.splitlines()]
    assert ["Wan2.2-S2V-14B", "absent", "45.7", "GB", str(on_the_cpu / "Wan2.2-S2V-14B")] in rows
    assert "download with: wanavatar-lab weights download Wan2.2-S2V-14B" in text
    (on_the_cpu / "Wan2.2-S2V-14B").mkdir()
    (on_the_cpu / "Wan2.2-S2V-14B" / "config.json").write_text("{}")
    assert "    missing: " in doctor.look_here("full").weights


def test_a_profile_that_is_not_there_is_refused() -> None:
    with pytest.raises(LabError, match="There is no profile 'huge'; there are full, pocket"):
        doctor.look("huge")


def test_a_machine_that_cannot_be_looked_at_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_DEVICE", "abacus")
    with pytest.raises(
        LabError, match=r" failed: WANAVATAR_DEVICE is 'abacus': .* Unset it or give an allowed value\.$"
    ):
        doctor.look("pocket")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_a_problem_among_the_others(
    device: str, on_the_cpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_DEVICE", device)
    found = doctor.look_here("full")
    said = check("device", found)
    assert said.state == "problem" and f"The device is {device}; GPUs that torch sees: 0. " in said.text
    assert "Set WANAVATAR_DEVICE to auto" in said.text and check("CPU", found).state == "ok"


def check(name: str, found: doctor.Found) -> doctor.Check:
    (one,) = [each for each in found.checks if each.name == name]
    return one


def test_what_a_machine_lacks_is_said_with_what_to_do(on_the_cpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = on_the_cpu / "shut"
    runs.mkdir(mode=0o555)
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(runs / "runs"))
    monkeypatch.setenv("PATH", str(on_the_cpu))
    monkeypatch.setattr("os.access", lambda path, how: path != runs)  # root may write everywhere
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: ("make lab and make web", "PORT=8889")})
        found = doctor.look_here("pocket")
    assert {each.section for each in found.checks} == {*doctor.SECTIONS}
    pocket, room = check("pocket", found), check("runs", found)
    assert (pocket.state, pocket.advice) == ("problem", "bring back with: git checkout -- weights/pocket")
    assert check("Wan2.2-S2V-14B", found).state == "note"  # of the other profile
    assert room.state == "problem" and "not writable" in room.text and "WANAVATAR_RUNS_DIR" in room.advice
    assert check("audio-separator", found).advice == ".venv/bin/uv pip install -e '.[separate]'"
    assert "no such program on PATH" in check("ffmpeg", found).text
    assert check("attention sdpa", found).state == "ok"
    busy = check(str(port), found)
    assert busy.state == "note" and "Address already in use" in busy.text
    assert busy.advice == "Use another one, as in make lab PORT=8889."


@pytest.mark.parametrize("what", ["a file", "a link to a disk that is not mounted"])
def test_folders_that_are_none_are_said(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    runs.touch() if what == "a file" else runs.symlink_to(tmp_path / "unmounted")
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(runs))
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(runs / "weights"))
    found = doctor.look_here("pocket")
    for name, state, variable in (("runs", "problem", "RUNS_DIR"), ("weights folder", "note", "WEIGHTS")):
        said = check(name, found)
        assert said.state == state and f"{runs} is no folder" in said.text and f"WANAVATAR_{variable}" in said.advice


def test_a_driver_whose_gpu_torch_does_not_see_is_a_problem(on_the_cpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = on_the_cpu / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '535.104.05, NVIDIA H200'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{on_the_cpu}:/bin")
    monkeypatch.setenv("WANAVATAR_DEVICE", "auto")
    gpu = check("GPU", doctor.look_here("pocket"))
    assert gpu.state == "problem" and "driver 535.104.05, NVIDIA H200, but torch" in gpu.text and gpu.advice
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")
    assert check("GPU", doctor.look_here("pocket")).state == "note"  # as one wants it


def test_the_command_fails_where_something_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "look", doctor.look_here)  # without the seconds of another process
    assert main(["doctor", "--profile", "pocket", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["sound"] is False and told["profile"] == "pocket" and "pocket" in told["problems"]["pocket"]
    assert {"section", "name", "state", "text", "advice", "profile"} == set(told["checks"][0])


def test_both_profiles_are_looked_at_and_one_that_runs_is_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(REPOSITORY / "weights"))  # pocket ships
    monkeypatch.setattr(doctor, "look", doctor.look_here)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"stages, profile full:", "stages, profile pocket:"} <= {*lines} and lines[
        -1
    ] == "profile pocket: no problems."
    assert lines[-2].startswith("profile full: ") and "VoxCPM2" in lines[-2]
    (row,) = [line for line in lines if " VoxCPM2 " in line and "download with" not in line]
    assert row.startswith(" FAIL")
    assert main(["doctor", "--profile", "full"]) == 1


def test_the_command_prints_a_mark_for_each_and_sums_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = doctor.Found(
        (doctor.Check("machine", "CPU", "ok", "2 cores"), doctor.Check("ports", "80", "problem", "taken", "Wait."))
    )
    monkeypatch.setattr(doctor, "look", lambda *profiles: found)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["ok", "CPU", "2", "cores"]
    assert [" ".join(line.split()) for line in lines[-6:]] == [
        "FAIL 80 taken",
        "Wait.",
        "stages, profile full:",
        "stages, profile pocket:",
        "profile full: 1 problem: 80.",
        "profile pocket: 1 problem: 80.",
    ]

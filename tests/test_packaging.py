"""The packaging agrees with itself, and the package that it makes is what it says."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copy, copytree
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# a line per package, with the hashes of its files
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "").splitlines()

DECLARED = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
MACHINES = [
    {"python_version": python, "python_full_version": f"{python}.{patch}", "sys_platform": platform}
    for python, patch in (("3.11", 0), ("3.11", 14), ("3.12", 0), ("3.12", 12))
    for platform in ("linux", "darwin")
]


def pins(machine: dict[str, str]) -> Iterator[tuple[NormalizedName, str]]:
    """Every (name, version) that the lock gives this machine."""
    for line in LOCK:
        if not line.startswith("#"):
            pin = Requirement(line.partition("--hash")[0])
            if pin.marker is None or pin.marker.evaluate(dict(machine)):
                (only,) = pin.specifier
                yield canonicalize_name(pin.name), only.version


def test_lock_is_exact_pins_with_hashes_and_nothing_else() -> None:
    said = re.compile(r"[a-z0-9][a-z0-9-]*==[0-9][a-z0-9.]*( ; [^/@]+?)?( +--hash=sha256:[0-9a-f]{64})+")
    assert [line for line in LOCK if not line.startswith("#") and not said.fullmatch(line)] == []
    # neither a host nor a folder of the machine that wrote it
    assert [line for line in LOCK if "/" in line or "\\" in line] == []


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m['python_full_version']}-{m['sys_platform']}")
def test_lock_has_every_dependency_once_and_in_range(machine: dict[str, str]) -> None:
    found = list(pins(machine))
    locked = dict(found)
    assert len(found) == len(locked), "a package is pinned twice for one machine"
    for requirement in map(Requirement, DECLARED):
        if requirement.marker is None or requirement.marker.evaluate(dict(machine)):
            version = locked.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name} is not in requirements.lock: run make lock"
            assert requirement.specifier.contains(version), f"the lock has {version}, and pyproject wants {requirement}"


def test_conda_environment_installs_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert environment["name"] == PROJECT["project"]["name"]
    # without this project, which has no hash: pip then refuses it beside packages that have one
    assert pip == ["-r requirements.lock"]
    # a package taken from conda as well would be another release than the pin
    assert plain == ["python=3.12", "pip"]
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains("3.12")


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not run from the .venv that make sets up")
def test_environment_holds_the_pins() -> None:
    info = sys.version_info
    here = {
        "python_version": f"{info.major}.{info.minor}",
        "python_full_version": f"{info.major}.{info.minor}.{info.micro}",
        "sys_platform": sys.platform,
    }
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    wrong = {name: (version, installed.get(name)) for name, version in pins(here) if installed.get(name) != version}
    assert wrong == {}
    assert installed[canonicalize_name("wanavatar-lab")] == PROJECT["project"]["version"]


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_wheel_holds_the_packages_and_nothing_else(tmp_path: Path) -> None:
    # built from a copy, since a build writes into the folder that it builds
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, tmp_path)
    for name in ("wanavatar_lab", "training", "tests"):
        if (ROOT / name).is_dir():
            copytree(ROOT / name, tmp_path / name)
    build = "import setuptools.build_meta as b; b.build_wheel('.')"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    described = f"wanavatar_lab-{PROJECT['project']['version']}.dist-info"
    assert {name.partition("/")[0] for name in names} <= {"wanavatar_lab", "training", described}
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    sources = [path for name in ("wanavatar_lab", "training") for path in (tmp_path / name).rglob("*.py")]
    left_out = {path.relative_to(tmp_path).as_posix() for path in sources} - set(names)
    assert left_out == set(), "a folder of code needs its __init__.py"
    assert "License-Expression: Apache-2.0" in metadata
    assert "wanavatar-lab = wanavatar_lab.cli:main" in scripts


def test_import_is_quick_and_light() -> None:
    code = (
        "import sys, time\n"
        "begin = time.perf_counter()\n"
        "import wanavatar_lab\n"
        "seconds = time.perf_counter() - begin\n"
        "import json\n"
        "heavy = [name for name in ('torch', 'numpy', 'av', 'diffusers', 'transformers') if name in sys.modules]\n"
        "print(json.dumps([seconds, heavy]))\n"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert runs[0][1] == []
    # the promise; the best of three, since another process may hold the processor
    assert min(seconds for seconds, _ in runs) <= 0.5


def test_a_missing_need_is_an_error_and_not_a_skip(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "--collect-only", "--need", "chromium", "tests/test_imports.py"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "needs Chromium" in done.stderr


@pytest.mark.slow  # a run of `pocket` and one of its bare pipeline: a minute on two cores
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "data").symlink_to(ROOT / "data")
    copy(ROOT / "data" / "samples" / "avatar_woman.png", tmp_path / "a.png")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WANAVATAR_RUNS_DIR": str(tmp_path / "runs"),
        "WANAVATAR_WORKER_IDLE_SECONDS": "1",
    }
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (said,) = [line.partition("# ")[2] for line in code.splitlines() if line.startswith("print(clip")]
    assert ran.stdout.splitlines() == [said]
    assert "Speech to video: succeeded in" in ran.stderr
    assert (tmp_path / "lips.png").stat().st_size > 10_000

"""The rules of the layout: which room may import which, what never imports torch, and what a file may be called.

A room is a folder or a top-level module of `wanavatar_lab` or `training`. It imports its own layer or a lower one,
at the top of a file or inside a function. docs/architecture.md has the same order as a picture.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# lowest first; a room that is in no layer fails, so a new one gets its place here
LAYERS: dict[str, tuple[set[str], ...]] = {
    "wanavatar_lab": (
        {"errors", "settings", "files", "locks"},
        {"profiles", "media"},
        {"requests", "tools"},
        {"runs", "weights"},
        {"metrics"},
        {"wan"},
        {"s2v"},
        {"lora"},
        {"memory"},
        {"stages"},
        {"worker"},
        {"jobs"},
        {"pipeline"},
        {"ui"},
        {"api"},
        {"cli", "bench", "__init__", "__main__"},
    ),
    "training": (
        {"config"},
        {"launch"},
        {"data"},
        {"model"},
        {"loop"},
        {"prepare"},
        {"encode", "train"},
        {"bench"},
        {"bench_run"},
        {"ui"},
        {"pocket"},
    ),
}

# (who, what it never imports, why)
NEVER: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("wanavatar_lab", ("training",), "training builds on the package, never the other way"),
    ("wanavatar_lab.ui", ("torch", "torchvision", "diffusers", "transformers"), "weights stay out of a kernel"),
    ("training.ui", ("torch", "torchvision", "diffusers", "transformers"), "weights stay out of a kernel"),
    ("wanavatar_lab.api", ("torch", "torchvision", "diffusers", "transformers"), "weights stay in the worker"),
    ("wanavatar_lab.api", ("pickle", "shelve", "marshal"), "nothing that a client sends is executed"),
)

# What a client process imports. None of these may load torch, by any chain of imports: a kernel would take 12 s
# instead of 1 s to draw its first panel.
WITHOUT_TORCH = (
    "wanavatar_lab",
    "wanavatar_lab.jobs",
    "wanavatar_lab.requests",
    "wanavatar_lab.runs",
    "wanavatar_lab.weights",
    "wanavatar_lab.lora",
    "wanavatar_lab.memory",
    "wanavatar_lab.pipeline",
    "wanavatar_lab.cli",
    "wanavatar_lab.worker.supervisor",
    "wanavatar_lab.ui",
    "wanavatar_lab.api",
    "training.ui",
)

# Modules that people import from: Tab, `dir` and `help` show their API and nothing that they import themselves.
PUBLIC = (
    "wanavatar_lab",
    "wanavatar_lab.errors",
    "wanavatar_lab.jobs",
    "wanavatar_lab.lora",
    "wanavatar_lab.media",
    "wanavatar_lab.metrics",
    "wanavatar_lab.metrics.evaluate",
    "wanavatar_lab.metrics.lip_sync",
    "wanavatar_lab.pipeline",
    "wanavatar_lab.requests",
    "wanavatar_lab.runs",
    "wanavatar_lab.runs.status",
    "wanavatar_lab.settings",
    "wanavatar_lab.tools",
    "wanavatar_lab.weights",
)

MOST_TOP_FILES = 8
MOST_LINES = 700  # a transformer, a pipeline or a training loop fits; more is several subjects
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}

SOURCES = sorted(
    path.relative_to(ROOT).as_posix() for folder in (*LAYERS, "tests", ".ci") for path in (ROOT / folder).rglob("*.py")
)


def violations(path: str, source: str) -> list[str]:
    """Everything that breaks a rule in one file; `path` is relative to the repository."""
    found = [
        f"{path}: {name!r} says nothing about what is in it"
        for name in Path(path).with_suffix("").parts
        if name.lower() in NAMES_THAT_SAY_NOTHING
    ]
    lines = source.count("\n")
    if lines > MOST_LINES and not path.startswith("tests/"):
        found.append(f"{path}: {lines} lines; a file has at most {MOST_LINES}")
    module = module_of(path)
    for name, line in imports(module, path.endswith("__init__.py"), source):
        found += [f"{path}:{line}: {reason}" for reason in forbidden(module, name)]
    return found


def forbidden(module: str, name: str) -> Iterator[str]:
    """Why `module` may not import `name`; nothing where it may."""
    for who, never, why in NEVER:
        if within(module, who) and any(within(name, what) for what in never):
            yield f"{module} imports {name}: {why}"
    mine, theirs = place(module), place(name)
    if mine is not None and theirs is not None and mine[0] == theirs[0] and theirs[1] > mine[1]:
        yield f"{module} imports {name}, which is above it"


def place(module: str) -> tuple[str, int] | None:
    """Package and layer of a module; None for any other module, and for a bare package."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    levels = [level for level, rooms in enumerate(LAYERS.get(package, ())) if room in rooms]
    return (package, levels[0]) if levels else None


def imports(module: str, is_package: bool, source: str) -> Iterator[tuple[str, int]]:
    """Every module that a source imports, in full, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            # `from wanavatar_lab import ui` imports a room; from anywhere else the module itself says enough
            yield from ((f"{base}.{alias.name}" if base in LAYERS else base, node.lineno) for alias in node.names)


def module_of(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", SOURCES)
def test_file_keeps_the_rules(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("package", LAYERS)
def test_every_room_has_its_layer(package: str) -> None:
    rooms = {Path(path).with_suffix("").parts[1] for path in SOURCES if path.startswith(f"{package}/")}
    known = {room for layer in LAYERS[package] for room in layer} | ({"__init__"} if package == "training" else set())
    assert rooms - known == set(), "give a new room its place in LAYERS"
    assert known - rooms - {"__init__"} == set(), "a room that is gone leaves LAYERS"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_shows_its_api_only(name: str) -> None:
    module = importlib.import_module(name)
    assert dir(module) == sorted(module.__all__) == sorted(set(module.__all__))
    assert all(hasattr(module, each) and not each.startswith("_") for each in module.__all__)
    assert "Path" not in dir(module)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "wanavatar_lab").glob("*/__init__.py")), ids=lambda path: path.parent.name
)
def test_a_room_that_offers_names_says_which(path: Path) -> None:
    """A package that takes names from its own files is a place to import them from."""
    room = f"wanavatar_lab.{path.parent.name}"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    offers = any(isinstance(node, ast.ImportFrom) and within(node.module or "", room) for node in tree.body)
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    said = any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree.body)
    if offers and path.parent.name != "cli":  # a program, which takes its parts to call them
        assert said and "__dir__" in names


def test_few_files_at_the_top() -> None:
    top = [path.name for path in (ROOT / "wanavatar_lab").glob("*.py")]
    assert len(top) <= MOST_TOP_FILES, sorted(top)


def test_every_part_of_a_layer_is_tested_by_its_folder() -> None:
    """Tests mirror the rooms: a room of several files has a folder of tests."""
    for package, folder in (("wanavatar_lab", "tests"), ("training", "tests/training")):
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        tested = {path.name for path in (ROOT / folder).iterdir() if path.is_dir()} | {"pocket"}
        assert rooms - tested == set()


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("wanavatar_lab/runs/run.py", "from wanavatar_lab.jobs import submit", "is above"),
        ("wanavatar_lab/runs/run.py", "from wanavatar_lab import jobs", "is above"),
        ("wanavatar_lab/runs/run.py", "import wanavatar_lab.cli", "is above"),
        ("wanavatar_lab/wan/load.py", "from wanavatar_lab.s2v.transformer import X", "is above"),
        ("wanavatar_lab/stages/upscale.py", "from wanavatar_lab.worker.error_messages import X", "is above"),
        ("wanavatar_lab/media/video_reader.py", "from ..stages import upscale", "is above"),
        ("wanavatar_lab/media/__init__.py", "from ..stages import upscale", "is above"),
        ("wanavatar_lab/errors.py", "from . import runs", "is above"),
        ("wanavatar_lab/stages/upscale.py", "def run():\n    from wanavatar_lab.ui import panel", "is above"),
        ("wanavatar_lab/ui/form.py", "import torch.nn as nn", "weights stay out"),
        ("wanavatar_lab/ui/form.py", "def draw():\n    from diffusers import DiffusionPipeline", "weights stay out"),
        ("training/ui/curves.py", "import torch", "weights stay out"),
        ("wanavatar_lab/api/tasks.py", "def f():\n    import diffusers", "weights stay in the worker"),
        ("wanavatar_lab/api/body.py", "import pickle", "nothing that a client sends is executed"),
        ("training/loop/step.py", "from training.pocket.world import mouth", "is above"),
        ("training/ui/report.py", "def show():\n    from training.pocket.judge import reading", "is above"),
        ("training/data/samples.py", "from training.loop.loss import noisy", "is above"),
        ("wanavatar_lab/lora/find.py", "from training.loop.loss import weighted", "never the other way"),
        ("wanavatar_lab/media/utils.py", "", "says nothing"),
        ("training/helpers/video.py", "", "says nothing"),
        ("wanavatar_lab/runs/run.py", "\n" * 701, "at most 700"),
    ],
)
def test_a_violation_is_found(path: str, source: str, complaint: str) -> None:
    (found,) = violations(path, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wanavatar_lab/jobs.py", "from wanavatar_lab.worker import queue\nfrom wanavatar_lab import runs"),
        ("wanavatar_lab/media/video_reader.py", "from .audio import read_audio\nfrom ..errors import MediaError"),
        ("wanavatar_lab/media/__init__.py", "from .audio import read_audio\nfrom wanavatar_lab import __version__"),
        ("wanavatar_lab/ui/form.py", "from wanavatar_lab import jobs\nimport torchlike"),
        ("training/train.py", "from wanavatar_lab.s2v import transformer\nimport torch"),
        ("training/pocket/train_demo.py", "from training.ui import curves\nfrom training.loop import step"),
        ("tests/test_long.py", "\n" * 701),
    ],
)
def test_what_is_allowed_is_left_alone(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_clients_do_not_load_torch() -> None:
    # a page imports the modules of the widgets one by one
    faces = ("wanavatar_lab/ui/", "wanavatar_lab/api/", "training/ui/")
    widgets = [module_of(path) for path in SOURCES if path.startswith(faces)]
    code = (
        "import importlib, sys\n"
        f"for module in {[*WITHOUT_TORCH, *widgets]}:\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'importing {module} imports torch')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Which room may import which: the arrows of the design, as tables, and the check that holds them.

Faces → jobs → worker → stages → s2v, lora, residency, speed, parallel → media, runs, requests. A room imports its own
layer or a lower one, whether at the top of a file or inside a function.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "wanavatar_lab"

# lowest first; a new module of the package gets its place here
LAYERS: tuple[set[str], ...] = (
    {"errors", "settings", "files", "listing", "locks", "reserve"},
    {"requests", "extensions", "profiles", "weights", "media", "metrics"}
    | {"status", "runs", "trash", "manifest", "failures", "ending"},
    {"s2v", "lora", "residency", "speed", "parallel"},
    {"stages"},
    {"progress", "warm", "execution", "worker", "worker_process"},
    {"lane", "keeper", "jobs"},
    {"chain"},
    {"ui", "api", "cli", "bench", "check", "headless", "__init__", "__main__"},
)

# (who, what it never imports, why)
NEVER: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("wanavatar_lab", ("training",), "training builds on the package, never the other way"),
    ("wanavatar_lab.ui", ("torch", "torchvision", "diffusers", "transformers"), "weights stay out of a kernel"),
    ("training.ui", ("torch", "torchvision", "diffusers", "transformers"), "weights stay out of a kernel"),
)

# what a client process loads: none of these may bring torch with it, by whatever way
WITHOUT_TORCH = (
    "__init__",
    "errors",
    "settings",
    "files",
    "requests",
    "profiles",
    "weights",
    "runs",
    "lora",
    "residency",
    "jobs",
    "chain",
    "ui",
    "api",
    "check",
    "cli",
)

MOST_LINES = 400
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def violations(path: str, source: str) -> list[str]:
    """Everything that breaks a rule in one file; `path` is relative to the repository."""
    found = [
        f"{path}: {name!r} says nothing about what is in it"
        for name in Path(path).with_suffix("").parts
        if name.lower() in NAMES_THAT_SAY_NOTHING
    ]
    lines = source.count("\n")
    if lines > MOST_LINES and not path.startswith("tests/"):
        found.append(f"{path}: {lines} lines; a file holds at most {MOST_LINES}")
    module = module_of(path)
    for name, line in imports(module, path.endswith("__init__.py"), source):
        found += [f"{path}:{line}: {reason}" for reason in forbidden(module, name)]
    return found


def forbidden(module: str, name: str) -> Iterator[str]:
    """Why `module` may not import `name`; nothing where it may."""
    for who, never, why in NEVER:
        if within(module, who) and any(within(name, what) for what in never):
            yield f"{module} imports {name}: {why}"
    mine, theirs = layer(module), layer(name)
    if mine is not None and theirs is not None and theirs > mine:
        yield f"{module} imports {name}, which stands above it"


def layer(module: str) -> int | None:
    """The layer of a module of the package; None for any other module, and for the bare package."""
    top, _, rest = module.partition(".")
    if top != PACKAGE or not rest:
        return None
    room = rest.partition(".")[0]
    return next((level for level, rooms in enumerate(LAYERS) if room in rooms), None)


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
            yield from ((f"{base}.{alias.name}" if base == PACKAGE else base, node.lineno) for alias in node.names)


def module_of(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (PACKAGE, "training", "tests", ".ci")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES)
def test_file_keeps_the_rules(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_room_has_its_place() -> None:
    rooms = {Path(path).with_suffix("").parts[1] for path in SOURCES if path.startswith(PACKAGE)}
    assert rooms - {room for layer in LAYERS for room in layer} == set(), "give a new room its place in LAYERS"


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("wanavatar_lab/runs/run.py", "from wanavatar_lab.jobs import submit", "stands above"),
        ("wanavatar_lab/runs/run.py", "from wanavatar_lab import jobs", "stands above"),
        ("wanavatar_lab/runs/run.py", "import wanavatar_lab.cli", "stands above"),
        ("wanavatar_lab/media/video.py", "from ..stages import upscale", "stands above"),
        ("wanavatar_lab/media/__init__.py", "from ..stages import upscale", "stands above"),
        ("wanavatar_lab/errors.py", "from . import runs", "stands above"),
        ("wanavatar_lab/stages/upscale.py", "def run():\n    from wanavatar_lab.ui import panels", "stands above"),
        ("wanavatar_lab/worker/process.py", "from wanavatar_lab import jobs", "stands above"),
        ("wanavatar_lab/ui/form.py", "import torch.nn as nn", "weights stay out"),
        ("wanavatar_lab/ui/form.py", "def draw():\n    from diffusers import DiffusionPipeline", "weights stay out"),
        ("training/ui/training_card.py", "import torch", "weights stay out"),
        ("wanavatar_lab/lora.py", "from training.loop.loss import weighted", "never the other way"),
        ("wanavatar_lab/media/utils.py", "", "says nothing"),
        ("training/helpers/video.py", "", "says nothing"),
        ("wanavatar_lab/runs/run.py", "\n" * 401, "at most 400"),
    ],
)
def test_a_violation_is_found(path: str, source: str, complaint: str) -> None:
    (found,) = violations(path, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wanavatar_lab/jobs.py", "from wanavatar_lab.worker.process import serve\nfrom wanavatar_lab import runs"),
        ("wanavatar_lab/media/video.py", "from .audio import read_audio\nfrom ..errors import MediaError"),
        ("wanavatar_lab/media/__init__.py", "from .audio import read_audio\nfrom wanavatar_lab import __version__"),
        ("wanavatar_lab/ui/form.py", "from wanavatar_lab import jobs\nimport torchlike"),
        ("training/train.py", "from wanavatar_lab.s2v import transformer\nimport torch"),
        ("tests/test_long.py", "\n" * 401),
    ],
)
def test_what_is_allowed_is_left_alone(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_a_client_does_not_load_torch() -> None:
    present = {Path(path).with_suffix("").parts[1] for path in SOURCES if path.startswith(PACKAGE)}
    modules = [PACKAGE if room == "__init__" else f"{PACKAGE}.{room}" for room in WITHOUT_TORCH if room in present]
    # a page imports them one by one
    modules += [module_of(path) for path in SOURCES if path.startswith(f"{PACKAGE}/ui/")]
    code = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'importing {module} imports torch')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

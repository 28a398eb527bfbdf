"""Production training stands without the toy world."""

import ast
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[2] / "training"
PRODUCTION = sorted(path for path in TRAINING.rglob("*.py") if "pocket" not in path.relative_to(TRAINING).parts)


@pytest.mark.parametrize("path", PRODUCTION, ids=lambda path: path.relative_to(TRAINING).as_posix())
def test_nothing_imports_the_toy_world(path: Path) -> None:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    assert [name for name in names if f"{name}.".startswith("training.pocket.")] == []

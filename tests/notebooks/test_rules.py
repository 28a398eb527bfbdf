"""What every notebook keeps to."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from wanavatar_lab.requests import STAGE_REQUESTS, fields_of

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
MOST_CELLS, MOST_LINES = 10, 20
OPENED = "## The pipeline itself"  # the heading below which a notebook loads networks into its kernel
# a line for each field of the stage that has most, and one for `interactive`
MOST_PARAMETERS = max(len(fields_of(request)) for request in STAGE_REQUESTS.values()) + 1


@pytest.fixture(params=sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.name)
def notebook(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def code_cells(notebook: Path) -> list[Any]:
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


def test_it_begins_with_what_one_learns_and_is_short(notebook: Path) -> None:
    assert nbformat.read(notebook, as_version=4).cells[0].cell_type == "markdown"
    cells = code_cells(notebook)
    assert len(cells) <= MOST_CELLS
    for cell in cells:
        most = MOST_PARAMETERS if "parameters" in cell.metadata.get("tags", []) else MOST_LINES
        assert cell.source.count("\n") < most


def test_it_was_committed_without_outputs(notebook: Path) -> None:
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))


def test_papermill_finds_every_parameter(notebook: Path) -> None:
    (cell,) = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    written = [node.target.id for node in ast.parse(cell.source).body if isinstance(node, ast.AnnAssign)]  # type: ignore[union-attr]
    found = papermill.inspect_notebook(str(notebook))
    assert list(found) == written
    assert {facts["inferred_type_name"] for facts in found.values()} <= {"str", "bool", "int", "float"}
    assert found["interactive"]["default"] == "True"


def test_no_network_is_loaded_into_the_kernel_but_where_a_pipeline_is_opened() -> None:
    """What the cells import, in one process after another notebook's, brings no torch."""
    code, opened = ["import sys"], []
    for path in sorted(FOLDER.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if OPENED in cell.source:
                opened.append(path.stem)
                break
            tree = ast.parse(cell.source if cell.cell_type == "code" else "")
            code += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        code += ["if 'torch' in sys.modules:", f"    sys.exit('{path.name} imports torch')"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=FOLDER.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert opened == ["01_text_to_image", "03_image_to_video", "04_speech_to_video"]

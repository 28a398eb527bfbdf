"""Parameters of a notebook that is run without anyone at it: what is refused, and what a failing cell says."""

from pathlib import Path

import nbformat
import pytest

from wanavatar_lab import errors
from wanavatar_lab.cli import run_notebook
from wanavatar_lab.errors import LabError, RequestError

PARAMETERS = """\
interactive: bool = True  # whether someone looks on
name: str = "a"  # a text
count: int = 3
share: float = 0.5"""


def notebook(folder: Path, code: str = "print(name, count, share, interactive)") -> Path:
    path = folder / "a.ipynb"
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    )
    made.cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    nbformat.write(made, path)
    return path


def test_values_get_the_types_of_the_defaults(tmp_path: Path) -> None:
    texts = {"interactive": "False", "name": "7", "count": "-1", "share": "2"}
    values = run_notebook.read_parameters(notebook(tmp_path), texts)
    assert values == {"interactive": False, "name": "7", "count": -1, "share": 2.0}
    assert [type(value) for value in values.values()] == [bool, str, int, float]


def test_what_does_not_fit_is_refused_all_at_once(tmp_path: Path) -> None:
    texts = {"interactve": "False", "interactive": "perhaps", "count": "1.5", "share": "half"}
    with pytest.raises(RequestError) as told:
        run_notebook.read_parameters(notebook(tmp_path), texts)
    assert told.value.problems == [
        ("interactve", "a.ipynb has no such parameter; did you mean 'interactive'?"),
        ("interactive", "must be True or False (got 'perhaps')"),
        ("count", "must be an integer (got '1.5')"),
        ("share", "must be a number (got 'half')"),
    ]


def test_a_refused_parameter_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "a.ipynb"
    assert run_notebook.main([str(notebook(tmp_path)), str(out), "-p", "nmae", "b"]) == errors.REFUSED
    assert capsys.readouterr().err == "wanavatar-lab: nmae: a.ipynb has no such parameter; did you mean 'name'?\n"
    assert not out.parent.exists()


def test_a_missing_notebook_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"There is no notebook at .*none\.ipynb"):
        run_notebook.read_parameters(tmp_path / "none.ipynb", {})


def test_what_is_no_notebook_and_a_folder_that_cannot_be_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.ipynb").write_text("{")
    assert run_notebook.main([str(tmp_path / "cut.ipynb"), str(tmp_path / "out.ipynb")]) == 1
    assert "cut.ipynb cannot be read as a notebook: " in capsys.readouterr().err
    assert run_notebook.main([str(notebook(tmp_path)), str(tmp_path / "cut.ipynb" / "out.ipynb")]) == 1
    assert f"{tmp_path / 'cut.ipynb'} cannot be made (File exists)." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("from wanavatar_lab.errors import MediaError\nraise MediaError('It is empty.')", "It is empty"),
        ("raise KeyError('no such thing')", "KeyError: 'no such thing'"),
    ],
)
def test_a_failing_cell_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, text: str
) -> None:
    out = tmp_path / "out" / "a.ipynb"
    assert run_notebook.main([str(notebook(tmp_path, code)), str(out), "-p", "count", "4"]) == errors.FAILED
    assert capsys.readouterr().err == f"wanavatar-lab: {text}. The cell where it happened is marked in {out}.\n"
    assert out.is_file()


def test_the_notebook_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = notebook(tmp_path)
    before = path.read_bytes()
    (tmp_path / "link.ipynb").symlink_to(path)
    for out in (path, tmp_path / "link.ipynb", tmp_path):
        assert run_notebook.main([str(path), str(out)]) == errors.REFUSED
        said = "out: must be a file, and another one than the notebook, which stays as it is (got '"
        assert said in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_kernel_that_dies_or_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = notebook(tmp_path, "import os\nos._exit(1)"), tmp_path / "out.ipynb"
    assert run_notebook.main([str(path), str(out)]) == errors.FAILED
    assert "wanavatar-lab: The kernel ended in the middle of a cell" in capsys.readouterr().err
    assert nbformat.read(out, 4).cells[0].source == PARAMETERS
    path.write_text(path.read_text().replace('"python3"', '"gone"'))
    assert run_notebook.main([str(path), str(out)]) == errors.FAILED
    assert f"wanavatar-lab: {path} asks for the kernel 'gone', which is not installed." in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_and_another_json_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = tmp_path / "full.ipynb"
    full.symlink_to("/dev/full")
    assert run_notebook.main([str(notebook(tmp_path)), str(full)]) == errors.FAILED
    assert f"wanavatar-lab: {full} cannot be written: No space left on device.\n" in capsys.readouterr().err
    (tmp_path / "other.ipynb").write_text('{"a": 1}')
    assert run_notebook.main([str(tmp_path / "other.ipynb"), str(tmp_path / "out.ipynb")]) == errors.FAILED
    assert "other.ipynb cannot be read as a notebook: " in capsys.readouterr().err

"""What a notebook refuses of what papermill gave it, as a kernel's history shows it."""

import ast
from typing import Any

import pytest

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.ui.parameters import check_parameters, chosen

WRITTEN = """\
profile: str = "pocket"  # which models
interactive: bool = True
prompt: str = "a cat"
aspect: str = "default"
num_inference_steps: int = 4
seed: int = -1
out: str = "../runs"
count: int = 3
share: float = 0.5
steps: str = "default"
"""


def notebook(given: str | None, *between: str) -> dict[str, Any]:
    """The names of a notebook whose two first cells have run, with its history as a kernel keeps it."""
    history = ["", *between, WRITTEN, *([f"# Parameters\n{given}\n"] if given is not None else []), "%time check()"]
    names: dict[str, Any] = {}
    for code in (WRITTEN, given or ""):
        exec(code, names)
    return {**names, "In": history}


def problems(given: str, request_class: type[TextToImage] | None = None) -> list[tuple[str, str]]:
    with pytest.raises(RequestError) as told:
        check_parameters(notebook(given), request_class)
    return told.value.problems


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        'profile = "full"\ninteractive = False\nseed = 7',
        "share = 1\nsteps = 4",
        'steps = "4"\nshare = 0.25',
        "steps = 2.5",
    ],
)
def test_what_fits_passes(given: str | None) -> None:
    check_parameters(notebook(given))
    check_parameters(notebook(given, "import os", "%matplotlib inline"))


def test_outside_of_a_notebook_nothing_is_checked() -> None:
    check_parameters({"profil": "full"})


def test_unknown_names_and_wrong_kinds_are_named_all_at_once() -> None:
    given = 'profil = "full"\ninteractive = 0\ncount = 1.5\nshare = "half"\nout = 7.5\nsteps = True\nseed = None'
    assert problems(given) == [
        ("profil", "this notebook has no such parameter; did you mean 'profile'?"),
        ("interactive", "must be True or False (got 0)"),
        ("count", "must be an integer (got 1.5)"),
        ("share", "must be a number (got 'half')"),
        ("out", "must be text (got 7.5); papermill's -p reads it so: pass it with -r"),
        ("steps", "must be text (got True)"),
        ("seed", "must be an integer (got None)"),
    ]


def test_a_whole_number_for_a_text_is_text_and_names_the_option(caplog: pytest.LogCaptureFixture) -> None:
    names = notebook("prompt = 1984\nout = 7\nsteps = 4\nseed = 8")
    values = chosen(TextToImage, names)
    assert (values["prompt"], names["out"], names["steps"], values["seed"]) == ("1984", "7", 4, 8)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "prompt is the number 1984 to papermill's -p" in lines[0] and lines[1].endswith("-r.")


@pytest.mark.parametrize("value", ["True", "1e5", "2.50"])
def test_a_text_that_papermill_has_changed_is_refused_with_the_option(value: str) -> None:
    assert problems(f"prompt = {value}", TextToImage) == [
        ("prompt", f"must be text (got {ast.literal_eval(value)!r}); papermill's -p reads it so: pass it with -r")
    ]


def test_a_field_is_left_to_its_request_but_for_none() -> None:
    check_parameters(notebook("num_inference_steps = 'many'\nprompt = 7"), TextToImage)
    assert problems("seed = None", TextToImage) == [
        ("seed", "must be an integer from 0 to 4294967295, or -1 to draw one (got None)")
    ]
    with pytest.raises(RequestError, match=r"sede: .* did you mean 'seed'\?"):
        chosen(TextToImage, notebook("sede = 1"))


def test_the_newest_given_cell_counts() -> None:
    names = notebook("seed = 1", WRITTEN, "# Parameters\nsede = 1\n")
    check_parameters(names)


def test_fields_are_chosen_but_those_left_to_the_profile() -> None:
    values = chosen(TextToImage, notebook("seed = 7"))
    assert values == {"profile": "pocket", "prompt": "a cat", "num_inference_steps": 4, "seed": 7}
    written = chosen(TextToImage, notebook("seed = 7"), without=("prompt", "seed"))
    assert written == {"profile": "pocket", "num_inference_steps": 4}
    with pytest.raises(RequestError, match=r"sede: this notebook has no such parameter; did you mean 'seed'\?"):
        chosen(TextToImage, notebook("sede = 7"), without=("prompt", "seed"))

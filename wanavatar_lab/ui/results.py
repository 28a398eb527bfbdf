"""What a run made, as its panel shows it: a picture made of another lies over that one, with an edge to move."""

from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import fields_of
from wanavatar_lab.runs import Run
from wanavatar_lab.status import main_artifact
from wanavatar_lab.ui.fields.control import alert
from wanavatar_lab.ui.urls import can_show


def result_of(run: Run) -> widgets.Widget:
    """The view of a run that has succeeded; where the page cannot show what it made, why not."""
    from wanavatar_lab.ui.compare import Compare

    try:
        made = run.status().artifacts
        main = run.path(main_artifact(made, run.request().artifact))
        larger = next((run.path(artifact) for artifact in made if artifact.role == "upscaled"), None)
        before, after = (_before(run), main) if larger is None else (main, larger)
        if before is not None and can_show(before) and can_show(after):
            return Compare(before, after)
    except LabError as error:
        return widgets.HTML(alert(str(error)))
    return view_of([run.path(artifact) for artifact in made])


def view_of(files: Sequence[Path | str]) -> widgets.Widget:
    """The view of pictures, clips and recordings; where the page cannot show them, why not."""
    from wanavatar_lab.ui.player import show

    try:
        return show(files)
    except LabError as error:
        return widgets.HTML(alert(str(error)))


def _before(run: Run) -> Path | None:
    """The picture that a run made a picture of."""
    request = run.request()
    if request.artifact != "picture":
        return None
    views = fields_of(type(request))
    return next((path for name, path in request.input_files().items() if views[name].widget == "picture"), None)

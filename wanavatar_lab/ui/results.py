"""What a run made, as its panel shows it: a picture made of a picture lies over that one, with an edge to move."""

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
    from wanavatar_lab.ui.player import show

    try:
        made = run.status().artifacts
        before, after = _before(run), run.path(main_artifact(made, run.request().artifact))
        if before is not None and can_show(before) and can_show(after):
            return Compare(before, after)
        return show([run.path(artifact) for artifact in made])
    except LabError as error:
        return widgets.HTML(alert(str(error)))


def _before(run: Run) -> Path | None:
    """The picture that a run made a picture of."""
    request = run.request()
    if request.artifact != "picture":
        return None
    views = fields_of(type(request))
    return next((path for name, path in request.input_files().items() if views[name].widget == "picture"), None)

"""A run is a folder: the request, a status, a log, the files made, and a manifest to make them again."""

from wanavatar_lab.runs.dataframe import records, table
from wanavatar_lab.runs.run import Run, list_runs, runs_folder
from wanavatar_lab.runs.status import Artifact, Status

__all__ = ["Artifact", "Run", "Status", "list_runs", "records", "runs_folder", "table"]


def __dir__() -> list[str]:
    return __all__

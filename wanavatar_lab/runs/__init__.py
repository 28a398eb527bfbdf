"""A run is a folder: the request, a status, a log, the files made, and a manifest to make them again."""

from wanavatar_lab.runs.run import Run, list_runs, runs_folder

__all__ = ["Run", "list_runs", "runs_folder"]

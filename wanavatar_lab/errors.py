"""What can go wrong, as the user should hear it.

Every error here is a whole sentence or two: what was wrong, with the value, and what to do. The faces
(notebooks, widgets, command line, REST) print `str(error)` and nothing else.
"""


class LabError(Exception):
    """An error whose text is meant for the user as it stands."""


class RequestError(LabError):
    """A request that is refused before anything loads.

    Args:
        problems: `(field, message)` for every field at fault; the message names the value and what is allowed.
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{field}: {message}" if field else message for field, message in problems))


class MediaError(LabError):
    """A picture, video or audio file that cannot be read or written."""


class WeightsError(LabError):
    """Weights that are missing, or whose tensors are not what the model needs."""


class RunError(LabError):
    """A run that is unknown, or whose folder is damaged."""


class DiskFull(LabError):
    """No room left for a file that a run has to write."""


class Cancelled(Exception):
    """Raised inside a stage when the user has asked for the run to end; not an error."""

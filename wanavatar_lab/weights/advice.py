"""What a run that lacks weights says: which ones, how large they are, and the one command that gets them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.weights.entries import Weights
from wanavatar_lab.weights.table import weights_at
from wanavatar_lab.weights.words import amount


def not_there(stage: str, location: Path, otherwise: str = "") -> WeightsError:
    """The error of a stage whose weights are not at `location`; `otherwise` is what else can be done."""
    weights = weights_at(location)
    how = f" {how_to_get(weights)}" if weights is not None else ""
    return WeightsError(
        f"The weights of {stage} are not at {location}.{how} Where they lie elsewhere, set WANAVATAR_WEIGHTS to the "
        f"folder that has them{otherwise}."
    )


@contextmanager
def says_how_to_get(location: Path) -> Iterator[None]:
    """Add the command that gets them to errors about weights at `location`.

    Raises:
        WeightsError: as it was raised inside, with the command behind it.
    """
    try:
        yield
    except WeightsError as error:
        weights = weights_at(location)
        if weights is None:
            raise
        raise WeightsError(f"{error} {how_to_get(weights)}") from error


def how_to_get(weights: Weights) -> str:
    """A sentence with the command."""
    if weights.ships:
        return f"They ship with the repository: `git checkout -- weights/{weights.place}` brings them back."
    command = f"`wanavatar-lab weights download {weights.name}` gets what is missing ({amount(weights.size)} in all)"
    if weights.gated:
        return f"{command}, once you have accepted the licence at https://huggingface.co/{weights.source}."
    return f"{command}."

"""How a request names a LoRA and its weights. What a request does not name is not applied."""

from typing import Annotated, Any

from pydantic import model_validator

from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.requests.request import Described, refused

MOST_LORAS = 32
MOST_WEIGHT = 2.0

Name = Annotated[
    str,
    spec(
        widget="text",
        min_length=1,
        max_length=200,
        allowed="the name of a LoRA as the list of LoRAs shows it",
        label="Name",
        help="As the list of LoRAs shows it.",
    ),
]


class WrittenAdapter(Described):
    """An adapter that can also be written as text: a name and weights with colons between."""

    name: Name

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        weights = [name for name in cls.model_fields if name != "name"]
        parts = [part.strip() for part in value.split(":")]
        if len(parts) > 1 + len(weights):
            raise refused(f"must be {adapter_text(cls)}")
        # one weight written for two is meant for both
        written = parts[1:] + parts[-1:] * (len(weights) + 1 - len(parts)) if len(parts) > 1 else []
        return {"name": parts[0], **dict(zip(weights, written, strict=False))}


class LoraChoice(WrittenAdapter):
    """A LoRA for video, with a weight for high noise (structure, pose) and one for low noise (detail)."""

    high_weight: Annotated[
        float,
        spec(
            widget="float",
            ge=0.0,
            le=MOST_WEIGHT,
            ui_range=(0.0, 1.5),
            label="High-noise weight",
            help="Strength in the noisy steps, which settle structure and pose. 0 turns it off.",
        ),
    ] = 1.0
    low_weight: Annotated[
        float,
        spec(
            widget="float",
            ge=0.0,
            le=MOST_WEIGHT,
            ui_range=(0.0, 1.5),
            label="Low-noise weight",
            help="Strength in the last steps, which settle detail. 0 turns it off.",
        ),
    ] = 1.0


class ImageLoraChoice(WrittenAdapter):
    """A LoRA for pictures, with one weight."""

    weight: Annotated[
        float,
        spec(
            widget="float",
            ge=0.0,
            le=MOST_WEIGHT,
            ui_range=(0.0, 1.5),
            label="Weight",
            help="Strength of the adapter. 0 turns it off.",
        ),
    ] = 1.0


def adapter_text(model: type[Described]) -> str:
    """How an adapter is written as text, in words."""
    return (
        "a LoRA as " + ":".join(name.upper() for name in model.model_fields) + f" (weights from 0 to {MOST_WEIGHT:g})"
    )


def read_adapters(value: Any) -> Any:
    """A list of adapters from what a command line or papermill can hold: a list, or one text with commas between."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, tuple) else value


def hold_adapters(adapters: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse an adapter that is named twice."""
    names = [adapter.name for adapter in adapters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise refused(f"must name each LoRA once: {twice[0]!r} is named twice")
    return adapters

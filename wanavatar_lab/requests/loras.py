"""How a request names a LoRA and its weights. LoRAs that a request does not name are not applied.

A weight that is not given is the LoRA's usual one, which is read when the run is submitted (`lora.resolve`).
"""

from typing import Annotated, Any

from pydantic import model_validator

from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.requests.request import Described, refused

MOST_LORAS = 32
LEAST_WEIGHT, MOST_WEIGHT = -5.0, 5.0
WEIGHTS_ALLOWED = f"from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"

_NAMED = "the name of a LoRA as the list of LoRAs shows it"


class WrittenAdapter(Described):
    """An adapter that can also be written as text: a name and weights, separated by colons."""

    name: Annotated[str, spec("Name", widget="text", min_length=1, max_length=200, allowed=_NAMED)]
    """As shown in the LoRA list."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        weights = [name for name in cls.model_fields if name != "name"]
        name, *written = (part.strip() for part in value.split(":"))
        if len(written) > len(weights):
            text = ":".join(field.upper() for field in cls.model_fields)
            raise refused(f"must be a LoRA as {text} (weights {WEIGHTS_ALLOWED})")
        # a single weight is meant for both noises
        written += written[-1:] * (len(weights) - len(written))
        return {"name": name, **dict(zip(weights, written, strict=False))}


def _weight(label: str) -> Any:
    # most weights are between 0 and 1.5, where a slider ends; those of sliders and of distilled LoRAs can be typed
    return spec(label, ge=LEAST_WEIGHT, le=MOST_WEIGHT, ui_range=(0.0, 1.5))


class LoraChoice(WrittenAdapter):
    """A LoRA for video, with a weight for high noise (structure, pose) and one for low noise (detail)."""

    high_weight: Annotated[float | None, _weight("High-noise weight")] = None
    """Strength in the noisy steps, which settle structure and pose. 0 turns it off, below 0 reverses it. Automatic is
    the usual weight of the LoRA."""
    low_weight: Annotated[float | None, _weight("Low-noise weight")] = None
    """Strength in the last steps, which settle detail. 0 turns it off, below 0 reverses it. Automatic is the usual
    weight of the LoRA."""


class ImageLoraChoice(WrittenAdapter):
    """A LoRA for pictures, with one weight."""

    weight: Annotated[float | None, _weight("Weight")] = None
    """Strength of the adapter. 0 turns it off, below 0 reverses it. Automatic is its usual weight."""


def read_adapters(value: Any) -> Any:
    """A list of adapters as a command line or papermill passes it: a list, or one text separated by commas."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, tuple) else value


def refuse_repeated(adapters: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse an adapter that is named twice.

    Raises:
        PydanticCustomError: with the first such name.
    """
    names = [adapter.name for adapter in adapters]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise refused(f"must name each LoRA once: {twice[0]!r} is named twice")
    return adapters

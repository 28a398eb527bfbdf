"""Fields that more than one stage has."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from wanavatar_lab.requests.field_spec import spec, translated
from wanavatar_lab.requests.loras import MOST_LORAS, ImageLoraChoice, LoraChoice, hold_adapters, read_adapters
from wanavatar_lab.requests.sizes import RESOLUTION_ALLOWED, read_resolution

LONGEST_PROMPT = 10_000
LARGEST_SEED = 2**32 - 1

NegativePrompt = Annotated[
    str,
    spec(
        widget="textarea",
        group="advanced",
        max_length=LONGEST_PROMPT,
        label="Negative prompt",
        help="What should not appear. The default is the text published with the model.",
    ),
]

Resolution = Annotated[
    str,
    AfterValidator(read_resolution),
    spec(
        widget="size",
        unit="px",
        allowed=RESOLUTION_ALLOWED,
        label="Resolution",
        help=(
            "Width x height of the video: 480x832 is faster, 720x1280 sharper. auto, 480p and 720p keep the shape of "
            "the picture, at the profile's usual area or at the one named."
        ),
    ),
]

VideoSteps = Annotated[
    int,
    spec(
        widget="int",
        unit="steps",
        ge=1,
        le=100,
        label="Steps",
        help="Denoising steps. More steps take longer and usually give finer results.",
    ),
]

GuidanceScale = Annotated[
    float,
    spec(
        widget="float",
        ge=1.0,
        le=20.0,
        label="Guidance scale",
        help="How closely the result follows the prompt. 1 turns guidance off, which is faster.",
    ),
]

Seed = Annotated[
    int,
    spec(
        widget="seed",
        ge=-1,
        le=LARGEST_SEED,
        allowed=f"an integer from 0 to {LARGEST_SEED}, or -1 to draw one",
        label="Seed",
        help="The same seed and settings give the same result. -1 draws a new one and notes it with the run.",
    ),
]

Offload = Annotated[
    Literal["auto", "none", "model", "group", "fp8"],
    spec(
        widget="select",
        group="advanced",
        options={
            "auto": translated("Automatic"),
            "none": translated("Off: all on the GPU"),
            "model": translated("Model by model"),
            "group": translated("Layer by layer"),
            "fp8": translated("8-bit weights"),
        },
        label="Offload",
        help=(
            "Keeps models in main memory until they are needed, or stores them in 8 bits, a little less exact, so "
            "that less GPU memory is enough."
        ),
    ),
]

VideoLoras = Annotated[
    tuple[LoraChoice, ...],
    BeforeValidator(read_adapters),
    spec(
        widget="loras",
        group="advanced",
        max_length=MOST_LORAS,
        allowed=f"up to {MOST_LORAS} LoRAs, each a name with high_weight and low_weight from 0 to 2",
        label="LoRAs",
        help="Adapters for a person, a motion or a camera move. What is not named here is not applied.",
    ),
    AfterValidator(hold_adapters),
]

ImageLoras = Annotated[
    tuple[ImageLoraChoice, ...],
    BeforeValidator(read_adapters),
    spec(
        widget="loras",
        group="advanced",
        max_length=MOST_LORAS,
        allowed=f"up to {MOST_LORAS} LoRAs, each a name with a weight from 0 to 2",
        label="LoRAs",
        help="Adapters for a style or a person. What is not named here is not applied.",
    ),
    AfterValidator(hold_adapters),
]

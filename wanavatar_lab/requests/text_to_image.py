"""text_to_image: a sentence becomes a picture."""

from typing import Annotated, ClassVar, Literal

from wanavatar_lab.profiles import SIZE_MULTIPLE
from wanavatar_lab.requests.field_spec import Words, spec, translated
from wanavatar_lab.requests.fields import LONGEST_PROMPT, GuidanceScale, ImageLoras, Seed
from wanavatar_lab.requests.request import Request
from wanavatar_lab.requests.sizes import LARGEST_SIDE, SMALLEST_SIDE


class TextToImage(Request):
    """A picture from a prompt, with FLUX.2-klein; enlarged twofold if `upscale`."""

    stage: ClassVar[str] = "text_to_image"
    labels: ClassVar[Words] = translated("Text to image")
    help: ClassVar[Words] = translated("Make a picture from a sentence.")
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"

    prompt: Annotated[
        str,
        spec(
            widget="textarea",
            min_length=1,
            max_length=LONGEST_PROMPT,
            allowed=f"text of 1 to {LONGEST_PROMPT} characters",
            label="Prompt",
            help="What the picture shows. Whole sentences work best.",
        ),
    ]
    aspect: Annotated[
        Literal["portrait", "landscape", "square"],
        spec(
            widget="select",
            options={
                "portrait": translated("Portrait"),
                "landscape": translated("Landscape"),
                "square": translated("Square"),
            },
            label="Aspect",
            help="Shape of the picture. A width and height of your own come before it.",
        ),
    ] = "portrait"
    width: Annotated[
        int | None,
        spec(
            widget="int",
            unit="px",
            group="advanced",
            ge=SMALLEST_SIDE,
            le=LARGEST_SIDE,
            step=SIZE_MULTIPLE,
            label="Width",
            help="Leave it empty to go by the aspect; otherwise give the height too.",
        ),
    ] = None
    height: Annotated[
        int | None,
        spec(
            widget="int",
            unit="px",
            group="advanced",
            ge=SMALLEST_SIDE,
            le=LARGEST_SIDE,
            step=SIZE_MULTIPLE,
            label="Height",
            help="Leave it empty to go by the aspect; otherwise give the width too.",
        ),
    ] = None
    num_inference_steps: Annotated[
        int,
        spec(
            widget="int",
            unit="steps",
            ge=1,
            le=12,
            label="Steps",
            help="Denoising steps. The model was distilled for 4.",
        ),
    ] = 4
    guidance_scale: GuidanceScale = 1.0
    seed: Seed = -1
    upscale: Annotated[
        bool,
        spec(
            widget="checkbox",
            label="Upscale twofold",
            help="Also make the picture twice as wide and high with Real-ESRGAN.",
        ),
    ] = True
    loras: ImageLoras = ()

    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels, before upscaling."""
        if self.width is not None and self.height is not None:
            return self.width, self.height
        return self.the_profile().aspects[self.aspect]

    def _conflicts(self) -> list[tuple[str, str]]:
        if (self.width is None) == (self.height is None):
            return []
        missing, given = ("height", "width") if self.height is None else ("width", "height")
        return [(missing, f"is missing beside {given} {getattr(self, given)}; give both, or neither to use the aspect")]

"""text_to_image: a picture from a prompt."""

from typing import Annotated, Any, ClassVar, Literal

from wanavatar_lab.profiles import SIZE_MULTIPLE
from wanavatar_lab.requests.field_spec import Words, spec, translated
from wanavatar_lab.requests.fields import LONGEST_PROMPT, Attention, GuidanceScale, ImageLoras, Seed
from wanavatar_lab.requests.request import Request
from wanavatar_lab.requests.sizes import LARGEST_SIDE, SMALLEST_SIDE

_PROMPT_ALLOWED = f"text of 1 to {LONGEST_PROMPT} characters"


def _side(label: str) -> Any:
    return spec(label, unit="px", group="advanced", ge=SMALLEST_SIDE, le=LARGEST_SIDE, step=SIZE_MULTIPLE)


class TextToImage(Request):
    """A picture from a prompt, with FLUX.2-klein; enlarged twofold if `upscale`."""

    stage: ClassVar[str] = "text_to_image"
    labels: ClassVar[Words] = translated("Text to image")
    help: ClassVar[Words] = translated("Make a picture from a sentence.")
    artifact: ClassVar[str] = "picture"
    suffix: ClassVar[str] = ".png"

    prompt: Annotated[
        str, spec("Prompt", widget="textarea", min_length=1, max_length=LONGEST_PROMPT, allowed=_PROMPT_ALLOWED)
    ]
    """What the picture shows. Whole sentences work best."""
    aspect: Annotated[
        Literal["portrait", "landscape", "square"],
        spec("Aspect", options={"portrait": "Portrait", "landscape": "Landscape", "square": "Square"}),
    ] = "portrait"
    """Shape of the picture. Width and height, if set, override it."""
    width: Annotated[int | None, _side("Width")] = None
    """Automatic follows the aspect; otherwise set the height too."""
    height: Annotated[int | None, _side("Height")] = None
    """Automatic follows the aspect; otherwise set the width too."""
    num_inference_steps: Annotated[int, spec("Steps", unit="steps", ge=1, le=12)] = 4
    """Denoising steps. The model was distilled for 4."""
    guidance_scale: GuidanceScale = 1.0
    seed: Seed = -1
    upscale: Annotated[bool, spec("Upscale 2x")] = True
    """Also save it twice as wide and high as upscaled.png in the run's folder, with Real-ESRGAN."""
    attention: Attention = "auto"
    loras: ImageLoras = ()

    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels, before upscaling."""
        if self.width is not None and self.height is not None:
            return self.width, self.height
        width, height = self.the_profile().aspects[self.aspect]
        return width, height

    def _conflicts(self) -> list[tuple[str, str]]:
        if (self.width is None) == (self.height is None):
            return []
        missing, given = ("height", "width") if self.height is None else ("width", "height")
        return [(missing, f"is required with {given} {getattr(self, given)}; give both, or neither to use the aspect")]

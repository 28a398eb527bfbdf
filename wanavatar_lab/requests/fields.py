"""Fields that more than one stage has."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.requests.loras import (
    MOST_LORAS,
    WEIGHTS_ALLOWED,
    ImageLoraChoice,
    LoraChoice,
    read_adapters,
    refuse_repeated,
)
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.requests.sizes import RESOLUTION_ALLOWED, read_resolution

LONGEST_PROMPT = 10_000
LARGEST_SEED = 2**32 - 1  # the largest that numpy's generators take

_NEGATIVE_PROMPT = "What should not appear. The default is the text published with the model."
_RESOLUTION = (
    "auto, 480p and 720p keep the aspect ratio of the picture: 480p is faster, 720p sharper, auto as large as is usual "
    "for the profile. Width x height crops the picture."
)
_SOLVER = (
    "How the steps are computed: UniPC is the models' default, DPM++ the other solver of their own command line, Euler "
    "what distilled LoRAs are trained for."
)
_STEPS = "Denoising steps. More steps take longer and usually give finer results."
_GUIDANCE = "How closely the result follows the prompt. 1 turns guidance off, which is faster."
_SPEED = (
    "Exact computes every step. Balanced and fast predict a part of the forward passes from earlier steps: balanced "
    "as many as leave hardly any difference, fast at least two of three."
)
_USE_TEACACHE = "Leaves out steps in which the time embedding changes little. Speed has to be exact with it."
_TEACACHE_THRESH = "Steps are left out until the changes add up to this. A larger value leaves out more steps."
_SEED = "The same seed and settings give the same result. -1 draws a random seed and records it with the run."
_OFFLOAD = (
    "Saves GPU memory: models wait in main memory until they are needed, or are stored in 8 bits, slightly less "
    "exact. Automatic goes by free memory."
)
_OFFLOAD_MODES = {
    "auto": "Automatic",
    "none": "Off: all on the GPU",
    "model": "Model by model",
    "group": "Layer by layer",
    "fp8": "8-bit weights",
}
_ATTENTION = (
    "The kernels of self-attention. Automatic takes the fastest that is installed, by a measurement on this GPU; "
    "SageAttention, which rounds to 8 bits, only when chosen."
)
_ATTENTIONS = {
    "auto": "Automatic",
    "sdpa": "PyTorch SDPA",
    "cudnn": "cuDNN",
    "flash3": "FlashAttention 3",
    "flash4": "FlashAttention 4",
    "sage": "SageAttention",
}
_QUANTIZATION = (
    "FP8 multiplies weights and activations of the large layers in 8 bits: faster on NVIDIA GPUs from the RTX 40 "
    "series and the H100 on, with less GPU memory, and slightly less exact."
)
_VIDEO_LORAS = "For a person, a motion or a camera move. Only the LoRAs selected here are applied."
_IMAGE_LORAS = "For a style or a person. Only the LoRAs selected here are applied."

NegativePrompt = Annotated[
    str, spec("Negative prompt", _NEGATIVE_PROMPT, widget="textarea", group="advanced", max_length=LONGEST_PROMPT)
]
Resolution = Annotated[
    str,
    AfterValidator(read_resolution),
    spec("Resolution", _RESOLUTION, widget="size", unit="px", allowed=RESOLUTION_ALLOWED),
]
VideoSteps = Annotated[int, spec("Steps", _STEPS, unit="steps", ge=1, le=100)]
SampleSolver = Annotated[
    Literal["unipc", "dpm++", "euler"],
    spec("Solver", _SOLVER, group="advanced", options={"unipc": "UniPC", "dpm++": "DPM++", "euler": "Euler"}),
]
Speed = Annotated[
    Literal["exact", "balanced", "fast"],
    spec("Speed", _SPEED, options={"exact": "Exact", "balanced": "Balanced", "fast": "Fast"}),
]
UseTeacache = Annotated[bool, spec("Use TeaCache", _USE_TEACACHE, group="advanced")]
TeacacheThresh = Annotated[float, spec("TeaCache threshold", _TEACACHE_THRESH, group="advanced", gt=0.0, le=1.0)]
GuidanceScale = Annotated[float, spec("Guidance scale", _GUIDANCE, ge=1.0, le=20.0)]
_SEEDS = f"an integer from 0 to {LARGEST_SEED}, or -1 to draw one"
Seed = Annotated[int, spec("Seed", _SEED, widget="seed", ge=-1, le=LARGEST_SEED, allowed=_SEEDS)]
Offload = Annotated[
    Literal["auto", "none", "model", "group", "fp8"],
    spec("Offload", _OFFLOAD, group="advanced", options=_OFFLOAD_MODES),
]

Attention = Annotated[
    Literal["auto", "sdpa", "cudnn", "flash3", "flash4", "sage"],
    spec("Attention", _ATTENTION, group="advanced", options=_ATTENTIONS),
]
Quantization = Annotated[
    Literal["none", "fp8"],
    spec("Quantization", _QUANTIZATION, group="advanced", options={"none": "None: exact", "fp8": "FP8 (W8A8)"}),
]


def quantization_conflicts(request: Any) -> list[tuple[str, str]]:
    """What is wrong where a video request has products in float8 and weights that change between layers."""
    if request.quantization == "none" or request.offload not in ("group", "fp8"):
        return []
    return [("quantization", must_be(f"none with offload {request.offload}", request.quantization))]


def step_saving_conflicts(request: Any) -> list[tuple[str, str]]:
    """What is wrong where a video request saves steps in more than one way."""
    ways = [
        name for name, off in (("use_teacache", False), ("step_cache", "off")) if getattr(request, name, off) != off
    ]
    if request.speed != "exact" and ways:
        return [("speed", must_be(f"exact with {ways[0]}", request.speed))]
    return [("use_teacache", must_be("false with step_cache", True))] if len(ways) > 1 else []


def _loras(help: str, weights: str) -> Any:
    allowed = f"up to {MOST_LORAS} LoRAs, each a name with {weights} {WEIGHTS_ALLOWED}"
    return spec("LoRAs", help, widget="loras", group="advanced", max_length=MOST_LORAS, allowed=allowed)


VideoLoras = Annotated[
    tuple[LoraChoice, ...],
    BeforeValidator(read_adapters),
    _loras(_VIDEO_LORAS, "high_weight and low_weight"),
    AfterValidator(refuse_repeated),
]
ImageLoras = Annotated[
    tuple[ImageLoraChoice, ...],
    BeforeValidator(read_adapters),
    _loras(_IMAGE_LORAS, "a weight"),
    AfterValidator(refuse_repeated),
]

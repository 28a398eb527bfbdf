"""The LoRAs that a request names: found by name, and checked against the stage's network before anything loads."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from wanavatar_lab.errors import RequestError, WeightsError
from wanavatar_lab.lora.base_model import STAGE_MODELS, base_of, network_widths
from wanavatar_lab.lora.find import PICTURES, ROOTS, VIDEO, Adapter, find_adapters, sidecar_of
from wanavatar_lab.lora.keys import DIFF, DOWN, parse_key
from wanavatar_lab.requests import Request, TextToImage
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights.safetensors_header import read_header, tensor_shapes
from wanavatar_lab.weights.table import download_command, weights_of_lora

AnyRequest = TypeVar("AnyRequest", bound=Request)

NEAREST = 3  # names that an error suggests
LATENT_CHANNELS = 16  # of Wan's VAE: what a patch embedding takes that was not widened for inpainting
LISTED = 10  # names that an error lists if none is near


def resolve(names: Iterable[str], stage: str, weights_dir: Path) -> list[Adapter]:
    """The adapters of these names, in this order.

    Args:
        names: as the list of LoRAs shows them.
        stage: text_to_image takes LoRAs for pictures, the others those for video.
        weights_dir: the folder that holds `loras`.

    Raises:
        RequestError: some names have no LoRA; the text suggests the nearest.
    """
    names = list(names)
    adapters = find_adapters(weights_dir) if names else []
    pictures = stage == TextToImage.stage
    known = {adapter.name: adapter for adapter in adapters if adapter.for_pictures == pictures}
    others = {adapter.name for adapter in adapters if adapter.for_pictures != pictures}
    folder = weights_dir / ROOTS[0] / (PICTURES if pictures else VIDEO)
    problems = [
        (f"loras[{index}].name", f"{name!r} is not there; {_advice(name, list(known), others, folder)}")
        for index, name in enumerate(names)
        if name not in known
    ]
    if problems:
        raise RequestError(problems)
    return [known[name] for name in names]


def check_loras(request: Request) -> None:
    """Check the LoRAs that a request names, by their names and headers.

    Raises:
        RequestError: a name has no LoRA, its file cannot be read, or it is for another model.
    """
    named = getattr(request, "loras", ())
    if not named:
        return
    weights_dir = read_settings().weights_dir
    width = network_widths(weights_dir).get((request.profile, request.stage))
    problems = []
    for index, adapter in enumerate(resolve((lora.name for lora in named), request.stage, weights_dir)):
        for file in adapter.files.values():
            try:
                base = base_of(tensor_shapes(file))
            except WeightsError as error:
                problems.append((f"loras[{index}].name", str(error)))
                continue
            if base.fits(request.stage) and (None in (width, base.width) or width == base.width):
                continue
            theirs, ours = base.name, STAGE_MODELS[request.stage][0]
            if base.fits(request.stage):  # the same kind of network in another size
                theirs, ours = f"{theirs} ({base.width} wide)", f"{ours} ({width} wide)"
            wrong = f"{adapter.name!r} is for {theirs}, not for {ours}; leave it out, or get the one for this model"
            problems.append((f"loras[{index}].name", wrong))
    if problems:
        raise RequestError(list(dict.fromkeys(problems)))


def with_usual_weights(request: AnyRequest) -> AnyRequest:
    """The request with a number for every weight: where it has none, the usual weight of the LoRA, else 1.

    Raises:
        RequestError: a name has no LoRA.
        WeightsError: a file cannot be read.
    """
    named = getattr(request, "loras", ())
    if all(weight is not None for lora in named for weight in vars(lora).values()):
        return request
    chosen = []
    adapters = resolve((lora.name for lora in named), request.stage, read_settings().weights_dir)
    for lora, adapter in zip(named, adapters, strict=True):
        usual = sidecar_of(adapter, [read_header(file) for file in adapter.files.values()]).usual_weight
        weights = {name: weight for name, weight in vars(lora).items() if weight is not None}
        chosen.append({**dict.fromkeys(type(lora).model_fields, 1.0 if usual is None else usual), **weights})
    return request.changed(loras=chosen)


def trained_for_inpainting(request: Request) -> bool:
    """Whether a LoRA of a request has weights for the channels that show S2V what is given of a video.

    Raises:
        RequestError: a name has no LoRA.
        WeightsError: a file cannot be read.
    """
    names = [lora.name for lora in getattr(request, "loras", ())]
    files = [file for one in resolve(names, request.stage, read_settings().weights_dir) for file in one.files.values()]
    return any(
        key.module == "patch_embedding" and key.part in (DOWN, DIFF) and len(shape) > 1 and shape[1] > LATENT_CHANNELS
        for file in files
        for key, shape in ((parse_key(text), shape) for text, shape in tensor_shapes(file).items())
    )


def _advice(name: str, known: list[str], others: set[str], folder: Path) -> str:
    if (weights := weights_of_lora(name)) is not None:
        return download_command(weights)
    if name in others:
        return f"it is among the LoRAs for {'video' if folder.name == PICTURES else 'pictures'}, and not in {folder}"
    near = difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.5)
    # a folder in front, or part of the name, is often what is missing
    near += [other for other in known if name.lower() in other.lower() and other not in near][: NEAREST - len(near)]
    if near:
        return f"did you mean {' or '.join(map(repr, near))}? `wanavatar-lab loras` lists them"
    return f"there are {', '.join(known[:LISTED])}" if known else f"put the file into {folder}"

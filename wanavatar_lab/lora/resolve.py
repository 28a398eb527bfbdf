"""The LoRAs that a request names: found, and seen to be for its network, before anything loads."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from wanavatar_lab.errors import RequestError, WeightsError
from wanavatar_lab.lora.base_model import STAGE_MODELS, Base, base_of, networks
from wanavatar_lab.lora.find import PICTURES, ROOTS, VIDEO, Adapter, find_adapters
from wanavatar_lab.requests import Request, TextToImage
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights.safetensors_header import read_header

NEAREST = 3  # names that an error suggests


def choose(names: Iterable[str], stage: str, weights_dir: Path) -> list[Adapter]:
    """The adapters of these names, in this order.

    Args:
        names: as the list of LoRAs shows them.
        stage: text_to_image takes those for pictures, the others those for video.
        weights_dir: where LoRAs are looked for.

    Raises:
        RequestError: there are no LoRAs of some names; the nearest are suggested.
    """
    names = list(names)
    if not names:
        return []
    pictures = stage == TextToImage.stage
    adapters = find_adapters(weights_dir)
    known = {adapter.name: adapter for adapter in adapters if adapter.for_pictures == pictures}
    others = {adapter.name for adapter in adapters if adapter.for_pictures != pictures}
    folder = weights_dir / ROOTS[0] / (PICTURES if pictures else VIDEO)
    problems = []
    for place, name in enumerate(names):
        if name not in known:
            problems.append((f"loras[{place}].name", f"{name!r} is not there; {_advice(name, known, others, folder)}"))
    if problems:
        raise RequestError(problems)
    return [known[name] for name in names]


def check_loras(request: Request) -> None:
    """Check the LoRAs that a request names, by their names and headers.

    Raises:
        RequestError: there is no LoRA of a name, its file cannot be read, or it is for another model.
    """
    named = getattr(request, "loras", ())
    if not named:
        return
    weights_dir = read_settings().weights_dir
    adapters = choose((lora.name for lora in named), request.stage, weights_dir)
    mine = (network for network in networks(weights_dir) if network.serves(request.profile, request.stage))
    width = next((network.width for network in mine), None)
    problems = []
    for place, adapter in enumerate(adapters):
        for file in adapter.files.values():
            try:
                base = base_of(read_header(file).shapes)
            except WeightsError as error:
                problems.append((f"loras[{place}].name", str(error)))
                continue
            if not base.fits(request.stage) or (None not in (width, base.width) and width != base.width):
                problems.append((f"loras[{place}].name", _wrong_model(adapter.name, base, request.stage, width)))
    if problems:
        raise RequestError(list(dict.fromkeys(problems)))


def _wrong_model(name: str, base: Base, stage: str, width: int | None) -> str:
    theirs, ours = base.name, STAGE_MODELS[stage][0]
    if base.fits(stage):  # the same kind of network in another size
        theirs, ours = f"{theirs} ({base.width} wide)", f"{ours} ({width} wide)"
    return f"{name!r} is for {theirs}, not for {ours}; leave it out, or get the one for this model"


def _advice(name: str, known: Iterable[str], others: Iterable[str], folder: Path) -> str:
    known = list(known)
    if name in others:
        return f"it lies among the LoRAs for {'video' if folder.name == PICTURES else 'pictures'}, and not in {folder}"
    near = difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.5)
    # a folder in front, or part of the name, is often what is missing
    near += [one for one in known if name.lower() in one.lower() and one not in near][: NEAREST - len(near)]
    if near:
        return f"did you mean {' or '.join(map(repr, near))}? `wanavatar-lab loras` lists them"
    return f"there are {', '.join(known[:10])}" if known else f"put the file into {folder}"

"""The LoRAs under the weights folder, and what their headers and the files beside them say.

    <weights>/loras/img/*.safetensors                             for pictures
    <weights>/loras/mov/{character,move,camera}/*.safetensors     for video
    <weights>/loras/mov/distilled/*/*.safetensors                 for few steps, as `weights download` puts them

The older folder name `lora_adpts` counts too, and so do folders below these. Two files whose names differ in high and
low noise only are one adapter, for the two experts of Wan2.2-I2V.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.files import files_below
from wanavatar_lab.lora.base_model import UNKNOWN, base_of, network_widths
from wanavatar_lab.lora.keys import ALPHA, DOWN, count_image_branch, not_finite, noted_alphas, parse_key
from wanavatar_lab.lora.sidecar import Sidecar, read_sidecar
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.weights.safetensors_header import Header, read_header

ROOTS = ("loras", "lora_adpts")
PICTURES, VIDEO = "img", "mov"

HIGH, LOW, BOTH = "high", "low", "both"

# with "noise" a name says which expert; "high" or "H" alone counts only if the file with the other word is beside it
_NOISE = re.compile(r"(?<![a-z])(high|low)[ _.-]?noise(?:[ _.-]?model)?(?![a-z])", re.IGNORECASE)
_NOISE_IN_CAMEL = re.compile(r"(High|Low)Noise(?:Model)?(?![a-z])")
_SHORT = re.compile(
    r"(?:(?<![A-Za-z])(?:high|low|HIGH|LOW|High|Low|HN|LN|hn|ln|H|L)|(?<=[a-z0-9])(?:High|Low))(?![A-Za-z])"
)


@dataclass(frozen=True)
class Adapter:
    """One LoRA, of one file or two.

    Attributes:
        name: as requests use it: the file's name without its ending and, for a pair, without high and low noise, with
            as many of its folders in front as make it unique.
        kind: img, or for video the folder: character, move, camera, distilled; mov if it is in none of them.
        files: by the noise that each is for: high, low or both.
    """

    name: str
    kind: str
    files: Mapping[str, Path]

    @property
    def for_pictures(self) -> bool:
        """Whether it is for pictures rather than for video."""
        return self.kind == PICTURES


@dataclass(frozen=True)
class Description:
    """An entry of the list of LoRAs.

    Attributes:
        left_out: how many keys are for parts of Wan2.1-I2V that no network here has, by the part (`k_img`, …).
        problem: empty if its files can be read.
    """

    name: str
    kind: str
    files: dict[str, str]
    bytes: int = 0
    rank: tuple[int, int] | None = None
    alpha: tuple[float, float] | None = None
    base: str = "unknown"
    fits: list[str] = field(default_factory=list)
    trigger_words: list[str] = field(default_factory=list)
    preview: str | None = None
    description: str = ""
    link: str = ""
    usual_weight: float | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; rank and alpha as the smallest and the largest, since they may differ by layer."""
        return dict(vars(self))


def find_adapters(weights_dir: Path | str) -> list[Adapter]:
    """All LoRAs under the weights folder, by kind and name. No file is opened.

    Links to folders are followed, as other programs' folders of LoRAs are often linked. What is no regular file is
    listed too, so that `describe` can name it.

    Args:
        weights_dir: the folder that holds `loras`.
    """
    found: list[tuple[str, tuple[str, ...], dict[str, Path]]] = []
    for root in ROOTS:
        by_folder: dict[Path, list[Path]] = {}
        for path in files_below(Path(weights_dir) / root, "*.safetensors", regular=False, follow_links=True):
            by_folder.setdefault(path.parent, []).append(path)
        for folder, files in by_folder.items():
            parts = folder.relative_to(Path(weights_dir) / root).parts
            # a hidden folder has the files of a download that is not complete
            if not parts or parts[0] not in (PICTURES, VIDEO) or any(part.startswith(".") for part in parts):
                continue
            kind = PICTURES if parts[0] == PICTURES else parts[1] if len(parts) > 1 else VIDEO
            for stem, pair in _pairs(files):
                # a folder for one pair, its files called high_noise_model and low_noise_model
                found.append((kind, (root, *parts, stem) if stem else (root, *parts), pair))
    names = _shortest_names([(kind == PICTURES, path) for kind, path, _ in found])
    adapters = [Adapter(name, kind, pair) for name, (kind, _, pair) in zip(names, found, strict=True)]
    return sorted(adapters, key=lambda adapter: (not adapter.for_pictures, adapter.kind, adapter.name.lower()))


def describe(adapters: Iterable[Adapter], weights_dir: Path | str) -> list[Description]:
    """Describe adapters by their headers and the files beside them. A file that cannot be read is a `problem`.

    Raises:
        WeightsError: the config of a stage's network is damaged.
    """
    widths = network_widths(Path(weights_dir))
    described = []
    for adapter in adapters:
        files = {noise: file.relative_to(weights_dir).as_posix() for noise, file in adapter.files.items()}
        try:
            headers = [read_header(file) for file in adapter.files.values()]
            alphas = [alpha for header in headers for alpha in _alphas(header)]
        except WeightsError as error:
            described.append(Description(adapter.name, adapter.kind, files, problem=str(error)))
            continue
        tensors = [(parse_key(key).part, shape) for header in headers for key, shape in header.shapes.items()]
        ranks = [shape[0] for part, shape in tensors if part == DOWN and shape]
        base = base_of(headers[0].shapes)
        described.append(
            Description(
                name=adapter.name,
                kind=adapter.kind,
                files=files,
                bytes=sum(header.size for header in headers),
                rank=(min(ranks), max(ranks)) if ranks else None,
                alpha=(min(alphas), max(alphas)) if alphas else None,
                base=base.name,
                fits=[
                    f"{stage}/{profile}"
                    for (profile, stage), width in widths.items()
                    if base.family != UNKNOWN and base.fits(stage) and base.width in (None, width)
                    if adapter.for_pictures == (stage == TextToImage.stage)
                ],
                left_out=count_image_branch(key for header in headers for key in header.shapes),
                **vars(sidecar_of(adapter, headers)),
            )
        )
    return described


def sidecar_of(adapter: Adapter, headers: Sequence[Header]) -> Sidecar:
    """What the files beside an adapter and the metadata of its own files say.

    Args:
        headers: of its files.
    """
    stems = [file.with_suffix("") for file in adapter.files.values()]
    common = stems[0].with_name(adapter.name.rpartition("/")[2])
    # of a pair the first file's metadata have precedence
    metadata = {key: value for header in reversed(headers) for key, value in header.metadata.items()}
    return read_sidecar([*stems, common], metadata)


def noise_of(stem: str) -> tuple[str, str] | None:
    """The expert that a file's name says it is for, high or low, and the name without that; None if it does not say."""
    match = _NOISE.search(stem) or _NOISE_IN_CAMEL.search(stem)
    return (match[1].lower(), _without(stem, match)) if match else None


def _pairs(files: Iterable[Path]) -> list[tuple[str, dict[str, Path]]]:
    """The files of one folder as adapters: name and files by noise."""
    made: dict[str, dict[str, Path]] = {}
    short: dict[str, dict[str, Path]] = {}
    alone: list[Path] = []
    for file in files:
        if said := noise_of(file.stem):
            made.setdefault(said[1], {}).setdefault(said[0], file)
            if made[said[1]][said[0]] != file:  # two spellings of one name: both stay
                alone.append(file)
            continue
        for match in _SHORT.finditer(file.stem):
            noise = HIGH if match[0][0] in "hH" else LOW
            short.setdefault(f"{_without(file.stem, match)}/{len(match[0]) > 2}", {}).setdefault(noise, file)
        alone.append(file)
    for rest, pair in short.items():
        name = rest.rpartition("/")[0]
        if len(pair) == 2 and name not in made and all(file in alone for file in pair.values()):
            made[name] = pair
            alone = [file for file in alone if file not in pair.values()]
    return [*made.items(), *((file.stem, {BOTH: file}) for file in alone)]


def _without(stem: str, match: re.Match[str]) -> str:
    """The stem without the matched words, and without a separator too many."""
    before, after = stem[: match.start()].rstrip(" _.-"), stem[match.end() :].lstrip(" _.-")
    if before and after:
        return f"{before}{stem[match.end()] if stem[match.end()] in ' _.-' else '_'}{after}"
    return before or after


def _shortest_names(places: list[tuple[bool, tuple[str, ...]]]) -> list[str]:
    """For each path the last of its parts that tell it from all others of its group."""
    tails = Counter((group, words[-length:]) for group, words in places for length in range(1, len(words) + 1))
    names = []
    for group, words in places:
        length = next((n for n in range(1, len(words) + 1) if tails[group, words[-n:]] == 1), len(words))
        names.append("/".join(words[-length:]))
    return names


def _alphas(header: Header) -> list[float]:
    noted = noted_alphas(header.metadata, str(header.file))
    tensors = [key for key in header.shapes if parse_key(key).part == ALPHA]
    if tensors:
        alphas = header.scalars(tensors)
        if wrong := {key: alpha for key, alpha in alphas.items() if not math.isfinite(alpha)}:
            raise WeightsError(not_finite(str(header.file), wrong, len(header.shapes)))
        return list(alphas.values())
    return [*noted.by_module.values(), *([] if noted.alpha is None else [noted.alpha])]

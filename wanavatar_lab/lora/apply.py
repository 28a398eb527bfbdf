"""LoRAs in a stage: those that a request names count while it runs, and nothing else does.

Which of a LoRA's two weights counts when: the high-noise weight settles structure, the low-noise weight detail.

Every step has a low-noise share: 0 where the high-noise weight counts, 1 where the low-noise weight does, and between
them where one goes over into the other. Wan2.2-I2V needs no schedule, since each of its experts has one side of the
boundary to itself.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.adapters import Adapters, adapters_of
from wanavatar_lab.lora.find import BOTH, HIGH, LOW, Adapter
from wanavatar_lab.lora.keys import parse_key
from wanavatar_lab.lora.match import Update, match
from wanavatar_lab.lora.resolve import choose
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights.safetensors_header import read_header

BOUNDARY_SIGMA = 0.9  # where Wan2.2-I2V hands over from one expert to the other
RAMP = (0.4, 0.6)  # of the steps


def shares_by_noise(sigmas: Iterable[float], boundary: float = BOUNDARY_SIGMA) -> list[float]:
    """The low-noise share of each step by its sigma (0 to 1): the high-noise weight counts from the boundary up."""
    return [0.0 if sigma >= boundary else 1.0 for sigma in sigmas]


def shares_by_progress(steps: int) -> list[float]:
    """The low-noise share of each step by how many are done: a ramp over the middle fifth, whatever the noise."""
    if steps == 1:
        return [0.5]
    start, end = RAMP
    return [min(max((step / (steps - 1) - start) / (end - start), 0.0), 1.0) for step in range(steps)]


def weight_at(share: float, high: float, low: float, noise: str) -> float:
    """The weight of an update where the low-noise share is `share`.

    Args:
        share: 0 to 1.
        high, low: the request's weights.
        noise: which noise the update's file is for: high, low or both. One for high noise fades out as the share
            grows, and one for low noise fades in.
    """
    of_high = 0.0 if noise == LOW else high * (1 - share)
    of_low = 0.0 if noise == HIGH else low * share
    return of_high + of_low


# the low-noise share of every step, where a network has one side of the boundary to itself
ONLY_HIGH, ONLY_LOW = (0.0,), (1.0,)


@dataclass(frozen=True)
class _Part:
    """What one file holds for one noise.

    Attributes:
        name: of the LoRA.
        noise: high, low or both.
        half: which expert's keys of a file that holds both experts': None takes all.
        high, low: the request's weights.
    """

    name: str
    file: Path
    noise: str
    half: bool | None
    high: float
    low: float

    @property
    def key(self) -> str:
        """What the adapter is called in a network: by its contents, so that a changed file is another adapter."""
        return f"lora_{_sha256(self.file)[:16]}{'' if self.half is None else '_low' if self.half else '_high'}"


@dataclass
class Applied:
    """The LoRAs of a run.

    Attributes:
        record: for the manifest.
    """

    record: list[dict[str, Any]]
    _weights: list[tuple[Adapters, list[dict[str, float]]]] = field(repr=False)

    def at_step(self, step: int) -> bool:
        """Set the weights of a step of the schedule.

        Args:
            step: from 0; beyond the schedule's end it begins anew, as the next segment does.

        Returns:
            Whether any weight is another than before.
        """
        changed = [adapters.set_weights(weights[step % len(weights)]) for adapters, weights in self._weights]
        return any(changed)


@contextmanager
def applied(
    request: TextToImage | ImageToVideo | SpeechToVideo,
    networks: Sequence[tuple[nn.Module, Sequence[float]]],
    log: Callable[[str], None],
) -> Iterator[Applied]:
    """Let the LoRAs of a request count in these networks, from the schedule's first step on, until the block ends.

    All files are matched before the first is put into a network. Adapters of earlier runs that the request does not
    name are taken out; those that it names stay for the next run, but do not count after the block.

    Args:
        request: has `loras`, each with `high_weight` and `low_weight` or with one `weight`.
        networks: each with the low-noise share of its steps (see `schedule`).
        log: hears of weights that have nothing to act on.

    Raises:
        RequestError: there is no LoRA of a name.
        WeightsError: a file is damaged or does not fit a network.
    """
    chosen = choose((lora.name for lora in request.loras), request.stage, read_settings().weights_dir)
    named: list[tuple[Any, Adapter]] = list(zip(request.loras, chosen, strict=True))
    parts = [part for lora, adapter in named for part in _parts(adapter, *_weights(lora))]
    plans = []
    for network, shares in networks:
        schedule = [_weights_at(share, parts) for share in shares]
        wanted = {key for weights in schedule for key, weight in weights.items() if weight != 0}
        fresh = {part.key: part for part in parts if part.key in wanted - adapters_of(network).loaded()}
        plans.append((network, schedule, {key: _read(part, network) for key, part in fresh.items()}))
    held = []
    try:
        for network, schedule, updates in plans:
            adapters = adapters_of(network)
            held.append((adapters, schedule))
            adapters.unload(adapters.loaded() - {part.key for part in parts})
            for key, update in updates.items():
                adapters.load(key, update)
            # what has no weight at any step was not loaded
            known = adapters.loaded()
            schedule[:] = [{key: weight for key, weight in step.items() if key in known} for step in schedule]
        done = Applied([_recorded(*one) for one in named], held)
        done.at_step(0)
        for note in _notes(parts):
            log(note)
        yield done
    finally:
        for adapters, _ in held:
            adapters.set_weights({})


def _weights(lora: Any) -> tuple[float, float]:
    weight = getattr(lora, "weight", None)
    return (lora.high_weight, lora.low_weight) if weight is None else (weight, weight)


def _parts(adapter: Adapter, high: float, low: float) -> Iterator[_Part]:
    for noise, file in adapter.files.items():
        halves = {parse_key(text).low_noise for text in read_header(file).shapes}
        if noise == BOTH and True in halves:
            yield from (_Part(adapter.name, file, LOW if half else HIGH, half, high, low) for half in sorted(halves))
        else:
            yield _Part(adapter.name, file, noise, None, high, low)


def _weights_at(share: float, parts: Sequence[_Part]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in parts:  # the same file under two names adds up
        weights[part.key] = weights.get(part.key, 0.0) + weight_at(share, part.high, part.low, part.noise)
    return weights


def _read(part: _Part, network: nn.Module) -> Update:
    try:
        with safe_open(part.file, framework="pt") as file:
            # a safetensors file is no mapping
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{part.file} cannot be read ({error}). Download it again.") from error
    return match(network, tensors, metadata, part.name, part.half)


def _recorded(lora: Any, adapter: Adapter) -> dict[str, Any]:
    files = {noise: {"name": file.name, "sha256": _sha256(file)} for noise, file in adapter.files.items()}
    return {**lora.model_dump(), "kind": adapter.kind, "files": files}


def _notes(parts: Sequence[_Part]) -> Iterator[str]:
    by_name: dict[str, list[_Part]] = {}
    for part in parts:
        by_name.setdefault(part.name, []).append(part)
    for name, mine in by_name.items():
        noises = {part.noise for part in mine}
        if noises == {HIGH} and mine[0].low:
            yield f"The LoRA {name} has no file for low noise: its low_weight acts on nothing."
        if noises == {LOW} and mine[0].high:
            yield f"The LoRA {name} has no file for high noise: its high_weight acts on nothing."


def _sha256(file: Path) -> str:
    facts = file.stat()
    return _digest(file, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(file: Path, _size: int, _modified: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Apply the LoRAs of a request to the networks of a stage, for the time of a run.

A LoRA for video has two weights: the high-noise weight acts on structure, the low-noise weight on detail. Every step of
a schedule has a low-noise share: 0 where the high-noise weight counts, 1 where the low-noise weight does, and between
them on a ramp. Wan2.2-I2V needs no schedule, since each of its experts works on one side of the boundary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.lora.adapters import Adapters, adapters_of
from wanavatar_lab.lora.find import BOTH, HIGH, LOW, Adapter
from wanavatar_lab.lora.keys import count_image_branch, counts_in_words, parse_key
from wanavatar_lab.lora.match import Update, match
from wanavatar_lab.lora.resolve import resolve, with_usual_weights
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights.safetensors_header import tensor_shapes

BOUNDARY_SIGMA = 0.9  # sigma at which Wan2.2-I2V changes from the high-noise expert to the low-noise expert
RAMP = (0.4, 0.6)  # of the steps: the middle fifth, so that both weights have steps of their own
ONLY_HIGH, ONLY_LOW = (0.0,), (1.0,)  # schedules of a network that works on one side of the boundary


def shares_by_noise(sigmas: Iterable[float], boundary: float = BOUNDARY_SIGMA) -> list[float]:
    """The low-noise share of each step by its sigma (0 to 1): the high-noise weight counts from the boundary up."""
    return [0.0 if sigma >= boundary else 1.0 for sigma in sigmas]


def shares_by_progress(steps: int) -> list[float]:
    """The low-noise share of each of `steps` steps by its index: a ramp, whatever the noise."""
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
    return (0.0 if noise == LOW else high * (1 - share)) + (0.0 if noise == HIGH else low * share)


@dataclass
class Applied:
    """The LoRAs of a run.

    Attributes:
        record: names, weights and files, for the manifest.
    """

    record: list[dict[str, Any]]
    _schedules: list[tuple[Adapters, list[dict[str, float]]]] = field(repr=False)

    def at_step(self, step: int) -> bool:
        """Set the weights of a step of the schedule.

        Args:
            step: from 0; after the schedule's last step it starts over, as the next segment does.

        Returns:
            Whether any weight has changed.
        """
        changed = [adapters.set_weights(schedule[step % len(schedule)]) for adapters, schedule in self._schedules]
        return any(changed)


@contextmanager
def applied(
    request: TextToImage | ImageToVideo | SpeechToVideo,
    networks: Sequence[tuple[nn.Module, Sequence[float]]],
    log: Callable[[str], None],
) -> Iterator[Applied]:
    """Apply the LoRAs of a request to these networks, from the schedule's first step on, until the block ends.

    All files are matched before the first is loaded into a network. Adapters of earlier runs that the request does not
    name are unloaded; those that it names stay loaded for the next run, with weight 0 after the block.

    Args:
        request: has `loras`, each with `high_weight` and `low_weight` or with one `weight`; None is the usual one.
        networks: each with the low-noise share of its steps.
        log: is called with a line for each weight that acts on nothing, and for each LoRA of which keys are left out.

    Raises:
        RequestError: a name has no LoRA.
        WeightsError: a file is damaged, does not fit a network, or has values that are not finite.
    """
    request = with_usual_weights(request)
    resolved = resolve((lora.name for lora in request.loras), request.stage, read_settings().weights_dir)
    named: list[tuple[Any, Adapter]] = list(zip(request.loras, resolved, strict=True))
    parts = [part for lora, adapter in named for part in _parts(lora, adapter)]
    plans = []
    for network, shares in networks:
        schedule: list[dict[str, float]] = [{} for _ in shares]
        for weights, share in zip(schedule, shares, strict=True):
            for part in parts:  # the weights of one file under two names add up
                weight = weight_at(share, part.high, part.low, part.noise)
                weights[part.key] = weights.get(part.key, 0.0) + weight
        # an adapter whose weight is 0 at every step is not loaded
        wanted = {key for weights in schedule for key, weight in weights.items() if weight != 0}
        loaded = adapters_of(network).loaded()
        new = {part.key: part for part in parts if part.key in wanted - loaded}
        updates = {key: _read_update(part, network) for key, part in new.items()}
        known = loaded | wanted
        schedule = [{key: weight for key, weight in weights.items() if key in known} for weights in schedule]
        plans.append((adapters_of(network), schedule, updates))
    try:
        for adapters, _, updates in plans:
            adapters.unload(adapters.loaded() - {part.key for part in parts})
            for key, update in updates.items():
                adapters.load(key, update)
        run = Applied([_record(*each) for each in named], [(adapters, schedule) for adapters, schedule, _ in plans])
        run.at_step(0)
        for adapter, record in zip(resolved, run.record, strict=True):
            if left_out := record.get("left_out"):
                log(
                    f"The LoRA {adapter.name} was trained for Wan2.1-I2V: {sum(left_out.values())} of its keys are for "
                    f"the image branch, which this model does not have, and are left out ({counts_in_words(left_out)})."
                )
            own = [part for part in parts if part.name == adapter.name]
            for noise, other, weight in ((HIGH, LOW, own[0].low), (LOW, HIGH, own[0].high)):
                if weight and {part.noise for part in own} == {noise}:
                    log(f"The LoRA {adapter.name} has no file for {other} noise: its {other}_weight acts on nothing.")
        yield run
    finally:
        for adapters, _, _ in plans:
            adapters.set_weights({})


@dataclass(frozen=True)
class _Part:
    """The updates for one noise in one file of a LoRA.

    Attributes:
        name: of the LoRA.
        noise: high, low or both.
        low_noise: of a file with updates of both experts, which expert's; None for all of a file.
        high, low: the request's weights.
    """

    name: str
    file: Path
    noise: str
    low_noise: bool | None
    high: float
    low: float

    @property
    def key(self) -> str:
        """The adapter's name in a network: by the file's contents, so that a changed file is another adapter."""
        return f"lora_{_sha256(self.file)[:16]}{'' if self.low_noise is None else f'_{self.noise}'}"


def _parts(lora: Any, adapter: Adapter) -> Iterator[_Part]:
    high, low = (getattr(lora, name, getattr(lora, "weight", 0.0)) for name in ("high_weight", "low_weight"))
    for noise, file in adapter.files.items():
        experts = {parse_key(text).low_noise for text in tensor_shapes(file)}
        if noise == BOTH and True in experts:
            for expert in sorted(experts):
                yield _Part(adapter.name, file, LOW if expert else HIGH, expert, high, low)
        else:
            yield _Part(adapter.name, file, noise, None, high, low)


def _read_update(part: _Part, network: nn.Module) -> Update:
    try:
        with safe_open(part.file, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{part.file} cannot be read ({error}). Download it again.") from error
    return match(network, tensors, metadata, part.name, part.low_noise)


def _record(lora: Any, adapter: Adapter) -> dict[str, Any]:
    files = {noise: {"name": file.name, "sha256": _sha256(file)} for noise, file in adapter.files.items()}
    left_out = count_image_branch(key for file in adapter.files.values() for key in tensor_shapes(file))
    return {**lora.model_dump(), "kind": adapter.kind, "files": files, **({"left_out": left_out} if left_out else {})}


def _sha256(file: Path) -> str:
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(file: Path, _size: int, _modified: int) -> str:
    return sha256_of(file)

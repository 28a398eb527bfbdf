"""How many GPUs share a run, and how: as many as make it faster, by estimated times; on a CPU as many as are asked for.
And how many runs are made at the same time where several wait.

Every GPU loads all networks and does everything but the denoising, which they share (`wan/context_parallel.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wanavatar_lab.errors import RequestError
from wanavatar_lab.memory.components import Component
from wanavatar_lab.memory.estimate_time import expected_seconds
from wanavatar_lab.memory.machine import Machine
from wanavatar_lab.memory.workload import Workload
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.runs.ranks import ALONE, Layout

SHARED_STAGES = ("text_to_image", "image_to_video", "speech_to_video")
LEAST_GAIN = 1.1  # times faster than fewer GPUs; for less, others may have the GPU
LEAST_SECONDS = 20.0  # of a run by one GPU; a process that joins takes about as long to load the models


@dataclass(frozen=True)
class Sharing:
    """The GPUs of a run, or on a CPU its processes.

    Attributes:
        layout: what each does.
        reason: why so many, and why so, as the end of a sentence.
        seconds: estimates by number of GPUs; empty where the device is not in the table of rates.
    """

    layout: Layout
    reason: str
    seconds: dict[int, float]


def runs_at_once(profile: Profile, gpus: int, host_bytes: int, asked: str = "auto") -> int:
    """How many runs are made at the same time where several wait: one per GPU, as far as main memory has room.

    Clips an hour grow with the number of GPUs so, and with less when they share each run.

    Args:
        profile: whose models.
        gpus: of one model.
        host_bytes: of main memory.
        asked: auto, or a number, as in the settings.
    """
    return int(asked) if asked != "auto" else max(1, min(gpus, int(host_bytes / (profile.host_gb * 1e9))))


def layout_of(workload: Workload, world: int, *, predicted: bool = False) -> Layout:
    """The faster layout of so many GPUs: passes of guidance need no exchange within a pass, so they are shared first.

    Args:
        workload: of the run.
        world: how many.
        predicted: whether passes are left out, so that of a step there may be one only.
    """
    guidance = 2 if workload.passes == 2 and world % 2 == 0 and not predicted else 1
    return Layout(guidance, world // guidance)


def leaves_out_passes(request: Any) -> bool:
    """Whether passes of a request are left out, so that of a step there may be one only."""
    if isinstance(request, ImageToVideo) and (request.guidance_scale > 1) != (request.low_noise_guidance_scale() > 1):
        return True  # in the steps of one of its networks
    return getattr(request, "speed", "exact") != "exact" or bool(getattr(request, "use_teacache", False))


def choose_sharing(
    workload: Workload,
    components: Sequence[Component],
    machine: Machine,
    asked: str = "auto",
    *,
    predicted: bool = False,
) -> Sharing:
    """Choose for a run.

    Args:
        workload: of the run.
        components: of its stage.
        machine: whose first GPU leads.
        asked: auto, or a number, as in the settings.
        predicted: as for `layout_of`.

    Raises:
        RequestError: there are fewer GPUs than are asked for.
    """
    most, limit = len(machine.gpus), ""
    if workload.stage not in SHARED_STAGES:
        return Sharing(ALONE, f"{workload.stage} is not shared", {})
    if machine.gpus:
        # the slowest would be waited for
        alike = machine.gpus_alike
        most, limit = alike, "" if alike == most else f"the other {most - alike} of the machine are of another model"
        loaded = sum(component.gpu_bytes for component in components)
        if machine.host_free is not None and most > (room := max(1, machine.host_free // max(1, loaded))):
            most, limit = room, "each loads all weights through main memory, which has no room for more"
    layouts = {world: layout_of(workload, world, predicted=predicted) for world in range(1, most + 1)}
    seconds = {}
    for world, layout in layouts.items():
        if (estimate := expected_seconds(workload, components, machine, layout=layout)) is not None:
            seconds[world] = estimate
    if asked != "auto":
        world = int(asked)
        if machine.gpus and world > len(machine.gpus):
            allowed = f"auto, or a number from 1 to {len(machine.gpus)}, the GPUs of this machine"
            raise RequestError([("gpus", must_be(allowed, asked))])
        return Sharing(layout_of(workload, world, predicted=predicted), "as asked", seconds)
    if not machine.gpus:
        return Sharing(ALONE, "a CPU's cores all work for one process already", seconds)
    if not seconds:
        why = (
            "the GPU is not in the table of rates, so that more are taken to be faster" if most > 1 else "there is one"
        )
        return Sharing(layouts[most], limit or why, seconds)
    if most > 1 and seconds[1] < LEAST_SECONDS:
        return Sharing(ALONE, "the run is shorter than it takes others to load the models", seconds)
    best = 1
    for world in layouts:
        if seconds[world] * LEAST_GAIN <= seconds[best]:
            best = world
    if best == most:
        return Sharing(layouts[best], limit or ("there is one" if best == 1 else "all of them make it faster"), seconds)
    return Sharing(layouts[best], f"more would be less than {LEAST_GAIN:g} times faster", seconds)

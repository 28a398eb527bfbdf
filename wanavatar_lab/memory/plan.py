"""A request that cannot fit into memory is refused before anything is loaded.

What a stage needs and where its networks would lie, said before anything is loaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab import media
from wanavatar_lab.memory.activations import Workload, activation_bytes
from wanavatar_lab.memory.choose_offload import Choice, choose, choose_here
from wanavatar_lab.memory.components import Component, stage_components, weights_are_there
from wanavatar_lab.memory.estimate_time import expected_seconds
from wanavatar_lab.memory.machine import Machine
from wanavatar_lab.memory.workload import workload_of
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage
from wanavatar_lab.settings import read_settings


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        profile: whose models.
        work: what is to be made.
        machine: where.
        components: the networks, in the order in which they work.
        activations: bytes beside the weights while each works as chosen, by its name.
        choice: where they lie.
        weights_there: whether their files are there.
        seconds: what one clip, segment or picture takes; an estimate, None where the device is not known.
    """

    profile: str
    work: Workload
    machine: Machine
    components: tuple[Component, ...]
    activations: dict[str, int]
    choice: Choice
    weights_there: bool
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """The same in plain values; sizes are bytes."""
        gpu = self.machine.gpus[0] if self.machine.gpus else None
        return {
            "stage": self.work.stage,
            "profile": self.profile,
            "width": self.work.width,
            "height": self.work.height,
            "frames": self.work.frames,
            "segments": self.work.segments,
            "steps": self.work.steps,
            "passes": self.work.passes,
            "device": "cpu" if gpu is None else "cuda",
            "gpu": None if gpu is None else gpu.name,
            "gpus": len(self.machine.gpus),
            "gpu_total_bytes": None if gpu is None else gpu.total,
            "gpu_free_bytes": None if gpu is None else gpu.free,
            "host_free_bytes": self.machine.host_free,
            "weights_there": self.weights_there,
            "mode": self.choice.mode,
            "takes_turns": self.choice.turns,
            "vae_tiled": self.choice.tiled,
            "reason": self.choice.reason,
            "components": [self._component(each) for each in self.components],
            "peak_gpu_bytes": self.choice.peak_gpu_bytes,
            "host_bytes": self.choice.host_bytes,
            "expected_seconds": None if self.seconds is None else round(self.seconds, 1),
        }

    def _component(self, component: Component) -> dict[str, Any]:
        place = self.choice.places[component.name]
        return {
            "name": component.name,
            "parameters": component.parameters,
            "bytes": component.gpu_bytes,
            "file_bytes": component.file_bytes,
            "activation_bytes": self.activations[component.name],
            "waits": place.waits,
            "works": place.works,
            "bytes_there": place.bytes,
        }


def plan(profile: str, work: Workload, machine: Machine, weights_dir: Path, offload: str = "auto") -> Plan:
    """Plan a stage.

    Args:
        profile: whose models; a name in `PROFILES`.
        work: what is to be made, from `workload_of` or `usual_workload`.
        machine: where, from `this_machine` or `other_machine`.
        weights_dir: where weights lie.
        offload: auto, or a mode that is wanted.

    Raises:
        RequestError: the mode that is wanted does not fit.
        LabError: no mode fits, or the figures of the weights cannot be had.
    """
    models = PROFILES[profile]
    components = stage_components(models, work.stage, weights_dir, "cuda" if machine.gpus else "cpu")
    whole, tiled = (activation_bytes(work, components, tiled) for tiled in (False, True))
    choice = choose(components, whole, machine, offload, tiled)
    return Plan(
        profile=profile,
        work=work,
        machine=machine,
        components=components,
        activations=tiled if choice.tiled else whole,
        choice=choice,
        weights_there=weights_are_there(models, work.stage, weights_dir),
        seconds=expected_seconds(work, components, machine, choice.tiled),
    )


def refuse_what_cannot_fit(request: Request, device: str, host_free: int | None) -> None:
    """See that some mode, or the one that is asked for, has room for the request.

    Nothing is checked where the CPU computes, for stages of others, and where the weights are missing, which loading
    says better.

    Args:
        request: of any stage.
        device: where it is to compute: cpu, cuda or cuda:<n>.
        host_free: main memory that its models may take, in bytes; None if they are loaded.

    Raises:
        RequestError: the mode that is asked for does not fit.
        LabError: no mode fits, or main memory is too small to load the weights.
        MediaError: the picture that says the size cannot be read.
        WeightsError: a weights file is damaged.
    """
    if device.partition(":")[0] == "cpu" or not isinstance(request, TextToImage | ImageToVideo | SpeechToVideo):
        return
    profile, weights_dir = request.the_profile(), read_settings().weights_dir
    if not weights_are_there(profile, request.stage, weights_dir):
        return
    components = stage_components(profile, request.stage, weights_dir, device)
    work = workload_of(request, _size(request))
    offload = "auto" if isinstance(request, TextToImage) else request.offload
    whole, tiled = (activation_bytes(work, components, tiled) for tiled in (False, True))
    choose_here(components, whole, device, host_free, offload, tiled)


def _size(request: TextToImage | ImageToVideo | SpeechToVideo) -> tuple[int, int]:
    if isinstance(request, TextToImage):
        return request.size()
    return request.size(media.read_picture(request.image).size)

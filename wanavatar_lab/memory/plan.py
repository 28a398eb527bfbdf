"""Plan a stage before anything is loaded: its memory, where its networks are and how long it takes.

The worker checks every request so, and refuses one that cannot fit.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab.memory.choose_offload import Choice, choose, choose_for_device
from wanavatar_lab.memory.components import Component, stage_components, weights_are_there
from wanavatar_lab.memory.estimate_time import expected_seconds
from wanavatar_lab.memory.machine import Machine, gpus_of, total_host_bytes
from wanavatar_lab.memory.sharing import SHARED_STAGES, Sharing, choose_sharing, leaves_out_passes, runs_at_once
from wanavatar_lab.memory.workload import Workload, workload_of
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, TextToSpeech
from wanavatar_lab.runs.ranks import ALONE
from wanavatar_lab.settings import read_settings

_CHECKED = (TextToImage, ImageToVideo, TextToSpeech, SpeechToVideo)


@dataclass(frozen=True)
class Plan:
    """What a stage needs.

    Attributes:
        profile: whose models.
        workload: what is computed.
        machine: where.
        components: the networks, in the order in which they run.
        choice: how they share memory.
        sharing: how many GPUs share the run, and how.
        runs_at_once: how many runs are made at the same time where several wait.
        weights_there: whether their files are installed.
        seconds: estimate for one clip, segment or picture; None where the device is not in the table.
    """

    profile: str
    workload: Workload
    machine: Machine
    components: tuple[Component, ...]
    choice: Choice
    sharing: Sharing
    runs_at_once: int
    weights_there: bool
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """The same for machines: sizes in bytes, times in seconds."""
        gpu = self.machine.gpus[0] if self.machine.gpus else None
        choice = self.choice
        return {
            "profile": self.profile,
            **asdict(self.workload),  # the stage, width, height, frames, steps, passes and segments
            "device": "cpu" if gpu is None else "cuda",
            "gpu": None if gpu is None else gpu.name,
            "gpus": len(self.machine.gpus),
            "gpu_total_bytes": None if gpu is None else gpu.total,
            "gpu_free_bytes": None if gpu is None else gpu.free,
            "host_free_bytes": self.machine.host_free,
            "weights_there": self.weights_there,
            "mode": choice.mode,
            "takes_turns": choice.offloaded,
            "vae_tiled": choice.tiled,
            "quantization": choice.quantization,
            "reason": choice.reason,
            "components": [
                {
                    "name": each.name,
                    "parameters": each.parameters,
                    "bytes": each.gpu_bytes,
                    "file_bytes": each.file_bytes,
                    "activation_bytes": choice.activations[each.name],
                    "waits": choice.placements[each.name].idle,
                    "works": choice.placements[each.name].active,
                    "bytes_there": choice.placements[each.name].bytes,
                }
                for each in self.components
            ],
            "peak_gpu_bytes": choice.peak_gpu_bytes,
            "host_bytes": choice.host_bytes,
            "expected_seconds": None if self.seconds is None else round(self.seconds, 1),
            "gpus_used": self.sharing.layout.world,
            "shared": str(self.sharing.layout),
            "gpus_reason": self.sharing.reason,
            "runs_at_once": self.runs_at_once,
            "seconds_by_gpus": {number: round(seconds, 1) for number, seconds in self.sharing.seconds.items()},
        }


def plan(
    profile: str,
    workload: Workload,
    machine: Machine,
    weights_dir: Path,
    offload: str = "auto",
    gpus: str = "auto",
    quantization: str = "none",
) -> Plan:
    """Plan a stage.

    Args:
        profile: whose models; a name in `PROFILES`.
        workload: from `workload_of` or `usual_workload`.
        machine: from `this_machine` or `other_machine`.
        weights_dir: the weights folder.
        offload: auto, or a mode.
        gpus: how many share a run: auto, or a number, as in the settings.
        quantization: of the products of a video stage, as in the request; what time it saves is not estimated.

    Raises:
        RequestError: the mode does not fit, or there are not so many GPUs.
        LabError: no mode fits, or nothing is known of the weights.
    """
    models = PROFILES[profile]
    components = stage_components(models, workload.stage, weights_dir, "cuda" if machine.gpus else "cpu")
    sharing = choose_sharing(workload, components, machine, gpus)
    world, host = sharing.layout.world, machine.host_free
    host_free = None if host is None else host // world
    # each GPU of a shared run has all networks
    one = machine if world == 1 else Machine(machine.gpus[:1], host_free)
    choice = choose(components, workload, one, offload, quantization=quantization)
    return Plan(
        profile=profile,
        workload=workload,
        machine=machine,
        components=components,
        choice=choice,
        sharing=sharing,
        runs_at_once=runs_at_once(models, machine.gpus_alike, total_host_bytes() if host is None else host),
        weights_there=weights_are_there(models, workload.stage, weights_dir),
        seconds=expected_seconds(workload, components, machine, choice.tiled, sharing.layout),
    )


def sharing_of(request: Request, device: str, host_free: int | None, asked: str) -> Sharing:
    """How many GPUs of this machine share a run.

    Args:
        request: of any stage; custom ones are not shared.
        device: where the first process computes: cpu, cuda or cuda:<n>.
        host_free: bytes of host memory that models may take; None if they are loaded.
        asked: auto, or a number.

    Raises:
        RequestError: there are not so many GPUs.
        MediaError: the picture that decides the size cannot be read.
    """
    if asked == "1" or (asked == "auto" and device == "cpu") or request.stage not in SHARED_STAGES:
        return Sharing(ALONE, "", {})
    profile, weights_dir = request.the_profile(), read_settings().weights_dir
    if not weights_are_there(profile, request.stage, weights_dir):
        return Sharing(ALONE, "", {})
    components = stage_components(profile, request.stage, weights_dir, device)
    machine, workload = Machine(gpus_of(device), host_free), workload_of(request, _size_of(request))
    return choose_sharing(workload, components, machine, asked, predicted=leaves_out_passes(request))


def refuse_what_cannot_fit(request: Request, device: str, host_free: int | None, gpus: int = 1) -> None:
    """Check that a request fits into memory.

    Nothing is checked on a CPU, for custom stages, and where weights are missing, which loading reports better.

    Args:
        request: of any stage.
        device: where it computes: cpu, cuda or cuda:<n>.
        host_free: bytes of host memory that its models may take; None if they are loaded.
        gpus: how many share it, none of which is free then for a text encoder.

    Raises:
        RequestError: the mode that the request names does not fit.
        LabError: no mode fits, or host memory is too small to load the weights.
        MediaError: the picture that decides the size cannot be read.
        WeightsError: a weights file is damaged.
    """
    if device.partition(":")[0] == "cpu" or not isinstance(request, _CHECKED):
        return
    profile, weights_dir = request.the_profile(), read_settings().weights_dir
    if not weights_are_there(profile, request.stage, weights_dir):
        return
    components = stage_components(profile, request.stage, weights_dir, device)
    workload, offload = workload_of(request, _size_of(request)), getattr(request, "offload", "auto")
    quantization = getattr(request, "quantization", "none")
    choose_for_device(components, workload, device, host_free, offload, gpus=gpus, quantization=quantization)


def _size_of(request: Any) -> tuple[int, int]:
    """Width and height of what a request makes; 0 and 0 for a voice."""
    if isinstance(request, TextToSpeech):
        return 0, 0
    if isinstance(request, TextToImage):
        return request.size()
    from wanavatar_lab import media  # imports numpy and PyAV, which the command line does without

    source = request.source_size() if isinstance(request, SpeechToVideo) else media.read_picture(request.image).size
    size: tuple[int, int] = request.size(source)
    return size

"""The command plan: memory, offload and run time of a stage, estimated without loading anything."""

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from wanavatar_lab.cli.output import answer
from wanavatar_lab.errors import SUCCEEDED, RequestError
from wanavatar_lab.memory import Machine, Plan, other_machine, this_machine, usual_workload
from wanavatar_lab.memory import plan as make_plan
from wanavatar_lab.memory.choose_offload import OFFLOAD_MODES
from wanavatar_lab.memory.components import PARTS
from wanavatar_lab.memory.sharing import Sharing
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.runs.display import clock
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import amount

GIGABYTE = 10**9
_QUANTIZED = ("image_to_video", "speech_to_video")
_MODES = {
    "none": "all models on the GPU",
    "second_gpu": "text encoder on a second GPU",
    "model": "model by model",
    "fp8": "8-bit weights",
    "group": "layer by layer",
}


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument("planned", metavar="STAGE", help=", ".join(map(_dashed, PARTS)))
    command.add_argument(
        "--profile", metavar="{" + ",".join(PROFILES) + "}", default="full", help="which models (default full)"
    )
    command.add_argument("--resolution", metavar="WxH", help="or auto, 480p or 720p (default: the stage's)")
    command.add_argument("--frames", metavar="N", help="of the clip, or of a speech segment (default: the stage's)")
    command.add_argument("--clips", metavar="N", help="what so many clips, segments or pictures cost, a GPU each")
    modes = ("auto", *OFFLOAD_MODES)
    command.add_argument("--offload", metavar="{" + ",".join(modes) + "}", default="auto", help="default auto")
    command.add_argument(
        "--quantization",
        metavar="{none,fp8}",
        default="none",
        help="of a video stage, as in its request (default none)",
    )
    other = command.add_argument_group("plan for another machine")
    other.add_argument("--gpu-memory", metavar="GB", help="memory of each GPU in 10⁹ bytes")
    other.add_argument("--host-memory", metavar="GB", help="free main memory in 10⁹ bytes")
    other.add_argument("--gpus", metavar="N", help="number of GPUs; 0 plans for the CPU")
    other.add_argument(
        "--gpu", metavar="NAME", help="model of these GPUs, such as 4090 or H200, to estimate the run time"
    )


def plan(arguments: argparse.Namespace) -> int:
    """Print the plan.

    Raises:
        RequestError: an argument is not allowed, or the given offload mode does not fit.
        LabError: no mode fits, or the sizes of the weights cannot be read.
    """
    if arguments.offload not in ("auto", *OFFLOAD_MODES):
        allowed = f"one of {', '.join(map(repr, ('auto', *OFFLOAD_MODES)))}"
        raise RequestError([("offload", must_be(allowed, arguments.offload))])
    if arguments.quantization not in ("none", "fp8"):
        raise RequestError([("quantization", must_be("one of 'none', 'fp8'", arguments.quantization))])
    frames = _number("frames", arguments.frames)
    stage = arguments.planned.replace("-", "_")
    work = usual_workload(stage, arguments.profile, arguments.resolution, None if frames is None else int(frames))
    settings = read_settings()
    shared = settings.gpus if arguments.gpus is None else "auto"  # what is said of a machine is said of all its GPUs
    if arguments.quantization != "none" and stage not in _QUANTIZED:
        raise RequestError([("quantization", f"does not apply to {stage}; leave it out")])
    made = make_plan(
        arguments.profile,
        work,
        _machine(arguments),
        settings.weights_dir,
        arguments.offload,
        shared,
        arguments.quantization,
    )
    clips = _number("clips", arguments.clips)
    cost = {} if clips is None else _cost(made, int(clips))
    if arguments.json:
        answer(made.to_json() | cost)
    else:
        answer("\n".join([*_lines(made), *([] if clips is None else [_cost_line(made, cost)])]))
    return SUCCEEDED


def _cost(made: Plan, clips: int) -> dict[str, Any]:
    """What so many clips cost where each has a GPU of its own; computed from the estimate of one, without loading."""
    alone = made.sharing.seconds.get(1, made.seconds)
    at_once = max(1, made.runs_at_once)
    return {
        "clips": clips,
        "gpu_hours": None if alone is None else round(clips * alone / 3600, 1),
        "clips_an_hour_and_gpu": None if alone is None else round(3600 / alone, 1),
        "hours_here": None if alone is None else round(math.ceil(clips / at_once) * alone / 3600, 1),
    }


def _cost_line(made: Plan, cost: dict[str, Any]) -> str:
    if cost["gpu_hours"] is None:
        return f"clips     {cost['clips']}: unknown; see --gpu"
    what = f"{cost['gpu_hours']} GPU hours, {cost['clips_an_hour_and_gpu']} an hour and GPU, computed"
    return f"clips     {cost['clips']}: {what}; {cost['hours_here']} hours with {made.runs_at_once} at a time"


def _machine(arguments: argparse.Namespace) -> Machine:
    memory = _number("gpu-memory", arguments.gpu_memory)
    host, gpus = _number("host-memory", arguments.host_memory), _number("gpus", arguments.gpus)
    host_bytes = None if host is None else int(host * GIGABYTE)
    if memory is not None:
        return other_machine(int(memory * GIGABYTE), 1 if gpus is None else int(gpus), host_bytes, arguments.gpu)
    if arguments.gpu is not None:  # this machine's GPUs have names of their own
        problem = "is of another machine, whose memory has to be known; give it too, as in --gpu-memory 24"
        raise RequestError([("gpu", f"{problem} (got {arguments.gpu!r})")])
    # imports torch, which only a plan for this machine needs
    from wanavatar_lab.worker.execute import choose_device

    machine = this_machine("cpu" if gpus == 0 else choose_device())
    if gpus is not None:
        if gpus > len(machine.gpus):
            problem = f"{int(gpus)} are more than the {len(machine.gpus)} here; give --gpu-memory for another machine"
            raise RequestError([("gpus", problem)])
        machine = replace(machine, gpus=machine.gpus[: int(gpus)])
    return machine if host_bytes is None else replace(machine, host_free=host_bytes)


def _number(name: str, text: str | None) -> float | None:
    """The value of a numeric option; None if it is not given."""
    if text is None:
        return None
    whole = name in ("frames", "gpus", "clips")
    allowed = f"{'an integer' if whole else 'a number'}{' from 0' if name == 'gpus' else ' above 0'}, at most 100000"
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = -1
    if not (0 <= value <= 100_000) or (value == 0 and name != "gpus"):
        raise RequestError([(name, must_be(allowed, text))])
    return value


def _lines(made: Plan) -> Iterator[str]:
    work, choice = made.workload, made.choice
    yield f"{_dashed(work.stage)}, profile {made.profile}: {_size(made)}{_steps(made)}"
    yield f"device    {_device(made.machine)}"
    yield f"weights   {'installed' if made.weights_there else 'not installed; sizes are those of the published files'}"
    moved = ", model by model" if choice.offloaded and choice.mode == "fp8" else ""
    moved += ", products in float8" if choice.quantization == "fp8" else ""
    mode = f"{choice.mode} ({_MODES[choice.mode]}{moved})" if made.machine.gpus else choice.mode
    yield f"offload   {mode}. {choice.reason}"
    held = "on the GPU" if made.machine.gpus else "in main memory"
    for component in made.components:
        place = choice.placements[component.name]
        where = place.active if place.idle == place.active else f"offloaded to {place.idle}, runs on {place.active}"
        yield (
            f"  {component.name:<14} {amount(component.gpu_bytes):>9} of weights, {amount(place.bytes)} {held}, "
            f"{amount(choice.activations[component.name])} of activations; {where}"
        )
    if choice.peak_gpu_bytes is not None:
        yield f"peak      {amount(choice.peak_gpu_bytes)} of GPU memory"
    used = made.sharing.layout.world
    each = "" if used == 1 else f" each, {amount(used * choice.host_bytes)} in all"
    yield f"memory    {amount(choice.host_bytes)} of main memory{each}"
    if len(made.machine.gpus) > 1 or used > 1:
        yield sharing_line(made.sharing)
    if len(made.machine.gpus) > 1:
        most = made.runs_at_once
        few = "" if most == made.machine.gpus_alike else "; main memory has no room for the models of more"
        yield f"queue     where runs wait, {most} at a time, each on a GPU of its own{few}"
    what = "segment" if work.stage == "speech_to_video" else "clip" if work.frames > 1 else "picture"
    time = "not estimated for speech" if not work.pixels else "unknown; see --gpu"
    if made.seconds is not None:
        time = f"about {clock(made.seconds)} a {what}, an estimate"
    yield f"time      {time}"
    if len(seconds := made.sharing.seconds) > 1:
        # of many only powers of two
        shown = [number for number in seconds if number <= 8 or number == used or not number & (number - 1)]
        computed = ", ".join(f"{each}: {clock(seconds[each])} ({seconds[1] / seconds[each]:.2f} x)" for each in shown)
        yield f"          by number of GPUs, computed: {computed}"


def sharing_line(sharing: Sharing) -> str:
    """How many GPUs share a run, how, and why."""
    how = f", {sharing.layout}" if sharing.layout.world > 1 else ""
    return f"gpus      {sharing.layout.world}{how}: {sharing.reason}"


def _size(made: Plan) -> str:
    work = made.workload
    if not work.pixels:
        return ""
    frames = f", {work.frames} frames" if work.frames > 1 else ""
    frames += f" at a time, {work.segments} segments" if work.segments > 1 else ""
    return f"{work.width}x{work.height}{frames}, "


def _steps(made: Plan) -> str:
    passes = " with guidance" if made.workload.passes > 1 else ""
    return f"{made.workload.steps} {'step' if made.workload.steps == 1 else 'steps'}{passes}"


def _device(machine: Machine) -> str:
    free: Any = "unknown" if machine.host_free is None else amount(machine.host_free)
    if not machine.gpus:
        return f"CPU, {free} of main memory free"
    gpu = machine.gpus[0]
    count = f"{len(machine.gpus)} times " if len(machine.gpus) > 1 else ""
    name = gpu.name or "a GPU"
    return f"{count}{name}, {amount(gpu.free)} of {amount(gpu.total)} free; {free} of main memory free"


def _dashed(stage: str) -> str:
    return stage.replace("_", "-")

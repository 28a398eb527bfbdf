"""GPU and host memory of a stage: what it needs, how its networks are offloaded, and how long it takes.

    wanavatar-lab plan speech-to-video --profile full --resolution 480x832 [--json]

components       the networks of a stage in bytes, from files or from the table of published ones
workload         the sizes of a request that memory and time depend on
activations      memory beside the weights, and the tiles of autoencoders
machine          free memory of GPUs and host
choose_offload   which offload mode fits
sharing          how many GPUs share a run, and how
plan             all of that for one stage, before anything is loaded
estimate_time    floating-point operations, and seconds
apply_offload    a loaded pipeline in the mode that was chosen
model_offload    hooks that bring one network at a time to the GPU
pinned           weights in pinned host memory

Only the last three import torch; the others ask it for a GPU's memory at most.
"""

from wanavatar_lab.memory.activations import activation_bytes
from wanavatar_lab.memory.choose_offload import Choice, choose
from wanavatar_lab.memory.components import Component, stage_components
from wanavatar_lab.memory.estimate_time import decoding_share, expected_seconds
from wanavatar_lab.memory.machine import Gpu, Machine, free_host_bytes, other_machine, this_machine
from wanavatar_lab.memory.plan import Plan, plan
from wanavatar_lab.memory.workload import Workload, usual_workload, workload_of

__all__ = [
    "Choice",
    "Component",
    "Gpu",
    "Machine",
    "Plan",
    "Workload",
    "activation_bytes",
    "choose",
    "decoding_share",
    "expected_seconds",
    "free_host_bytes",
    "other_machine",
    "plan",
    "stage_components",
    "this_machine",
    "usual_workload",
    "workload_of",
]


def __dir__() -> list[str]:
    return __all__

"""Who is on the GPU.

    wanavatar-lab plan speech-to-video --profile full --resolution 480x832 [--json]

`plan` says what a stage needs and where its networks would lie; `choose` is the rule, and `stage_components` and
`activation_bytes` are the figures it goes by. None of that imports torch, but to ask a GPU what is free. What moves
weights is in `residency.resident`, `residency.turns` and `residency.pinned`.
"""

from wanavatar_lab.memory.activations import Workload, activation_bytes
from wanavatar_lab.memory.choose_offload import Choice, Place, choose
from wanavatar_lab.memory.components import Component, stage_components, weights_are_there
from wanavatar_lab.memory.estimate_time import expected_seconds
from wanavatar_lab.memory.machine import Gpu, Machine, free_host_bytes, other_machine, this_machine
from wanavatar_lab.memory.plan import Plan, plan
from wanavatar_lab.memory.workload import usual_workload, workload_of

__all__ = [
    "Choice",
    "Component",
    "Gpu",
    "Machine",
    "Place",
    "Plan",
    "Workload",
    "activation_bytes",
    "choose",
    "expected_seconds",
    "free_host_bytes",
    "other_machine",
    "plan",
    "stage_components",
    "this_machine",
    "usual_workload",
    "weights_are_there",
    "workload_of",
]

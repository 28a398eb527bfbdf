"""The stages. Each is a module with two public names:

    load(profile, device) -> models                        slow; the worker keeps the result in its model cache
    run(request, models, context) -> list[Artifact]        the work; files go into context.folder, whole or not at all

The tools that use no models are one module, `tools`. Importing a stage may import torch, so `stage_module` imports one
only when it is needed. For stages of other packages see `wanavatar_lab.requests.custom_stages`.
"""

import importlib
from types import ModuleType

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Tool
from wanavatar_lab.requests.custom_stages import extra_module


def stage_module(stage: str) -> ModuleType:
    """The module of `stage`, imported if need be.

    Raises:
        LabError: there is no such stage, or its module lacks `load` or `run`.
    """
    module = extra_module(stage)
    if module is None:
        if stage not in STAGE_REQUESTS:
            raise LabError(f"There is no stage {stage!r}; there are {', '.join(STAGE_REQUESTS)}.")
        request = STAGE_REQUESTS[stage]
        name = "tools" if issubclass(request, Tool) and not request.queued else stage
        module = importlib.import_module(f"{__name__}.{name}")
    lacking = [name for name in ("load", "run") if not callable(getattr(module, name, None))]
    if lacking:
        raise LabError(f"{module.__name__} lacks {' and '.join(lacking)}, so it cannot be run as the stage {stage}.")
    return module

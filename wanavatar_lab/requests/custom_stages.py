"""Stages that others bring.

A stage of your own is a module with three names:

    REQUEST                              a subclass of wanavatar_lab.requests.Request, with its `stage`
    load(profile, device)                its models, kept warm by the worker; may return None. Models that can wait
                                         while other stages run have the methods that `model_cache.ModelCache` names
    run(request, models, context)        the work; a list of artifacts

Make it known to the clients and to the worker by the environment, and from then on it is submitted, queued,
cancelled and listed like the stages that come with the package:

    WANAVATAR_EXTRA_STAGES="line_art=my_package.line_art,depth=my_package.depth"

Clients import the module only for its REQUEST: import what is heavy inside `load` and `run`.
"""

import importlib
import os
import re
from types import ModuleType

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Request

VARIABLE = "WANAVATAR_EXTRA_STAGES"


def extra_stages() -> dict[str, str]:
    """Stage → module, from the environment.

    Raises:
        LabError: the variable is not a list of `stage=module`, or renames a stage that comes with the package.
    """
    stages: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        stage, equals, module = (part.strip() for part in entry.partition("="))
        if not equals or not module or not re.fullmatch(r"[a-z][a-z0-9_]*", stage):
            raise LabError(f"{VARIABLE} has {entry!r}: give stage=module, the stage in small letters, digits and _.")
        stages[stage] = module
    return stages


def extra_module(stage: str) -> ModuleType | None:
    """The module of the extra stage `stage`, with its request made known; None if there is no such extra stage.

    Raises:
        LabError: the module cannot be imported, or has no REQUEST of that stage.
    """
    name = extra_stages().get(stage)
    if name is None:
        return None
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise LabError(
            f"The stage {stage} is {name} in {VARIABLE}, which cannot be imported: {error}. Install it, or put its "
            "folder into PYTHONPATH."
        ) from error
    request = getattr(module, "REQUEST", None)
    if not (isinstance(request, type) and issubclass(request, Request) and request.stage == stage):
        raise LabError(f"{name} has no REQUEST whose stage is {stage!r}: give it a subclass of Request.")
    if STAGE_REQUESTS.setdefault(stage, request) is not request:
        raise LabError(f"{VARIABLE} names the stage {stage}, which exists already: give yours another name.")
    return module


def register_extra_stages() -> None:
    """Put the requests of all extra stages into `STAGE_REQUESTS`, where `parse` and the faces find them.

    Raises:
        LabError: one of them cannot be had.
    """
    for stage in extra_stages():
        extra_module(stage)

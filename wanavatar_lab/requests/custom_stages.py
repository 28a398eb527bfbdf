"""Custom stages, which are defined outside this package.

A custom stage is a module with three names:

    REQUEST                              a subclass of wanavatar_lab.requests.Request, with its `stage`
    load(profile, device)                returns its models, which the worker caches; may return None. Models that can
                                         be offloaded while other stages run have the methods that
                                         `model_cache.ModelCache` lists
    run(request, models, context)        runs the stage and returns a list of artifacts

An environment variable registers it with clients and worker. It is then submitted, queued, cancelled and listed like
the stages of the package:

    WANAVATAR_EXTRA_STAGES="line_art=my_package.line_art,depth=my_package.depth"

Clients import the module only for its REQUEST: import heavy packages such as torch inside `load` and `run`.
"""

import importlib
import os
import re
from types import ModuleType

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Request

VARIABLE = "WANAVATAR_EXTRA_STAGES"


def extra_stages() -> dict[str, str]:
    """The modules of the custom stages in the environment variable, by stage.

    Raises:
        LabError: the variable is not a list of `stage=module`.
    """
    stages: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        stage, equals, module = (part.strip() for part in entry.partition("="))
        if not equals or not module or not re.fullmatch(r"[a-z][a-z0-9_]*", stage):
            raise LabError(f"{VARIABLE} has {entry!r}: give stage=module, the stage in small letters, digits and _.")
        stages[stage] = module
    return stages


def extra_module(stage: str) -> ModuleType | None:
    """The module of the custom stage `stage`, whose request is registered; None if there is no such custom stage.

    Raises:
        LabError: the module cannot be imported, has no REQUEST of that stage, or the package has the stage already.
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
    """Put the requests of all custom stages into `STAGE_REQUESTS`, where `parse` and the interfaces find them.

    Raises:
        LabError: as `extra_stages` and `extra_module`.
    """
    for stage in extra_stages():
        extra_module(stage)

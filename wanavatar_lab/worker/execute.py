"""One run from beginning to end, in this process. The worker does this with every run, `jobs.run_here` with one."""

import importlib.util
import secrets
import sys
import traceback
from dataclasses import dataclass, field

from wanavatar_lab.errors import Cancelled, DiskFull, RunError
from wanavatar_lab.lora import check_loras
from wanavatar_lab.memory.plan import refuse_what_cannot_fit
from wanavatar_lab.requests.fields import LARGEST_SEED
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.manifest import Record, describe_inputs
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import LOADING, STARTING, Artifact, State
from wanavatar_lab.stages import stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.worker.error_messages import explain, is_out_of_main_memory, is_out_of_memory, ruins_the_process
from wanavatar_lab.worker.model_cache import ModelCache
from wanavatar_lab.worker.progress import ProgressMeter


def execute(run: Run, cache: ModelCache) -> bool:
    """Execute `run`, which is running and held, and end it; its status says how.

    Returns:
        Whether this process is fit for another run.

    Raises:
        KeyboardInterrupt: Ctrl-C, which only a run in the user's own process gets; the run is then cancelled.
    """
    record, meter = Record(), ProgressMeter(run)
    outcome = _attempt(run, cache, record, meter)
    # not before the except clause is left, whose traceback keeps the models' tensors alive
    if outcome.out_of_main_memory:
        cache.release()
    elif outcome.out_of_memory:
        cache.forget()
    meter.close()
    record.seconds = meter.seconds
    record.device = _device_name(cache.device)
    finish_run(run, outcome.state, error=outcome.error, artifacts=outcome.artifacts, last=meter.status, record=record)
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome.fit


def choose_device(wanted: str) -> str:
    """The device to compute on: the one that the settings name, or for `auto` the GPU if torch sees one."""
    if wanted != "auto":
        return wanted
    if importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class _Outcome:
    state: State
    error: str | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    fit: bool = True
    out_of_memory: bool = False
    out_of_main_memory: bool = False
    interrupted: bool = False


def _attempt(run: Run, cache: ModelCache, record: Record, meter: ProgressMeter) -> _Outcome:
    try:
        made = _run_stage(run, cache, record, meter)
        if not run.cancel_requested():
            return _Outcome("succeeded", artifacts=made)
        # an interrupted diffusers pipeline returns unfinished pictures as if they were finished
        for artifact in made:
            run.path(artifact).unlink()
        return _Outcome("cancelled")
    except Cancelled:
        return _Outcome("cancelled")
    except KeyboardInterrupt:
        return _Outcome("cancelled", interrupted=True)
    except BaseException as fault:  # noqa: BLE001  a stage may raise anything, and its run must say what it was
        return _Outcome(
            "failed",
            _report(fault, run),
            fit=not ruins_the_process(fault),
            out_of_memory=is_out_of_memory(fault),
            out_of_main_memory=is_out_of_main_memory(fault),
        )


def _run_stage(run: Run, cache: ModelCache, record: Record, meter: ProgressMeter) -> list[Artifact]:
    meter.begin(STARTING)
    request = run.request()
    request.check_inputs()
    check_loras(request)
    record.inputs = describe_inputs(request)
    asked = getattr(request, "seed", -1)
    seed = asked if asked >= 0 else secrets.randbelow(LARGEST_SEED + 1)
    context = StageContext(run.folder, seed, meter.step, record.facts)
    meter.begin(LOADING, seed=seed)
    module = stage_module(request.stage)
    refuse_what_cannot_fit(request, cache.device, host_free=cache.host_free(request))
    models = cache.models(request, module)
    context.check()
    meter.begin("run")
    artifacts = list(module.run(request, models, context))
    for artifact in artifacts:
        path = run.path(artifact)
        if not path.is_file() or not path.resolve().is_relative_to(run.folder.resolve()):
            raise RunError(f"The stage {request.stage} returned {artifact.path!r}, which is no file in {run.folder}.")
    return artifacts


def _report(fault: BaseException, run: Run) -> str:
    """The message for the user; the traceback goes to the log."""
    message = explain(fault, run)
    try:
        StageContext(run.folder, 0).log("".join(traceback.format_exception(fault)))
    except DiskFull:
        return f"{message} There was no room for the traceback in log.txt either."
    return message


def _device_name(device: str) -> str:
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device

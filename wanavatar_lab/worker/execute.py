"""Execute one run from its request to its last status, in this process.

The worker does this with every run, `jobs.run_here` with one: check the request, load the models, run the stage,
finish the run.
"""

import secrets
import sys
import traceback

from wanavatar_lab.errors import (
    Cancelled,
    DiskFull,
    RunError,
    cancellable,
    has_broken_gpu,
    is_out_of_main_memory,
    is_out_of_memory,
)
from wanavatar_lab.lora import check_loras
from wanavatar_lab.memory.plan import refuse_what_cannot_fit, sharing_of
from wanavatar_lab.requests import Request
from wanavatar_lab.requests.fields import LARGEST_SEED
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.inputs import as_submitted, check_unchanged
from wanavatar_lab.runs.manifest import Record
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import LOADING, RUNNING, Artifact, State
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages import stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.worker.error_messages import explain
from wanavatar_lab.worker.model_cache import ModelCache
from wanavatar_lab.worker.progress import ProgressMeter
from wanavatar_lab.worker.rank_group import RankGroup


def execute(run: Run, cache: ModelCache, group: RankGroup | None = None, gpus: int = 0) -> bool:
    """Execute `run`, which is in state running and held, and finish it; its status says how it ended.

    Args:
        run: the run.
        cache: of models.
        group: the processes that can share it; without one this process executes it alone.
        gpus: how many it may use, since other runs have the others; 0 for as many as its settings say.

    Returns:
        Whether this process can execute another run.

    Raises:
        KeyboardInterrupt: Ctrl-C, which only a run in the user's own process gets; the run is then cancelled.
    """
    record, meter = Record(), ProgressMeter(run)
    state: State = "succeeded"
    artifacts: list[Artifact] = []
    error, interrupted, usable, free_memory = None, False, True, None
    try:
        artifacts = _run_stage(run, cache, record, meter, group, gpus)
        if run.cancel_requested():
            # an interrupted diffusers pipeline returns unfinished pictures as if they were finished
            for artifact in artifacts:
                run.path(artifact).unlink()
            state, artifacts = "cancelled", []
    except (Cancelled, KeyboardInterrupt) as request_to_end:
        state, interrupted = "cancelled", isinstance(request_to_end, KeyboardInterrupt)
    except BaseException as raised:  # noqa: BLE001  a stage may raise anything, and the run must report it
        fault = raised if group is None else group.explained(raised)
        state, error, usable = "failed", explain(fault, run), not has_broken_gpu(fault)
        try:
            StageContext(run.folder, 0).log("".join(traceback.format_exception(fault)))
        except DiskFull:
            error += " There was no room for the traceback in log.txt either."
        if is_out_of_main_memory(fault):
            free_memory = cache.release
        elif is_out_of_memory(fault):
            free_memory = cache.forget
        del fault  # which outlives this clause, unlike `raised`
    if group is not None:
        group.end(early=state != "succeeded")
        usable = usable and not group.lost
    # not within the except clause, where the traceback keeps the models' tensors alive
    if free_memory is not None:
        free_memory()
        if group is not None:
            group.close()  # what the others hold is in the same memory, or may be in any state as well
    meter.close()
    record.seconds, record.device = meter.seconds, cache.device
    torch = sys.modules.get("torch")
    # not where CUDA could not be initialised, which is what the run has failed by
    if cache.device.startswith("cuda") and torch is not None and torch.cuda.is_initialized():
        record.device += f" ({torch.cuda.get_device_name(cache.device)})"
    finish_run(run, state, error=error, artifacts=artifacts, last=meter.status, record=record)
    if interrupted:
        raise KeyboardInterrupt
    return usable


def choose_device() -> str:
    """The device to compute on: the one that the settings name, or for `auto` the GPU if torch finds one."""
    if (wanted := read_settings().device) != "auto":
        return wanted
    import torch  # takes seconds

    return "cuda" if torch.cuda.is_available() else "cpu"


def _run_stage(
    run: Run, cache: ModelCache, record: Record, meter: ProgressMeter, group: RankGroup | None, gpus: int
) -> list[Artifact]:
    request = as_submitted(run.request(), run.folder)
    seed = getattr(request, "seed", -1)
    if seed < 0:
        seed = secrets.randbelow(LARGEST_SEED + 1)
    context = StageContext(run.folder, seed, meter.step, record.facts)
    with context.warnings_logged():
        return _run_in(context, request, run, cache, meter, group, gpus)


def _run_in(
    context: StageContext,
    request: Request,
    run: Run,
    cache: ModelCache,
    meter: ProgressMeter,
    group: RankGroup | None,
    gpus: int,
) -> list[Artifact]:
    request.check_inputs()
    check_loras(request)
    meter.begin(LOADING, seed=context.seed if hasattr(request, "seed") else None)
    host_free = cache.host_free(request)
    asked = "1" if gpus == 1 else run.settings().gpus
    if group is not None and gpus:
        group.limit(gpus)
    sharing = None if group is None else sharing_of(request, cache.device, host_free, asked)
    world = 1 if sharing is None else sharing.layout.world
    refuse_what_cannot_fit(request, cache.device, host_free if host_free is None else host_free // world, gpus=world)
    if group is not None:
        context.ranks = group.begin(run, run.request().to_json(), context.seed, world, cache.device)
    module = stage_module(request.stage)  # while others import it too
    with cancellable(context.look):
        models = cache.models(request, module)
    if group is not None:
        group.start(context.look)
    context.check()
    meter.begin(RUNNING)
    artifacts = list(module.run(request, models, context))
    check_unchanged(run.request(), run.folder)
    for artifact in artifacts:
        path = run.path(artifact)
        if not path.is_file() or not path.resolve().is_relative_to(run.folder.resolve()):
            raise RunError(f"The stage {request.stage} returned {artifact.file!r}, which is no file in {run.folder}.")
    return artifacts

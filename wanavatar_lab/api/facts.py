"""What a front end asks first: /api/config, /api/health, /api/t2i-status, /api/lora-adapters."""

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
from fastapi import APIRouter, HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response

from wanavatar_lab import jobs, locks
from wanavatar_lab.api.options import Options
from wanavatar_lab.api.tasks import missing
from wanavatar_lab.files import printable
from wanavatar_lab.lora import Description, describe, find_adapters
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.requests.display import defaults_of
from wanavatar_lab.runs.run import list_runs, runs_folder
from wanavatar_lab.runs.status import LOADING, STARTING
from wanavatar_lab.settings import read_settings
from wanavatar_lab.worker.queue import RunQueue

# of the video models, portrait and landscape, then squares
RESOLUTIONS = (
    *("720*1280", "1280*720", "480*832", "832*480", "704*1024", "1024*704"),
    *("960*960", "624*624"),
)


GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each


def routes(options: Options) -> APIRouter:
    """The endpoints."""
    router = APIRouter(prefix="/api", tags=["facts"])

    @router.get("/config")
    def config() -> dict[str, Any]:
        """Defaults and choices for a form."""
        profile = options.profile
        speech, video = defaults_of(SpeechToVideo, profile), defaults_of(ImageToVideo, profile)
        return {
            "resolutions": list(RESOLUTIONS),
            "default_resolution": RESOLUTIONS[0],
            "default_steps": speech["num_inference_steps"],
            "default_guidance": speech["guidance_scale"],
            "default_frames": speech["frames_per_segment"],
            "default_use_teacache": speech["use_teacache"],
            "default_teacache_thresh": speech["teacache_thresh"],
            "i2v_available": not missing(ImageToVideo.stage, profile),
            "i2v_default_steps": video["num_inference_steps"],
            "i2v_default_guidance": video["guidance_scale"],
            "i2v_default_frame_num": video["frame_num"],
            "i2v_default_shift": video["flow_shift"],
            "lora_adapters_available": bool(find_adapters(read_settings().weights_dir)),
            "profile": profile,
        }

    @router.get("/health")
    def health() -> dict[str, Any]:
        """Whether it works, on what, and which models are in memory."""
        profile, device, gpus = PROFILES[options.profile], _device(), read_settings().gpus
        # auto is all that there are, if they make the run faster, and one process on a CPU
        there = len(list(GPUS.glob("*"))) if device == "cuda" else 1
        world = int(gpus) if gpus.isdecimal() else max(1, there)
        loaded, active, busy = _models()
        adapters = find_adapters(read_settings().weights_dir)
        newest = max((file for one in adapters for file in one.files.values()), key=_changed, default=None)
        return {
            "status": "ok",
            "device": device,
            "dtype": profile.dtype(device),
            "model_loaded": SpeechToVideo.stage in loaded,
            "i2v_model_loaded": ImageToVideo.stage in loaded,
            "flux_model_loaded": TextToImage.stage in loaded,
            "active_model": active,
            # a LoRA is applied only by a request that names it, in the strength that the request says
            "lora_enabled": bool(adapters),
            "lora_strength": None,
            "lora_checkpoint": newest and printable(newest.name),
            "gpu_busy": busy,
            "sequence_parallel": world > 1,
            "world_size": world,
            "i2v_available": not missing(ImageToVideo.stage, options.profile),
            "has_moviepy": True,  # sound is taken out of videos by PyAV, which is always there
            "has_audio_separator": importlib.util.find_spec("audio_separator") is not None,
            "profile": options.profile,
        }

    @router.get("/t2i-status")
    def t2i_status() -> dict[str, Any]:
        """Whether pictures can be made from sentences."""
        why = missing(TextToImage.stage, options.profile)
        return {
            "available": not why,
            "model": PROFILES[options.profile].locations[TextToImage.stage],
            "upscale_available": not missing(Upscale.stage, options.profile),
            "message": why or "ready",
        }

    @router.get("/lora-adapters")
    async def lora_adapters(category: Literal["img", "mov"] | None = None) -> Response:
        """The LoRAs, for pictures (img) or video (mov)."""
        found = await run_in_threadpool(_adapters)
        wanted = [one for one in found if category in (None, _category(one))]
        return JSONResponse({"adapters": [_adapter(one) for one in wanted]})

    @router.get(
        "/lora-preview",
        response_class=FileResponse,
        responses={200: {"content": {"*/*": {}}}, 206: {"content": {"*/*": {}}}, 416: {"content": {"*/*": {}}}},
    )
    async def lora_preview(name: str, category: Literal["img", "mov"]) -> Response:
        """The picture beside a LoRA."""
        for one in await run_in_threadpool(_adapters):
            if (one.name, _category(one)) == (name, category) and one.preview and os.path.isfile(one.preview):
                return FileResponse(one.preview, headers={"Cache-Control": "private, no-cache"})
        raise HTTPException(404, "There is no such LoRA, or no picture beside it.")

    return router


def _adapters() -> list[Description]:
    folder = read_settings().weights_dir
    return describe(find_adapters(folder), folder)


def _category(one: Description) -> str:
    return "img" if one.kind == "img" else "mov"


def _adapter(one: Description) -> dict[str, Any]:
    usual = 1.0 if one.usual_weight is None else one.usual_weight
    preview = f"/api/lora-preview?name={quote(printable(one.name), safe='')}&category={_category(one)}"
    return {
        "name": printable(one.name),
        "category": _category(one),
        "type": one.kind,
        "available": not one.problem,
        "size_mb": round(one.bytes / 1e6, 1),
        "default_high_weight": usual,
        "default_low_weight": usual,
        "description": printable(one.problem or one.description),
        "trigger_words": [printable(word) for word in one.trigger_words],
        "civitai_url": printable(one.link) or None,
        "preview_urls": [preview] if one.preview else [],
        "fits": one.fits,
    }


def _device() -> str:
    """cpu or cuda, without torch: where NVIDIA's driver shows a GPU that is not hidden from this process."""
    wanted = read_settings().device
    if wanted != "auto":
        return wanted
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return "cuda" if not hidden and Path("/proc/driver/nvidia/version").exists() else "cpu"


def _models() -> tuple[set[str], str | None, bool]:
    """The stages whose models the workers hold, the one that ran last, and whether a run is executed now.

    A worker keeps the models of its runs in main memory, so those are what it has run since it was started.
    """
    queue = RunQueue(runs_folder())
    ids = queue.process_ids() if (queue.folder / "lock").exists() and locks.is_locked(queue.folder / "lock") else None
    workers = () if ids is None else ids.workers
    try:
        since = min(psutil.Process(worker).create_time() for worker in workers)
    except (psutil.Error, ValueError):  # there is none, or it ends at this moment
        return set(), None, False
    loaded, active, busy = set[str](), None, False
    for run in list_runs():
        status = run.readable_status()
        if status is None or status.started_at is None:
            continue
        if status.started_at < since:
            break
        if status.phase not in (STARTING, LOADING):
            loaded.add(run.stage)
            active = active or run.stage
    first = [job.run.readable_status() for job in jobs.list_queue()[: len(workers)]]
    busy = any(status is not None and status.state == "running" for status in first)
    return loaded, active, busy


def _changed(file: Path) -> float:
    return file.stat().st_mtime if os.path.isfile(file) else 0.0

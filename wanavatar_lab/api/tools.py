"""The predecessor's tools: sound or a frame of a video, the voice of a recording. Each writes beside the uploads.

They answer when the file is there; /api/run has every tool as a run.
"""

import importlib.util
import secrets
import shutil
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from wanavatar_lab.api.body import read_form
from wanavatar_lab.api.places import file_of
from wanavatar_lab.api.processes import Processes
from wanavatar_lab.api.tasks import Task, Tasks
from wanavatar_lab.api.uploads import Receiver, Uploaded, form_schema, uploaded
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import whole_file
from wanavatar_lab.requests import SeparateVocals
from wanavatar_lab.runs.uploads import uploads_folder


def routes(tasks: Tasks, receiver: Receiver, processes: Processes) -> APIRouter:
    """The endpoints."""
    router = APIRouter(prefix="/api", tags=["tools"], default_response_class=JSONResponse)

    @router.post("/extract-audio", **_form("video_path"))
    async def extract_audio(request: Request) -> Response:
        """The sound of a video as WAV."""
        video, out = await _files(request, receiver, "video_path", "sound.wav")
        await processes.call("extract_audio", path=str(video), out=str(out))
        return JSONResponse(uploaded(out))

    @router.post("/extract-frame", **_form("video_path"))
    async def extract_frame(request: Request) -> Response:
        """The first frame of a video as PNG."""
        video, out = await _files(request, receiver, "video_path", "frame.png")
        width, height = await processes.call("extract_frame", path=str(video), out=str(out))
        return JSONResponse(uploaded(out) | {"width": width, "height": height})

    @router.post("/separate-vocals", **_form("audio_path"))
    async def separate_vocals(request: Request) -> Response:
        """The voice of a recording without music and noise; needs the extra `separate`."""
        recording, out = await _files(request, receiver, "audio_path", "voice.wav")
        if importlib.util.find_spec("audio_separator") is None:
            raise HTTPException(503, "Vocals are separated by the extra: .venv/bin/uv pip install -e '.[separate]'")
        run_id = await tasks.submit(request, SeparateVocals(media=str(recording)))
        ended: Task | None = None
        async for task in tasks.changes(run_id):
            ended = task or ended
        if ended is None or ended.main is None:
            why = (ended.status.error or ended.status.state) if ended else "it was deleted"
            raise LabError(f"The run {run_id} gave no voice: {why}")
        await run_in_threadpool(_copy, ended.run.path(ended.main), out)
        return JSONResponse(uploaded(out))

    return router


def _form(field: str) -> dict[str, Any]:
    schema = form_schema({field: {"type": "string", "minLength": 1, "maxLength": 1024}}, [field])
    return {"response_model": Uploaded, "openapi_extra": {"requestBody": schema}}


def _copy(path: Path, out: Path) -> None:
    with whole_file(out) as temporary:
        shutil.copyfile(path, temporary)


async def _files(request: Request, receiver: Receiver, field: str, made: str) -> tuple[Path, Path]:
    """The file that the form names, and a free name for what is made of it."""
    form = await read_form(request, None)
    if set(form) != {field}:
        raise HTTPException(422, f"The form must have the field {field} and no other, as `curl -F {field}=…` sends it.")
    found = await run_in_threadpool(file_of, form[field])
    await run_in_threadpool(receiver.check_count)
    folder = uploads_folder()
    folder.mkdir(parents=True, exist_ok=True)
    # the beginning of a long name only, since disks allow 255 bytes
    stem = found.stem.encode()[:100].decode(errors="ignore")
    return found, folder / f"{stem}-{secrets.token_hex(4)}-{made}"

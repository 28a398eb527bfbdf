"""/v1/videos: clips in the shape of today's serving engines for these models, that of OpenAI and vLLM-Omni.

A form with a recording becomes a speech_to_video, one without an image_to_video. Besides the names of that shape, every
field of the request is taken under its own name.
"""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response

from wanavatar_lab import jobs
from wanavatar_lab.api.body import read_json
from wanavatar_lab.api.fields import Fields
from wanavatar_lab.api.outputs import TYPES, result_url
from wanavatar_lab.api.places import media_below
from wanavatar_lab.api.tasks import Task, Tasks
from wanavatar_lab.api.uploads import Receiver, remove_kept
from wanavatar_lab.errors import RequestError, RunError
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo
from wanavatar_lab.requests import Request as StageRequest
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.runs.run import list_runs
from wanavatar_lab.runs.trash import discard

FPS = 16  # of both models
_LONGEST_CANCEL = 10.0  # seconds that deleting waits for a run to end
_STAGES: dict[str, type[StageRequest]] = {SpeechToVideo.stage: SpeechToVideo, ImageToVideo.stage: ImageToVideo}
_FIELDS = {
    stage: Fields(model, {"size": "resolution", "lora": "loras"} | ({"num_frames": "frame_num"} if frames else {}))
    for (stage, model), frames in zip(_STAGES.items(), (False, True), strict=True)
}
_FILES = {"input_reference": "picture", "audio": "audio"}
# texts that hold JSON with the address of a file: the field that it becomes, and the key in it
_REFERENCES = {"image_reference": ("image", "image_url"), "audio_reference": ("audio", "audio_url")}
# how each file can be given: by its path, as JSON, or in the form itself
_GIVEN_AS = (("image", "image_reference", "input_reference"), ("audio", "audio_reference"))
# of data by its type; some programs have names of their own for a type
_SUFFIXES = {kind: suffix for suffix, kind in reversed(TYPES.items())}
_SUFFIXES |= dict.fromkeys(("audio/x-wav", "audio/wave", "audio/vnd.wave"), ".wav") | {"audio/x-flac": ".flac"}
_SUFFIXES |= {"audio/mp3": ".mp3", "audio/m4a": ".m4a", "audio/x-m4a": ".m4a", "audio/opus": ".opus"}
_SUFFIXES |= {"image/jpg": ".jpg"}
_STATES = {"queued": "queued", "running": "in_progress", "succeeded": "completed"}


class VideoError(BaseModel):
    code: str
    message: str


class Video(BaseModel):
    """A clip, or a run that makes one."""

    id: str
    object: Literal["video"]
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: int
    created_at: int
    completed_at: int | None
    seed: int | None
    url: str | None
    error: VideoError | None


class VideoList(BaseModel):
    object: Literal["list"]
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    id: str
    object: Literal["video.deleted"]
    deleted: bool


def routes(tasks: Tasks, receiver: Receiver) -> APIRouter:
    """The endpoints."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"])
    body = {"requestBody": {"required": True, "content": _content(tasks.options.profile)}}

    async def submit(request: Request) -> str:
        kept: list[Path] = []
        try:
            stage, values = await _values(request, receiver, kept)
            fields = _FIELDS[stage]
            made, _ = fields.read(values, tasks.options.profile)
            return await tasks.submit(request, made, fields)
        except BaseException:
            remove_kept(kept)
            raise

    @router.post("", response_model=Video, openapi_extra=body)
    async def create(request: Request) -> Response:
        """Make a clip: with a recording a talking one, without one that starts with the picture."""
        return JSONResponse(_video(await tasks.task(await submit(request))))

    @router.post(
        "/sync",
        response_class=FileResponse,
        responses={200: {"content": {"video/mp4": {}}}},
        openapi_extra=body,
    )
    async def create_sync(request: Request) -> Response:
        """Make a clip and answer with it. The run is cancelled when the client goes away."""
        task_id = await submit(request)
        try:
            while not (task := await tasks.task(task_id)).status.ended:
                if await request.is_disconnected():
                    raise asyncio.CancelledError
                await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            await asyncio.shield(tasks.cancel(task_id))
            raise
        return await _content_of(task)

    @router.get("", response_model=VideoList)
    async def videos(
        limit: int = Query(20, ge=1, le=100), after: str | None = None, order: Literal["asc", "desc"] = "desc"
    ) -> Response:
        """Clips and runs that make one, newest first, with `order` asc oldest first; a page goes on `after` a clip."""
        ids = await run_in_threadpool(lambda: [run.id for run in list_runs() if run.stage in _STAGES])
        if order == "asc":
            ids.reverse()
        if after is not None:
            if after not in ids:
                raise HTTPException(404, f"There is no clip {after[:80]!r} to list others after.")
            del ids[: ids.index(after) + 1]
        found = []
        for run_id in ids[:limit]:
            try:
                found.append(_video(await tasks.task(run_id)))
            except HTTPException:  # deleted since
                continue
        shown = [each["id"] for each in found] or [None]
        ends = {"first_id": shown[0], "last_id": shown[-1]}
        return JSONResponse({"object": "list", "data": found, **ends, "has_more": len(ids) > limit})

    @router.get("/{video_id}", response_model=Video)
    async def video(video_id: str) -> Response:
        """Where a run is."""
        return JSONResponse(_video(await _clip(tasks, video_id)), headers={"Cache-Control": "no-store"})

    @router.get(
        "/{video_id}/content",
        response_class=FileResponse,
        responses={200: {"content": {"video/mp4": {}}}, 206: {"content": {"*/*": {}}}, 416: {"content": {"*/*": {}}}},
    )
    async def content(video_id: str) -> Response:
        """The clip, as MP4."""
        return await _content_of(await _clip(tasks, video_id))

    @router.delete("/{video_id}", response_model=Deleted)
    async def delete(video_id: str) -> Response:
        """Delete a clip: its run goes to the trash, for seven days. One that has not ended is cancelled before."""
        task, until = await _clip(tasks, video_id), time.monotonic() + _LONGEST_CANCEL
        if not task.status.ended:
            task = await tasks.cancel(video_id)
        while not task.status.ended:
            if time.monotonic() > until:
                raise HTTPException(409, "It is being cancelled; delete it again when it has ended.")
            await asyncio.sleep(0.1)
            task = await tasks.task(video_id)
        try:
            await run_in_threadpool(discard, jobs.Job(task.run).run)
        except (RunError, FileNotFoundError) as error:
            if task.run.folder.is_dir():
                raise HTTPException(409, str(error)) from None
            raise HTTPException(404, "It was deleted meanwhile.") from None
        tasks.forget(video_id)
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    return router


async def _clip(tasks: Tasks, video_id: str) -> Task:
    task = await tasks.task(video_id)
    if task.run.stage not in _STAGES:
        raise HTTPException(404, "That run makes no clip.")
    return task


def _video(task: Task) -> dict[str, Any]:
    status, main = task.status, task.main
    ended = status.finished_at if status.ended else None
    return {
        "id": task.run.id,
        "object": "video",
        "model": task.run.stage,
        "status": _STATES.get(status.state, status.state),
        "progress": int(100 * status.fraction),
        "created_at": int(status.submitted_at or 0),
        "completed_at": None if ended is None else int(ended),
        "seed": status.seed,
        "url": result_url(task.run, main) if main else None,
        "error": {"code": "failed", "message": status.error or status.message} if status.state == "failed" else None,
    }


async def _content_of(task: Task) -> Response:
    if task.main is None:
        state = _STATES.get(task.status.state, task.status.state)
        raise HTTPException(409, f"There is no clip: the run is {state}. {task.status.error or task.status.message}")
    path = await run_in_threadpool(media_below, task.run.path(task.main))
    if path is None:
        raise HTTPException(404, "The file of the clip is gone.")
    return FileResponse(path, media_type="video/mp4")


async def _values(request: Request, receiver: Receiver, kept: list[Path]) -> tuple[str, dict[str, Any]]:
    """The stage that a body asks for, and the fields of its request as JSON types or text.

    Args:
        kept: gets the uploads that the body's files become.
    """
    problems: list[tuple[str, str]] = []
    values: dict[str, Any]
    files: Mapping[str, tuple[Path, Any]] = {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        values, typed = await read_json(request), True
    else:
        texts, files = await receiver.form(request, _FILES)
        kept += [path for path, _ in files.values()]
        values, typed = {name: value for name, value in texts.items() if value != ""}, False
    values = {name: value for name, value in values.items() if value is not None}  # as if it were left out
    if "extra_params" in values:
        extra = _object("extra_params", values.pop("extra_params"), problems)
        twice = values.keys() | files.keys()
        problems += [("extra_params", f"{name[:80]!r} is given twice") for name in extra if name in twice]
        values = {**extra, **values}
    for ways in _GIVEN_AS:
        given = [name for name in dict.fromkeys([*values, *files]) if name in ways]
        problems += [(name, f"is given without {given[0]}: both are the {ways[0]}") for name in given[1:]]
    for name, (field, key) in _REFERENCES.items():
        if name in values:
            reference = _object(name, values.pop(name), problems)
            if set(reference) != {key} or not isinstance(reference.get(key), str):
                problems.append(
                    (name, f'must be {{"{key}": "data:…;base64,…"}}, or the path of an upload in its place')
                )
                continue
            try:
                kind = "audio" if field == "audio" else "picture"
                values[field] = await _data(reference[key], receiver, kind, kept)
            except ValueError as error:
                problems.append((name, str(error)))
    for name, (path, _) in files.items():
        values["audio" if name == "audio" else "image"] = str(path)
    stage = str(values.pop("model", "") or (SpeechToVideo.stage if values.get("audio") else ImageToVideo.stage))
    if stage not in _STAGES:
        problems.append(("model", must_be(f"one of {', '.join(_STAGES)}", stage)))
        raise RequestError(problems)
    values.pop("user", None)  # an identifier of OpenAI's shape, which nothing here depends on
    _translate(stage, values, problems)
    if problems:
        raise RequestError(problems)
    return stage, values if typed else _typed(stage, values)


def _translate(stage: str, values: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    """Read the names of the shape that are no field's: a frame's sides, the length, and the rate."""
    if "width" in values or "height" in values:
        sides = [values.pop("width", None), values.pop("height", None)]
        if None in sides or "size" in values:
            problems.append(("width", "is given together with height and without size"))
        else:
            values["size"] = f"{sides[0]}x{sides[1]}"
    if str(fps := values.pop("fps", FPS)) != str(FPS):
        problems.append(("fps", must_be(f"{FPS}, the rate of these models", fps)))
    if (seconds := values.pop("seconds", None)) is None:
        return
    try:
        length = float(seconds)
        if isinstance(seconds, bool) or not 0 < length <= 86_400:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        problems.append(("seconds", must_be("a number above 0", seconds)))
        return
    name = "audio_duration" if stage == SpeechToVideo.stage else "num_frames"
    if name in values:
        problems.append(("seconds", f"is given without {name}"))
    # of an image_to_video the next of its lengths, which are 4n + 1 frames
    values[name] = length if stage == SpeechToVideo.stage else 4 * max(1, round(length * FPS / 4)) + 1


def _typed(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of a form as JSON has them; one that cannot be read stays as it is, and the request refuses it."""
    views = {theirs: _STAGES[stage].model_fields[ours] for theirs, ours in _FIELDS[stage].known().items()}
    read = dict(values)
    for name, value in values.items():
        if isinstance(value, str) and name in views and "str" not in str(views[name].annotation):
            try:
                read[name] = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if name == "lora" and isinstance(read[name], dict):
            read[name] = [read[name]]
    return read


def _object(name: str, value: Any, problems: list[tuple[str, str]]) -> dict[str, Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
        if isinstance(found, dict):
            return found
    except (ValueError, RecursionError):
        pass
    problems.append((name, must_be("a JSON object", value)))
    return {}


async def _data(address: str, receiver: Receiver, kind: str, kept: list[Path]) -> str:
    """The file that an address means: data in base64, which is kept as an upload, or the path of one.

    Args:
        kept: gets the upload.

    Raises:
        ValueError: it is another address: nothing is fetched.
    """
    scheme, _, rest = address.partition(":")
    if scheme.lower() != "data":
        if "://" in address:
            raise ValueError(
                "is a web address, and nothing is fetched: send the file as a form does, or as data:…;base64,…"
            )
        return address
    head, comma, encoded = rest.partition(",")
    media_type, *parameters = [part.strip() for part in head.lower().split(";")]
    suffix = _SUFFIXES.get(media_type, "")
    if not comma or parameters[-1:] != ["base64"] or not suffix:
        raise ValueError("must be data:TYPE;base64,… with a type such as image/png or audio/wav")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"is no base64: {error}") from None
    kept.append(await receiver.keep(f"reference{suffix}", data, kind))
    return str(kept[-1])


def _content(profile: str) -> dict[str, Any]:
    """The bodies of both endpoints, for OpenAPI: of every field of the two requests."""
    speech, video = (_FIELDS[stage].schema(profile)["properties"] for stage in _STAGES)
    extra: dict[str, Any] = {
        "model": {
            "type": "string",
            "enum": list(_STAGES),
            "description": "what to make; by default by whether there is audio",
        },
        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 60, "description": "length of the clip"},
        "width": {"type": "integer", "minimum": 64, "maximum": 2048, "multipleOf": 16},
        "height": {"type": "integer", "minimum": 64, "maximum": 2048, "multipleOf": 16},
        "fps": {"type": "integer", "enum": [FPS]},
        "user": {"type": "string", "maxLength": 200},
    }
    both = {**video, **speech, **extra}
    references = {
        name: {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
        for name, (_, key) in _REFERENCES.items()
    }
    more = {"extra_params": {"type": "object", "description": "more fields"}}
    json_schema = {"type": "object", "properties": {**both, **references, **more}, "additionalProperties": False}
    files = {name: {"type": "string", "format": "binary"} for name in _FILES}
    texts = {
        name: {"type": "string", "description": f'{{"{key}": "data:…;base64,…"}}'}
        for name, (_, key) in _REFERENCES.items()
    }
    fields = {
        **both,
        **texts,
        **files,
        "extra_params": {"type": "string", "description": "a JSON object of more fields"},
    }
    form = {"type": "object", "properties": fields, "additionalProperties": False}
    return {"multipart/form-data": {"schema": form}, "application/json": {"schema": json_schema}}

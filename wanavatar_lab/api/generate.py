"""Runs: by the predecessor's endpoints /api/generate…, or any stage or tool by /api/run/…; /api/status, /api/cancel and
/api/events.
"""

import json
from collections.abc import AsyncIterator
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from wanavatar_lab.api.body import read_json
from wanavatar_lab.api.fields import GENERATE, GENERATE_FLUX, GENERATE_I2V, Fields
from wanavatar_lab.api.outputs import result_url
from wanavatar_lab.api.tasks import Task, Tasks, wire_status
from wanavatar_lab.requests import STAGE_REQUESTS


class TaskId(BaseModel):
    """The id of a run."""

    task_id: str


class TaskStatus(BaseModel):
    """A run now."""

    status: Literal["pending", "processing", "completed", "failed", "cancelled"]
    progress: float = Field(ge=0, le=1)
    message: str = Field(description="what happens now, or how it ended")
    output_path: str | None = Field(description="URL of the result, once it is completed")
    seed: int | None = Field(description="the seed that is used")
    upscaled_path: str | None = Field(description="URL of the enlarged picture")
    queue_position: int | None = Field(description="1 is next; only while it is pending")
    eta: float | None = Field(description="seconds until it ends, by the time of the last steps")


def routes(tasks: Tasks) -> APIRouter:
    """The endpoints."""
    router = APIRouter(prefix="/api", tags=["runs"])
    profile = tasks.options.profile

    def generating(path: str, fields: Fields, text: str) -> None:
        async def generate(request: Request) -> Response:
            made, area = fields.read(await read_json(request), profile)
            return JSONResponse({"task_id": await tasks.submit(request, made, fields, area)})

        body = {"required": True, "content": {"application/json": {"schema": fields.schema(profile)}}}
        router.post(
            path,
            response_model=TaskId,
            openapi_extra={"requestBody": body},
            summary=text,
            operation_id=path.strip("/").replace("-", "_"),
        )(generate)

    generating("/generate", GENERATE, "Make a talking clip from a picture and a voice.")
    generating("/generate-i2v", GENERATE_I2V, "Make a clip that starts with a picture.")
    generating("/generate-flux", GENERATE_FLUX, "Make a picture from a sentence.")

    for model in STAGE_REQUESTS.values():  # each under its own name, with its own names of fields
        generating(f"/run/{model.stage.replace('_', '-')}", Fields(model, {}), model.help["en"])

    @router.get("/status/{task_id}", response_model=TaskStatus)
    async def status(task_id: str) -> Response:
        """Where a run is, and what it has made."""
        return _answer(await tasks.task(task_id))

    @router.post("/cancel/{task_id}", response_model=TaskStatus)
    async def cancel(task_id: str) -> Response:
        """Cancel a run: one that waits ends at once, one that runs within a step. One that has ended stays as it is."""
        return _answer(await tasks.cancel(task_id))

    @router.get(
        "/events/{task_id}",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "an event for each change, until the end"}
        },
    )
    async def events(task_id: str) -> Response:
        """Server-sent events: the answer of /api/status as `data`, at each change until the run has ended."""
        first = await tasks.task(task_id)  # so that an unknown run is an error and no empty stream

        async def stream() -> AsyncIterator[bytes]:
            async for task in tasks.changes(first.run.id):
                data = None if task is None else json.dumps(wire_status(task, result_url))
                yield b": still here\n\n" if data is None else f"data: {data}\n\n".encode()

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


def _answer(task: Task) -> Response:
    return JSONResponse(wire_status(task, result_url), headers={"Cache-Control": "no-store"})

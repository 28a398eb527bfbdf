"""Results: /api/outputs, /api/videos, and the files of results and uploads themselves."""

import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response

from wanavatar_lab import jobs
from wanavatar_lab.api.places import media_below, result, result_name
from wanavatar_lab.api.processes import Processes
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.files import printable, stat_if_possible
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.runs.trash import discard
from wanavatar_lab.runs.uploads import kind_of, uploads_folder

MOST_LISTED = 1000  # the newest; a folder of runs may have more than a page can show
# of every kind of file that is taken, however a machine is set up: Python's own table lacks some that browsers know
TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".amr": "audio/amr",
    ".mp4": "video/mp4",
    ".m4v": "video/x-m4v",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".avi": "video/x-msvideo",
    ".3gp": "video/3gpp",
}


class Output(BaseModel):
    """A result."""

    filename: str
    url: str
    path: str
    type: Literal["image", "video", "audio"]
    size: int
    created_at: float
    width: int | None = None
    height: int | None = None


class Outputs(BaseModel):
    outputs: list[Output]
    total: int


class Videos(BaseModel):
    videos: list[Output]
    total: int


class Message(BaseModel):
    message: str


class Sizes:
    """Width and height of pictures, each looked up once."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._known: dict[tuple[str, int], list[int] | None] = {}

    async def add(self, entries: list[dict[str, Any]], paths: list[Path]) -> None:
        """Add `width` and `height` to the entries of pictures."""
        keys = [(str(path), found.st_mtime_ns if (found := stat_if_possible(path)) else 0) for path in paths]
        if unknown := [key for key in keys if key not in self._known]:
            if len(self._known) > 8 * MOST_LISTED:
                self._known.clear()
            found_sizes = await self._processes.call("sizes", paths=[path for path, _ in unknown])
            self._known |= dict(zip(unknown, found_sizes, strict=True))
        for entry, key in zip(entries, keys, strict=True):
            if (size := self._known.get(key)) is not None:
                entry["width"], entry["height"] = size


def routes(processes: Processes) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["results"])
    sizes = Sizes(processes)

    @router.get("/api/outputs", response_model=Outputs)
    async def outputs() -> Response:
        """All results, newest first; at most 1,000."""
        entries, paths, total = await run_in_threadpool(_list, ("picture", "video", "audio"))
        pictures = [index for index, entry in enumerate(entries) if entry["type"] == "image"]
        await sizes.add([entries[index] for index in pictures], [paths[index] for index in pictures])
        return JSONResponse({"outputs": entries, "total": total})

    @router.get("/api/videos", response_model=Videos)
    async def videos() -> Response:
        """All clips, newest first; at most 1,000."""
        entries, _, total = await run_in_threadpool(_list, ("video",))
        return JSONResponse({"videos": entries, "total": total})

    @router.delete("/api/outputs/{filename}", response_model=Message)
    async def delete_output(filename: str) -> Response:
        """Delete a result: its run goes to the trash with all its files, for seven days."""
        return await run_in_threadpool(_delete, filename)

    @router.delete("/api/videos/{filename}", response_model=Message)
    async def delete_video(filename: str) -> Response:
        """Delete a clip: its run goes to the trash with all its files, for seven days."""
        if kind_of(filename) != "video":
            raise HTTPException(404, "That is no clip; /api/videos lists them.")
        return await run_in_threadpool(_delete, filename)

    @router.get("/outputs/{filename}", **file_answer("*/*"))
    async def output_file(filename: str) -> Response:
        """The file of a result; ranges are answered, so that players can seek."""
        return _file((await run_in_threadpool(result, filename))[2])

    @router.get("/uploads/{filename}", **file_answer("*/*"))
    async def upload_file(filename: str) -> Response:
        """An uploaded file."""
        path = None if "/" in filename else await run_in_threadpool(media_below, uploads_folder() / filename)
        if path is None:
            raise HTTPException(404, "There is no such upload; /api/uploads/images and /api/uploads/audio list them.")
        return _file(path)

    return router


def file_answer(media_type: str) -> dict[str, Any]:
    """How an endpoint that answers with a file says so: whole, in part, or not the part that was asked for."""
    answers = {200: media_type, 206: "*/*", 416: "*/*"}
    responses: dict[int, dict[str, Any]] = {status: {"content": {kind: {}}} for status, kind in answers.items()}
    return {"response_class": FileResponse, "responses": responses}


def result_url(run: Run, artifact: Artifact) -> str:
    """The URL of a result."""
    return f"/outputs/{quote(printable(result_name(run, artifact)))}"


def type_of(path: Path) -> str:
    """What the predecessor calls the kind of a file: image, video or audio."""
    return {"picture": "image"}.get(kind := kind_of(path), kind)


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=TYPES[path.suffix.lower()], headers={"Cache-Control": "private, no-cache"})


def _list(kinds: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[Path], int]:
    """Entries of results of some kinds, their files, and how many there are in all."""
    entries, paths, total = list[dict[str, Any]](), list[Path](), 0
    for job in jobs.list_jobs():
        status = job.run.readable_status()
        for artifact in status.artifacts if status is not None and status.ended else ():
            path = job.run.path(artifact)
            found = stat_if_possible(path) if kind_of(path) in kinds else None
            name = result_name(job.run, artifact)
            if found is None or printable(name) != name:
                continue
            total += 1
            if total <= MOST_LISTED:
                url = result_url(job.run, artifact)
                facts = {"type": type_of(path), "size": found.st_size, "created_at": found.st_mtime}
                entries.append({"filename": name, "url": url, "path": url.removeprefix("/"), **facts})
                paths.append(path)
    return entries, paths, total


def _delete(filename: str) -> Response:
    run, *_ = result(filename)
    try:
        discard(run)
    except (RunError, FileNotFoundError) as error:
        if os.path.isdir(run.folder):
            raise HTTPException(409, str(error)) from None
        raise HTTPException(404, "The result was deleted meanwhile.") from None
    except OSError as error:
        raise LabError(f"{run.id} cannot be deleted: {error.strerror}.") from error
    return JSONResponse({"message": f"{filename} is deleted: its run {run.id} is in the trash for seven days."})

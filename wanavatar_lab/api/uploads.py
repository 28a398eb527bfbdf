"""Uploads: /api/upload/…, kept only if they decode as what they claim to be, and their lists."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from wanavatar_lab.api.body import Form, read_form
from wanavatar_lab.api.options import Options
from wanavatar_lab.api.outputs import MOST_LISTED, Message, Sizes
from wanavatar_lab.api.places import media_below, wire_path
from wanavatar_lab.api.processes import Processes
from wanavatar_lab.errors import MediaError
from wanavatar_lab.files import entries, printable, remove, stat_if_possible
from wanavatar_lab.media import MediaInfo
from wanavatar_lab.runs.uploads import KINDS, Incoming, kind_of, uploads_folder
from wanavatar_lab.settings import read_settings

MOST_AT_ONCE = 64  # uploads that arrive: each holds a megabyte and a connection
_NAMES = {"image": "picture", "audio": "audio", "video": "video"}


class Uploaded(BaseModel):
    """A file that was kept."""

    path: str
    url: str
    width: int | None = None
    height: int | None = None


class Upload(Uploaded):
    filename: str
    size: int
    created_at: float


class Images(BaseModel):
    images: list[Upload]
    total: int


class Sounds(BaseModel):
    audio: list[Upload]
    total: int


class Receiver:
    """Takes the files of forms into the folder of uploads."""

    def __init__(self, options: Options, processes: Processes) -> None:
        self._options, self._processes = options, processes
        self._arriving = 0

    async def form(self, request: Request, kinds: Mapping[str, str]) -> tuple[Form, dict[str, tuple[Path, MediaInfo]]]:
        """A form's texts and its files, checked and under their names.

        Args:
            kinds: what a file of a field must be (picture, audio, video), by the field.

        Raises:
            HTTPException: too many arrive at once or are kept, or the form is not what it should be.
            MediaError: a file is not what its name says; nothing of the form is kept.
        """
        if self._arriving >= MOST_AT_ONCE:
            raise HTTPException(429, f"{MOST_AT_ONCE} files arrive already; send it again.", {"Retry-After": "5"})

        def receive(field: str, name: str) -> Incoming:
            if field not in kinds:
                raise HTTPException(422, f"The form has a file in {field[:80]!r}; files go into {', '.join(kinds)}.")
            self.check_count()
            accepted = frozenset(suffix for suffix, kind in KINDS.items() if kind == kinds[field])
            return Incoming(uploads_folder(), name, None, accepted)

        self._arriving += 1
        form: Form = {}
        try:
            form = await read_form(request, receive, read_settings().max_media_bytes * len(kinds))
            incoming = {field: value for field, value in form.items() if isinstance(value, Incoming)}
            texts: Form = {field: value for field, value in form.items() if isinstance(value, str)}
            # all are looked into before the first is kept
            infos = {field: await self._look(one) for field, one in incoming.items()}
            kept: dict[str, tuple[Path, MediaInfo]] = {}
            try:
                for field, one in incoming.items():
                    kept[field] = await run_in_threadpool(one.finish, infos[field]), infos[field]
            except BaseException:
                remove_kept(path for path, _ in kept.values())
                raise
            return texts, kept
        finally:
            self._arriving -= 1
            for value in form.values():
                if isinstance(value, Incoming):
                    value.abandon()

    async def keep(self, name: str, data: bytes, kind: str) -> Path:
        """A file that came in another way, checked and under its name.

        Raises:
            LabError: it is not what its name says, or is too large.
            HTTPException: too many are kept.
        """

        def begin() -> Incoming:
            self.check_count()
            accepted = frozenset(suffix for suffix, theirs in KINDS.items() if theirs == kind)
            incoming = Incoming(uploads_folder(), name, len(data), accepted)
            incoming.write(0, data)
            return incoming

        incoming = await run_in_threadpool(begin)
        try:
            return await run_in_threadpool(incoming.finish, await self._look(incoming))
        finally:
            incoming.abandon()

    def check_count(self) -> None:
        """Refuse more files than are kept.

        Raises:
            HTTPException: 429.
        """
        most = self._options.most_uploads
        # those that arrive too, but not the lock of their names, nor what else a person has put there
        if sum(bool(kind_of(path)) for path in entries(uploads_folder())) >= most:
            raise HTTPException(429, f"There are {most} uploads, as many as this service keeps; delete some of them.")

    async def _look(self, incoming: Incoming) -> MediaInfo:
        if not incoming.received:
            raise MediaError(f"{incoming.name} is empty (0 bytes). Send it again.")
        try:
            info = MediaInfo(**await self._processes.call("probe", path=str(incoming.temporary)))
        except MediaError as error:
            raise MediaError(str(error).replace(str(incoming.temporary), incoming.name)) from None
        longest = read_settings().max_audio_seconds
        if info.kind == "audio" and (info.duration or 0) > longest:
            raise MediaError(f"{incoming.name} is longer than {longest:g} s. Cut it.")
        return info


def routes(receiver: Receiver, processes: Processes) -> APIRouter:
    """The endpoints."""
    router = APIRouter(prefix="/api", tags=["uploads"])
    sizes = Sizes(processes)

    def uploading(name: str, kind: str) -> None:
        suffixes = ", ".join(suffix for suffix, theirs in KINDS.items() if theirs == kind)

        async def upload(request: Request) -> Response:
            texts, files = await receiver.form(request, {"file": kind})
            if texts or "file" not in files:
                remove_kept(path for path, _ in files.values())
                raise HTTPException(
                    422, "The form must have a file in the field file, as `curl -F file=@NAME` sends it."
                )
            path, info = files["file"]
            size = {} if info.width is None else {"width": info.width, "height": info.height}
            return JSONResponse(uploaded(path) | size)

        router.post(
            f"/upload/{name}",
            response_model=Uploaded,
            summary=f"Upload a file: {suffixes}.",
            operation_id=f"upload_{name}",
            openapi_extra={"requestBody": form_schema({"file": {"type": "string", "format": "binary"}}, ["file"])},
        )(upload)

    for name, kind in _NAMES.items():
        uploading(name, kind)

    @router.get("/uploads/images", response_model=Images)
    async def images() -> Response:
        """The uploaded pictures, newest first; at most 1,000."""
        found, paths, total = await run_in_threadpool(_list, "picture")
        await sizes.add(found, paths)
        return JSONResponse({"images": found, "total": total})

    @router.get("/uploads/audio", response_model=Sounds)
    async def audio() -> Response:
        """The uploaded recordings, newest first; at most 1,000."""
        found, _, total = await run_in_threadpool(_list, "audio")
        return JSONResponse({"audio": found, "total": total})

    @router.delete("/uploads/{filename}", response_model=Message)
    async def delete(filename: str) -> Response:
        """Delete an upload. Runs that were submitted with it keep their results."""
        await run_in_threadpool(_delete, filename)
        return JSONResponse({"message": f"{filename} is deleted."})

    return router


def remove_kept(paths: Iterable[Path]) -> None:
    """Remove the files of a request that is refused: a client that sends it again would fill the folder with them."""
    for path in paths:
        path.unlink(missing_ok=True)


def form_schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """The body of a form, for OpenAPI."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def uploaded(path: Path) -> dict[str, Any]:
    """How a file of the uploads is named in an answer."""
    return {"path": wire_path(path), "url": f"/{quote(wire_path(path))}"}


def _list(kind: str) -> tuple[list[dict[str, Any]], list[Path], int]:
    found = []
    for path in entries(uploads_folder()):
        if path.name.startswith(".") or kind_of(path) != kind or printable(path.name) != path.name:
            continue
        if media_below(path) is not None and (facts := stat_if_possible(path)) is not None:
            found.append((facts.st_mtime, path, facts.st_size))
    found.sort(reverse=True)
    shown = [
        {"filename": path.name, **uploaded(path), "size": size, "created_at": time}
        for time, path, size in found[:MOST_LISTED]
    ]
    return shown, [path for _, path, _ in found[:MOST_LISTED]], len(found)


def _delete(filename: str) -> None:
    path = uploads_folder() / filename
    # a link is removed itself, and only where it lies in the folder
    if "/" in filename or filename.startswith(".") or not kind_of(path) or not os.path.lexists(path):
        raise HTTPException(404, "There is no such upload.")
    if os.path.isdir(path) and not os.path.islink(path):
        raise HTTPException(404, "There is no such upload.")
    remove(path)

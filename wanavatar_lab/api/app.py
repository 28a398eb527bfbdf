"""The application: routers, errors in one shape, and what is ended with it."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from wanavatar_lab.api import facts, generate, outputs, page, tools, uploads, videos
from wanavatar_lab.api.guard import Guard
from wanavatar_lab.api.options import Options
from wanavatar_lab.api.processes import Processes
from wanavatar_lab.api.tasks import Tasks
from wanavatar_lab.errors import DiskFull, LabError, RequestError, RunError
from wanavatar_lab.files import printable

LOOKING_AT_ONCE = 2  # files that are looked into: each may take the memory of the largest picture
LONGEST_LOOK = 60.0  # seconds: a video of an hour without an index is read through


class Refused(BaseModel):
    """Why a request is refused: a sentence, or the problems by field."""

    detail: str | list[Any]


_REASONS = {
    400: "the body cannot be read",
    401: "the token is missing",
    403: "another host or origin",
    404: "there is no such thing",
    405: "another method",
    408: "the body comes too slowly",
    409: "not in this state",
    413: "too large",
    415: "another content type",
    422: "a value is not allowed, or a file is not what its name says",
    429: "too many",
    431: "the headers are too long",
    503: "weights or an extra are missing",
    507: "the disk is full",
}


def create_app(options: Options) -> FastAPI:
    """The application of a service.

    Args:
        options: as `options.checked` returns them.
    """
    checks = Processes(LOOKING_AT_ONCE, LONGEST_LOOK, checks=True)
    tasks, web, receiver = Tasks(options), page.Page(options), uploads.Receiver(options, checks)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # FastAPI builds its routes and schema when they are first asked for, half a second in which nobody is answered
        app.openapi()
        for route in app.routes:
            route.matches({"type": "http", "method": "GET", "path": "/none", "root_path": "", "headers": []})
        gc.freeze()  # what is there now stays, and each full collection would look at it
        yield
        for ending in (web, tasks, checks):
            await ending.close()

    app = FastAPI(
        title="WanAvatar Lab",
        version="1",
        description="From a sentence, a picture and a voice to a talking avatar.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={status: {"model": Refused, "description": reason} for status, reason in _REASONS.items()},
    )
    routers = (
        generate.routes(tasks),
        uploads.routes(receiver, checks),
        outputs.routes(checks),
        tools.routes(tasks, receiver, checks),
        facts.routes(options),
        videos.routes(tasks, receiver),
        page.routes(app, web, options),
    )

    async def another_method(request: Request, _: Exception) -> Response:
        """Starlette names the methods of the first route of an address only."""
        routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
        path = next((one.path for one in routes if one.matches(request.scope)[0] != Match.NONE), None)
        allowed = {name for one in routes if one.path == path for name in one.methods or ()}
        return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(sorted(allowed))})

    for router in routers:
        app.include_router(router)
    app.add_exception_handler(405, another_method)
    app.add_exception_handler(LabError, _explain)
    app.add_exception_handler(ClientDisconnect, _lost)
    app.add_middleware(Guard, options=options)
    return app


async def _lost(_: Request, __: Exception) -> Response:
    """The answer that nobody gets, since the client has gone away in the middle of its request."""
    return JSONResponse({"detail": "The request breaks off."}, 400)


async def _explain(_: Request, error: Exception) -> Response:
    """The answer where something of this package refuses a request."""
    if isinstance(error, RequestError):
        # as FastAPI names what is wrong with a body
        problems = [
            {"loc": ["body", printable(field)], "msg": printable(message), "type": "value_error"}
            for field, message in error.problems
        ]
        return JSONResponse({"detail": problems}, 422)
    status = 507 if isinstance(error, DiskFull) else 404 if isinstance(error, RunError) else 422
    return JSONResponse({"detail": printable(str(error))}, status)

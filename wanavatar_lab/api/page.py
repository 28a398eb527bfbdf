"""/ and /docs.

/ is the page of all stages where only this machine reaches the service: Voilà is started beside it, on a port of its
own on this machine, when the page is first opened, and the browser is sent there. Voilà asks for no token, so a service
that does shows the state of the queue instead. /docs is made from the OpenAPI schema, and loads nothing from elsewhere.
"""

import asyncio
import os
import socket
import sys
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from wanavatar_lab import jobs
from wanavatar_lab.api.options import Options
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import printable
from wanavatar_lab.settings import CHECKOUT

_NOTEBOOK = CHECKOUT / "notebooks" / "app.ipynb"
_LONGEST_START = 60.0  # seconds
# Voilà ends with the service, also where that is killed
_CODE = (
    "import sys; from wanavatar_lab.worker.child_process import die_with_parent\n"
    "die_with_parent(int(sys.argv.pop(1)))\n"
    "from wanavatar_lab.ui.web import WebPage; WebPage.launch_instance()"
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color-scheme:light dark}\
code,pre{font-size:.9em}table{border-collapse:collapse;display:block;overflow-x:auto}\
td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884}"
)


class Page:
    """Voilà beside the service."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._child: asyncio.subprocess.Process | None = None
        self._port = 0
        self._starting = asyncio.Lock()

    @property
    def offered(self) -> bool:
        """Whether there is one: not beyond this machine, not beside a token, and only with the notebooks."""
        return self._options.page and self._options.local and not self._options.token and _NOTEBOOK.is_file()

    async def port(self) -> int:
        """Its port, once it answers.

        Raises:
            LabError: it does not start.
        """
        async with self._starting:
            if self._child is None or self._child.returncode is not None:
                await self._start()
        return self._port

    async def close(self) -> None:
        """End it."""
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            try:
                await asyncio.wait_for(self._child.wait(), 5)
            except TimeoutError:
                self._child.kill()
                await self._child.wait()

    async def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        templates = CHECKOUT / "wanavatar_lab" / "ui" / "voila_templates"
        paths = {
            "JUPYTER_PATH": os.pathsep.join(filter(None, (str(templates), os.environ.get("JUPYTER_PATH")))),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH")))),
        }
        self._child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _CODE, str(os.getpid()), str(_NOTEBOOK), "--template=wanavatar"),
            *("--Voila.ip=127.0.0.1", f"--port={self._port}", "--no-browser"),
            stdin=asyncio.subprocess.DEVNULL,
            cwd=CHECKOUT,  # where voila.json is
            env={**os.environ, **paths},
        )
        until = asyncio.get_running_loop().time() + _LONGEST_START
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.close()
                return
            except OSError:
                if self._child.returncode is not None or asyncio.get_running_loop().time() > until:
                    await self.close()
                    raise LabError(
                        "The page does not start; what Voilà says of it is in the service's output."
                    ) from None
                await asyncio.sleep(0.1)


def routes(app: FastAPI, page: Page, options: Options) -> APIRouter:
    """The endpoints."""
    router = APIRouter(include_in_schema=False)

    @router.get("/", response_class=HTMLResponse)
    async def root(request: Request) -> Response:
        if page.offered and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"http://127.0.0.1:{await page.port()}/", status_code=307)
        return HTMLResponse(await run_in_threadpool(_state, options))

    @router.get("/docs", response_class=HTMLResponse)
    def docs() -> str:
        return _docs(app.openapi())

    return router


def _state(options: Options) -> str:
    """The queue in a few lines."""
    rows: list[tuple[str, ...]] = []
    for job in jobs.list_queue()[:50]:
        status = job.run.readable_status()
        if status is not None:
            rows.append((job.id, status.state, f"{100 * status.fraction:.0f}%", status.message))
    body = (
        "<p>The page of all stages is <code>make web</code>, or this service on a loopback address without a token.</p>"
    )
    body += (
        f"<p>Models: {escape(options.profile)}. <a href='/docs'>Endpoints</a>, <a href='/openapi.json'>OpenAPI</a>.</p>"
    )
    return _html(
        "WanAvatar Lab", body + (_table(("run", "state", "done", "now"), rows) if rows else "<p>Nothing runs.</p>")
    )


def _docs(schema: dict[str, Any]) -> str:
    """Every endpoint with its fields, from the OpenAPI schema."""
    parts = ["<p>The same as OpenAPI, for other programs: <a href='/openapi.json'>/openapi.json</a>.</p>"]
    for path, methods in schema["paths"].items():
        for method, facts in methods.items():
            name = facts.get("operationId", "")
            text = facts.get("description") or facts.get("summary", "")
            parts.append(
                f"<h2 id='{escape(name)}'><code>{method.upper()} {escape(path)}</code></h2><p>{escape(text)}</p>"
            )
            rows = [_row(one["name"], one["schema"], one["required"]) for one in facts.get("parameters", ())]
            for content in list(facts.get("requestBody", {}).get("content", {}).values())[:1]:
                fields = content["schema"]
                rows += [_row(key, one, key in fields.get("required", ())) for key, one in fields["properties"].items()]
            if rows:
                parts.append(_table(("field", "type", "default", ""), rows))
    return _html("WanAvatar Lab: endpoints", "".join(parts))


def _row(name: str, shown: dict[str, Any], required: bool) -> tuple[str, ...]:
    kinds = [one.get("type", "") for one in shown.get("anyOf", [shown])]
    kinds = [one for kind in kinds for one in (kind if isinstance(kind, list) else [kind]) if one not in ("null", "")]
    default = "required" if required else "" if shown.get("default") in (None, "") else str(shown["default"])
    choices = shown.get("enum", ())
    says = ", ".join(str(one) for one in choices if one is not None) if 0 < len(choices) <= 12 else ""
    return (
        name,
        " or ".join(kinds),
        default,
        " ".join(filter(None, (shown.get("description", ""), says and f"One of {says}."))),
    )


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    lines = "".join("<tr>" + "".join(f"<td>{escape(printable(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _html(title: str, body: str) -> str:
    head = f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
    return f"{head}<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"

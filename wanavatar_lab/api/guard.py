"""Which requests are answered at all. Every one goes through here, those for files and for pages too.

A page of another site that is open in a browser on this machine can send requests to it. It is recognised by the
Origin header, and one that lets its own name point to this machine (DNS rebinding) by the Host header.
"""

import hmac
import ipaddress
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wanavatar_lab.api.options import TOKEN_VARIABLE, Options

COOKIE = "wanavatar_token"
MOST_HEADERS = 16 * 1024  # bytes; uvicorn bounds only what arrives in pieces
_SAFE = {
    "X-Content-Type-Options": "nosniff",  # a file that is a picture and a page at once is shown as a picture
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
}


class Guard:
    """ASGI middleware: refuses other hosts and origins, asks for the token, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self._app, self._options = app, options
        self._local = options.local  # asked once: it looks the host's name up
        self._names = {"localhost", options.host.lower(), *(name.lower() for name in options.names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        allowed = origin if origin in self._options.origins else ""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                for name, value in _SAFE.items():
                    added.setdefault(name, value)
                if allowed:
                    added["Access-Control-Allow-Origin"], added["Vary"] = allowed, "Origin"
                    added["Cross-Origin-Resource-Policy"] = "cross-origin"
            await send(message)

        answer = self._refusal(scope, headers, origin, allowed)
        await (answer or self._app)(scope, receive, sending)

    def _refusal(self, scope: Scope, headers: Headers, origin: str, allowed: str) -> Response | None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > MOST_HEADERS:
            return _refused(431, f"The headers and the address have more than {MOST_HEADERS:,} bytes.")
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        # a service for a network, which has many names, relies on its token
        if self._local and not self._is_local(host):
            named = f"answers under local names only, such as localhost, and not under {host[:80]!r}"
            return _refused(403, f"This service {named}. If it is meant to have that name, start it with --name.")
        if origin and not allowed and origin != f"{scope['scheme']}://{host}":
            return _refused(
                403, f"Pages of {origin[:80]!r} may not use this service; --allow-origin names those that may."
            )
        if not origin and headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return _refused(403, "Pages of other sites may not use this service; --allow-origin names those that may.")
        if allowed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            permitted = {
                "Access-Control-Allow-Methods": "GET, POST, DELETE",
                "Access-Control-Allow-Headers": "Authorization, Content-Type",
                "Access-Control-Max-Age": "600",
            }
            return Response(status_code=204, headers=permitted)
        if not self._options.token or self._is_ours(headers):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if scope["path"] == "/" and scope["method"] == "GET" and self._is_token(given[0]):
            # out of the address, which a browser keeps in its history
            response = RedirectResponse("/", status_code=303)
            secure = scope["scheme"] == "https"
            response.set_cookie(COOKIE, given[0], httponly=True, samesite="strict", secure=secure)
            return response
        how = (
            f"Authorization: Bearer TOKEN, with what {TOKEN_VARIABLE} says or what the service printed when it started"
        )
        return _refused(401, f"This service asks for a token: send {how}.", {"WWW-Authenticate": "Bearer"})

    def _is_local(self, host: str) -> bool:
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        name = name.removeprefix("[").removesuffix("]").lower()
        try:
            return name in self._names or ipaddress.ip_address(name).is_loopback
        except ValueError:  # another name
            return False

    def _is_ours(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(token.strip()):
            return True
        # as browsers write them: a host's other services, whose cookies come too, may put JSON into theirs
        return self._is_token(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._options.token.encode())


def _refused(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": why}, status, headers)

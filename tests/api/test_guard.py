"""Who may use the service: hosts, origins, tokens."""

import asyncio
import os
import re
import socket
from functools import cache
from typing import Any

import httpx2
import pytest

from wanavatar_lab.api import server
from wanavatar_lab.api.app import create_app
from wanavatar_lab.api.options import TOKEN_VARIABLE, Options, checked
from wanavatar_lab.api.server import listen
from wanavatar_lab.cli import main
from wanavatar_lab.errors import LabError

TOKEN = "a-token-of-some-length"


application = cache(create_app)


def ask(options: Options, target: str = "/api/config", method: str = "GET", **headers: str) -> httpx2.Response:
    """An answer of a service with these options, within this process."""

    async def asking() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=application(options))
        async with httpx2.AsyncClient(transport=transport, base_url=f"http://localhost:{options.port}") as client:
            given = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
            return await client.request(method, target, headers=given)

    return asyncio.run(asking())


LOCAL = Options(profile="pocket")
OPEN = Options(profile="pocket", host="0.0.0.0", token=TOKEN)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "127.8.9.1", "[::1]:8000"]
)
def test_local_names(host: str) -> None:
    assert ask(LOCAL, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.1", "", "[::2]"]
)
def test_other_names(host: str) -> None:
    """As a page does that lets its own name point to this machine."""
    assert ask(LOCAL, Host=host).status_code == 403
    named = Options(profile="pocket", names=("Evil.Example",))
    assert ask(named, Host=host).status_code == (200 if host == "evil.example" else 403)


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of names that fails or answers otherwise changes nothing of a service that runs."""
    options = Options(profile="pocket", host="localhost", names=("once",))
    assert ask(options).status_code == 200

    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no server of names")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert ask(options).status_code == 200
    assert ask(options, Host="evil.example").status_code == 403


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_pages_of_other_sites(method: str) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:9000", "http://localhost:8000.evil.example"):
        answer = ask(LOCAL, "/api/outputs", method, Origin=origin)
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    picture = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert ask(LOCAL, "/outputs/a.png", method, **picture).status_code == 403


def test_pages_that_are_named() -> None:
    friend = "https://front.example:8443"
    options = Options(profile="pocket", origins=(friend,))
    assert ask(LOCAL, Origin="http://localhost:8000").status_code == 200
    answer = ask(options, Origin=friend)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, friend)
    before = ask(options, "/api/generate", "OPTIONS", Origin=friend, Access_Control_Request_Method="POST")
    assert before.status_code == 204 and "Authorization" in before.headers["access-control-allow-headers"]
    assert ask(options, Origin="https://other.example").status_code == 403


def test_a_token_is_asked_for() -> None:
    for target in ("/", "/docs", "/openapi.json", "/api/config", "/outputs/a", "/none", "/v1/videos"):
        assert ask(OPEN, target).status_code == 401
    for wrong in ("", "Bearer", "Bearer ", "Bearer other", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"):
        assert ask(OPEN, Authorization=wrong).status_code == 401
    assert ask(OPEN, Authorization=f"Bearer {TOKEN}").status_code == 200
    assert ask(OPEN, Cookie=f"a=b; wanavatar_token={TOKEN}").status_code == 200
    assert ask(OPEN, f"/api/config?token={TOKEN}").status_code == 401  # addresses end in logs


def test_a_browser_keeps_the_token() -> None:
    assert ask(OPEN, "/?token=other").status_code == 401
    answer = ask(OPEN, f"/?token={TOKEN}")
    cookie = answer.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    beside = 'prefs={"theme": "dark"}; '  # of another service of the host
    page = ask(OPEN, "/", Cookie=beside + cookie.partition(";")[0], Accept="text/html")
    assert (
        page.status_code == 200 and "make web" in page.text
    )  # the page of Voilà, which asks for no token, is not there


@pytest.mark.parametrize("token", [TOKEN, "Zm9vYmFyYmF6+cXV4/Q=="])
def test_the_address_that_is_printed_has_the_token(
    token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    monkeypatch.setattr(server, "serve", lambda options, listening: listening.close())
    assert main(["serve", "--host", "0.0.0.0", "--port", "0", "--profile", "pocket"]) == 0
    (query,) = re.findall(r"\?\S+", capsys.readouterr().err)
    options = Options(profile="pocket", host="0.0.0.0", token=token)
    assert ask(options, f"/{query}").status_code == 303


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "localhost"), ("::1", "localhost"), ("::", "[::]")])
def test_the_address_that_is_printed_is_listened_on(
    host: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = listen(Options(port=0))  # of a machine that has no IPv6 too
    port = listening.getsockname()[1]
    monkeypatch.setattr(server, "listen", lambda _: listening)
    monkeypatch.setattr(server, "serve", lambda _, listening: listening.close())
    assert main(["serve", "--host", host, "--port", "0", "--profile", "pocket"]) == 0
    assert f" http://{shown}:{port}/, " in capsys.readouterr().err


@pytest.mark.parametrize("host", ["..", ".local", "a" * 64])
def test_a_host_that_cannot_be_a_name_is_named(host: str) -> None:
    with pytest.raises(LabError, match=f"^{re.escape(repr(host))} is no address of this machine"):
        checked(Options(host=host))


def test_a_token_is_drawn_or_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    drawn = [checked(Options(host="0.0.0.0")).token for _ in range(2)]
    assert len(drawn[0]) >= 32 and drawn[0] != drawn[1] and checked(Options()).token == ""
    assert drawn[0] not in repr(checked(Options(host="0.0.0.0")))
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert checked(Options()).token == checked(Options(host="0.0.0.0")).token == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(LabError, match=TOKEN_VARIABLE):
        checked(Options())


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "other"},
        {"origins": ("*",)},
        {"origins": ("https://a/b",)},
        {"origins": ("evil",)},
        {"host": "no such"},
        {"most_jobs": 0},
    ],
)
def test_options_that_are_not_allowed(wrong: dict[str, Any]) -> None:
    assert TOKEN_VARIABLE not in os.environ
    with pytest.raises(LabError):
        checked(Options(**wrong))


def test_a_port_that_is_in_use() -> None:
    with listen(Options(port=0)) as first:
        first.listen()
        assert first.proto == socket.IPPROTO_TCP  # or answers would wait for each other's acknowledgement
        port = first.getsockname()[1]
        with pytest.raises(LabError, match=f"Port {port} of 127.0.0.1 cannot be listened on: Address already in use"):
            listen(Options(port=port))

"""The server of `make web`: under which names it answers, and how many kernels it has."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from tests.browser.servers import REPOSITORY, Server, start_voila, write_notebook
from tests.queue_for_tests import eventually
from wanavatar_lab.ui.web import WebPage

PATHS = (
    "/",
    "/no/such/page",
    "/login",
    "/voila/static/voila.js",
    "/voila/templates/lab/static/voila.js",
    "/voila/labextensions/x.js",
    "/voila/api/themes/x.css",
    "/voila/files/runs/clip.mp4",
    "/api/kernels/0-0-0-0-0",
    "/api/kernels/0-0-0-0-0/channels",
)


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Server]:
    """The server over a folder with a small page and one file of a run."""
    (folder / "notebooks").mkdir()
    (folder / "runs").mkdir()
    (folder / "runs" / "clip.mp4").write_bytes(b"a clip")
    write_notebook(folder / "notebooks" / "app.ipynb", "print('the page')")
    shutil.copy(REPOSITORY / "voila.json", folder)
    server = start_voila(folder, {}, "app.ipynb", options)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It has one kernel at most, which ends some seconds after its page was closed."""
    culling = ("--MappingKernelManager.cull_idle_timeout=4", "--MappingKernelManager.cull_interval=1")
    with served(tmp_path_factory.mktemp("web"), "--max_kernels=1", *culling) as server:
        yield server


def answer(server: Server, path: str, host: str = "", **headers: str) -> tuple[int, str]:
    """Status and text of a GET whose Host header is `host`, {port} being the server's."""
    with connected(server, path, host, **headers) as response:
        return response.status, response.read().decode()


@contextmanager
def connected(server: Server, path: str, host: str = "", **headers: str) -> Iterator[HTTPResponse]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        host = host.format(port=server.port) or f"localhost:{server.port}"
        connection.request("GET", path, headers={"Host": host, **headers})
        yield connection.getresponse()
    finally:
        connection.close()


@contextmanager
def socket_of(server: Server, page: str, host: str) -> Iterator[int]:
    """The status with which the server answers a page that opens the websocket of its kernel."""
    found = re.search(r'"kernelId": "([\w-]+)"', page)
    assert found is not None
    headers = {
        "Origin": f"http://{host}".format(port=server.port),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    with connected(server, f"/api/kernels/{found[1]}/channels", host, **headers) as response:
        yield response.status


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost.evil.example:{port}", "0.0.0.0:{port}"]
)
def test_a_request_under_another_name_is_refused_whatever_it_asks(server: Server, host: str) -> None:
    for path in PATHS:
        status, text = answer(server, path, host)
        assert (status, "answers under local names only" in text) == (403, True), path
    assert server.kernels() == set()


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST:{port}", "127.0.0.1", "[::1]:{port}"])
def test_local_names_are_answered(server: Server, host: str) -> None:
    assert answer(server, "/voila/files/runs/clip.mp4", host) == (200, "a clip")
    assert answer(server, "/voila/static/voila.js", host)[0] == 200
    assert answer(server, "/api/kernels/0-0-0-0-0", host)[0] == 404


def test_there_are_no_more_kernels_than_allowed_and_one_without_a_page_ends(server: Server) -> None:
    with ThreadPoolExecutor(4) as visitors:
        answers = list(visitors.map(lambda _: answer(server, "/"), range(4)))
    assert sorted(status for status, _ in answers) == [200, 503, 503, 503]
    assert all("Close a page" in text and "--max_kernels=2" in text for status, text in answers if status == 503)
    assert all("http" not in text for status, text in answers if status == 503)  # it asks no other host
    (page,) = (text for status, text in answers if status == 200)
    assert "the page" in page
    with socket_of(server, page, "evil.example:{port}") as status:
        assert status == 403
    with socket_of(server, page, "localhost:{port}") as status:
        assert status == 101
        kernels = server.kernels()
        assert len(kernels) == 1 and answer(server, "/")[0] == 503
    eventually(lambda: answer(server, "/")[0] == 200)  # the socket is closed
    assert len(server.kernels()) == 1 and server.kernels() != kernels


def test_a_page_that_is_silent_for_long_loses_its_kernel_and_other_names_can_be_allowed(tmp_path: Path) -> None:
    options = ("--PageKernels.silent_timeout=2", "--MappingKernelManager.cull_interval=1")
    with served(tmp_path, "--WebPage.local_hostnames=lab.example", *options) as server:
        assert answer(server, "/voila/static/voila.js", "localhost")[0] == 403
        status, page = answer(server, "/", "lab.example")
        assert status == 200
        with socket_of(server, page, "lab.example") as status:
            assert status == 101
            eventually(lambda: server.kernels() == set())


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_a_loopback_address_only_local_names_are_answered(ip: str) -> None:
    assert not WebPage(ip=ip).allow_remote_access


@pytest.mark.parametrize("ip", ["", "0.0.0.0", "::", "192.0.2.1"])
def test_on_another_address_any_name_is_answered(ip: str) -> None:
    assert WebPage(ip=ip).allow_remote_access

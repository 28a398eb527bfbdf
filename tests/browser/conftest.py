"""Chromium, Lab and Voilà for the tests of this folder, and what must be true after each of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.browser.served import launched_chromium, served_folder
from tests.browser.servers import REPOSITORY, TOKEN, Server, start_lab, start_voila, write_notebook

SCREENSHOTS = REPOSITORY / "runs" / "screenshots"
TIMEOUT = 30_000  # milliseconds; only a failing test waits so long

expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that both servers serve: notebooks, samples and runs, with a queue of its own."""
    with served_folder(tmp_path_factory.mktemp("served") / "root") as folder:
        yield folder


@pytest.fixture(scope="module")
def lab(place: Path) -> Iterator[Server]:
    """JupyterLab over the folder."""
    server = start_lab(place, {})
    yield server
    server.stop()
    assert server.complaints() == []


@pytest.fixture(scope="module")
def voila(place: Path) -> Iterator[Server]:
    """Voilà over the folder; a notebook is at /voila/render/notebooks/."""
    server = start_voila(place, {})
    yield server
    server.stop()
    assert server.complaints() == []


@pytest.fixture(scope="module")
def app(place: Path) -> Iterator[Server]:
    """Voilà over the page alone, as `make web` starts it."""
    server = start_voila(place, {}, "app.ipynb")
    yield server
    server.stop()
    assert server.complaints() == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for the tests of a file."""
    with launched_chromium() as browser:
        yield browser


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser without memory, whose requests to any other host are refused, and fail the test."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(TIMEOUT)
    elsewhere: list[str] = []

    def only_here(route: Route) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route("http://**", only_here)
    context.route("https://**", only_here)
    yield context
    context.close()
    assert elsewhere == [], "the page asked another host"


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page in which no script failed."""
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    assert faults == []


Show = Callable[[str, str], Server]


@pytest.fixture(params=["lab", "voila"])
def show(request: pytest.FixtureRequest, place: Path, page: Page) -> Show:
    """Shows what a cell displays, in Lab and in Voilà: `show(name of the notebook, source of its cell)`."""

    def show_in_lab(name: str, source: str) -> Server:
        write_notebook(place / "notebooks" / f"{name}.ipynb", source)
        server: Server = request.getfixturevalue("lab")
        open_in_lab(page, server, name)
        return server

    def show_in_voila(name: str, source: str) -> Server:
        write_notebook(place / "notebooks" / f"{name}.ipynb", source)
        server: Server = request.getfixturevalue("voila")
        page.goto(f"{server.url}/voila/render/notebooks/{name}.ipynb")
        return server

    return show_in_lab if request.param == "lab" else show_in_voila


KERNEL_IS_READY = """() => {
  const session = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return session?.isReady && session.session?.kernel?.status === "idle";
}"""


def open_in_lab(page: Page, server: Server, name: str) -> None:
    """Open a notebook in Lab alone, without what was open before, and run its first code cell."""
    page.goto(f"{server.url}/doc/tree/notebooks/{name}.ipynb?reset&token={TOKEN}")
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    expect(cell).to_be_visible()
    # Not sooner: where a cell is run while Lab asks for the notebook's kernel, Lab asks a second time. Of the two
    # kernels that the server then starts it ends one, to which the other request still wants to connect.
    page.wait_for_function(KERNEL_IS_READY)
    for _ in range(20):
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        try:
            # while Lab is still setting itself up, it does not hear keys
            expect(cell.locator(".jp-InputPrompt")).not_to_have_text("[ ]:", timeout=1000)
            return
        except AssertionError:
            continue
    raise AssertionError("Lab does not run the cell")


# what people operate or have described to them, as Chromium tells it to a screen reader
NAMED_ROLES = (
    *("button", "link", "tab", "textbox", "searchbox", "spinbutton", "slider", "combobox", "checkbox"),
    *("progressbar", "image", "Video", "Audio", "DisclosureTriangle"),
)


def nameless(page: Page, within: str = ".wl") -> list[str]:
    """The roles of all elements within our widgets that have no accessible name and should."""
    session = page.context.new_cdp_session(page)
    found = []
    for number in range(page.locator(within).count()):
        root = session.send("Runtime.evaluate", {"expression": f"document.querySelectorAll('{within}')[{number}]"})
        for role in NAMED_ROLES:
            query = {"objectId": root["result"]["objectId"], "role": role}
            nodes = session.send("Accessibility.queryAXTree", query)["nodes"]
            found += [role for node in nodes if not node["ignored"] and not node.get("name", {}).get("value")]
    return found


def picture_of(page: Page, name: str) -> None:
    """Keep a screenshot, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")

"""How quickly the workbench answers, and how much memory its kernel takes, in real Chromium; prints one JSON.

    python -m tests.browser.measure
    python -m tests.browser.measure --runs 5

first_panel_s      from the start of a notebook's first cell, imports and all, until its panel is to be seen
click_ms           from a click while a run is going until what the kernel answers is to be seen
kernel_mb          resident memory of the page's kernel before and after so many runs from its panel, and the peak
complaints         what the servers and kernels logged as errors meanwhile
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import open_in_lab
from tests.browser.served import launched_chromium, served_folder
from tests.browser.servers import Server, start_lab, start_voila, write_notebook
from wanavatar_lab.jobs import list_jobs

LIMITS = {"first_panel_s": 2.0, "click_ms": 100.0, "kernel_mb": 400.0}
CLICKS = 30
PATIENCE = 120_000  # milliseconds

# the clock of the cell's start is the kernel's, which is this machine's as the browser's is
PANEL = """
import pathlib, time
pathlib.Path("../began").write_text(str(time.time()))
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.ui.panel import Panel
Panel(SpeechToVideo, profile="pocket")
"""
SETTLED = 2_000  # milliseconds after which a panel has all that it gets
# notes when a panel's button is drawn for the first time
WATCH = """
const look = () => {
  const button = document.querySelector(".wl-run, .jupyter-button.mod-primary");
  if (button && button.offsetHeight > 0) window.panelAt = Date.now();
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
# clicks an element and waits until the text of another is a different one, by the browser's own clock
CLICK = """([button, shown]) => new Promise(resolve => {
  const before = shown.textContent;
  const begin = performance.now();
  const look = () => {
    if (shown.textContent !== before) resolve(performance.now() - begin);
    else setTimeout(look, 1);
  };
  button.click();
  look();
})"""


def first_panel(browser: Browser, server: Server, folder: Path) -> float:
    """Seconds from the start of a cell that shows a panel, in a fresh kernel, until it is seen."""
    write_notebook(folder / "notebooks" / "measured.ipynb", PANEL)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.add_init_script(WATCH)
    if server.kind == "lab":
        open_in_lab(page, server, "measured")
    else:
        page.goto(f"{server.url}/voila/render/notebooks/measured.ipynb")
    page.wait_for_function("window.panelAt", timeout=PATIENCE)
    seen = float(page.evaluate("window.panelAt")) / 1000
    # What is seldom looked at comes after the panel. A page that goes while the server writes to it leaves a traceback
    # of Tornado's in the log, whoever serves it: tornadoweb/tornado issue 3565.
    page.wait_for_timeout(SETTLED)
    page.close()
    return seen - float((folder / "began").read_text())


def open_app(browser: Browser, server: Server) -> Page:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    expect(page.get_by_role("textbox", name="Prompt")).to_be_visible(timeout=PATIENCE)
    return page


def clicks_while_running(page: Page) -> list[float]:
    """Milliseconds of each click, while a talking clip is made on this machine."""
    seen = page.locator(":visible")
    page.get_by_role("tab", name="Speech to video").click()
    page.get_by_role("combobox", name="Picture: Sample").and_(seen).select_option(index=1)
    page.get_by_role("combobox", name="Voice: Sample").and_(seen).select_option(index=1)
    more = page.locator("button.wl-more:visible").element_handle()
    page.get_by_role("button", name="Run", exact=True).and_(seen).click()
    card = page.get_by_role("region", name="Speech to video").and_(seen)
    expect(card.get_by_text("Denoising")).to_be_visible(timeout=PATIENCE)
    took = []
    for _ in range(CLICKS):
        took.append(float(page.evaluate(CLICK, [more, more])))
        page.wait_for_timeout(40)
    going = any(not job.status().ended for job in list_jobs())
    assert going, "the run has ended before the last click; measure with fewer"
    card.get_by_role("button", name="Cancel").click()
    expect(card.get_by_text("Cancelled", exact=True)).to_be_visible(timeout=PATIENCE)
    return took


def memory(pid: int, kind: str) -> float:
    """Megabytes of a process: VmRSS is what it has, VmHWM the most that it had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(kind))


def memory_through_runs(page: Page, kernel: int, runs: int) -> dict[str, float]:
    """What the kernel takes before and after runs that its panel starts and shows."""
    seen = page.locator(":visible")
    page.get_by_role("tab", name="Text to image").click()
    page.get_by_role("textbox", name="Prompt").and_(seen).fill("an old man with a grey beard, on a green background")
    before = memory(kernel, "VmRSS")
    done: set[str] = set()
    for _ in range(runs):
        page.get_by_role("button", name="Run", exact=True).and_(seen).click()
        end = time.monotonic() + PATIENCE / 1000
        card = page.get_by_role("region", name="Text to image").and_(seen)
        while (run := card.locator(".wl-job-id").all_inner_texts()) in ([], [""]) or run[0] in done:
            assert time.monotonic() < end, "no new card is shown"
            page.wait_for_timeout(50)
        done.add(run[0])
        expect(card.get_by_text("Done", exact=True)).to_be_visible(timeout=PATIENCE)
        shown = page.get_by_role("img", name=re.compile("^After, ")).and_(seen)
        expect(shown).to_be_visible(timeout=PATIENCE)
    return {"before": before, "after": memory(kernel, "VmRSS"), "peak": memory(kernel, "VmHWM")}


def measure(runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, served_folder(Path(scratch) / "root") as folder:
        servers = {"lab": start_lab(folder, {}), "voila": start_voila(folder, {})}
        app = start_voila(folder, {}, "app.ipynb")
        try:
            with launched_chromium() as browser:
                panels = {kind: first_panel(browser, server, folder) for kind, server in servers.items()}
                page = open_app(browser, app)
                (kernel,) = app.kernels()
                took = sorted(clicks_while_running(page))
                megabytes = memory_through_runs(page, kernel, runs)
                page.close()
        finally:
            for server in (*servers.values(), app):
                server.stop()
        complaints = [line for server in (*servers.values(), app) for line in server.complaints()]
    clicks = {"median": statistics.median(took), "p95": took[int(0.95 * len(took))], "largest": took[-1]}
    worst = {
        "first_panel_s": max(panels.values()),
        "click_ms": clicks["largest"],
        "kernel_mb": megabytes["peak"],
    }
    return {
        "first_panel_s": {name: round(value, 2) for name, value in panels.items()},
        "click_ms": {name: round(value, 1) for name, value in clicks.items()} | {"clicks": len(took)},
        "kernel_mb": {name: round(value) for name, value in megabytes.items()} | {"runs": runs},
        "within": {name: worst[name] <= limit for name, limit in LIMITS.items()},
        "limits": LIMITS,
        "complaints": complaints,
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="through how many runs the memory is watched")
    json.dump(measure(parser.parse_args().runs), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()

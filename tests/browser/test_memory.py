"""What a browser remembers: what was typed, the language and the theme, over a reload and a kernel's restart."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import open_in_lab, picture_of
from tests.browser.servers import Server, write_notebook
from tests.stages_for_tests import Relax
from wanavatar_lab.jobs import submit

pytestmark = pytest.mark.chromium

CELL = """
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.ui.panel import Panel
Panel(TextToImage, profile="pocket", prompt="{prompt}")
"""


def test_a_reload_of_the_page_loses_nothing(app: Server, page: Page) -> None:
    page.goto(app.url)
    page.get_by_role("textbox", name="Prompt").fill("a woman in a red coat")
    page.get_by_role("button", name="More settings").click()
    page.get_by_role("spinbutton", name="Seed").fill("42")
    page.get_by_role("spinbutton", name="Seed").press("Tab")
    expect(page.get_by_role("button", name="Reset the form")).to_be_visible()
    page.get_by_role("combobox", name="Language").select_option("ko")
    expect(page.get_by_role("tab", name="갤러리")).to_be_visible()
    page.reload()
    expect(page.get_by_role("tab", name="갤러리")).to_be_visible()
    expect(page.get_by_role("textbox", name="프롬프트")).to_have_value("a woman in a red coat")
    expect(page.get_by_role("spinbutton", name="시드")).to_have_value("42")
    picture_of(page, "memory-korean")

    page.get_by_role("button", name="입력 초기화").click()
    expect(page.get_by_role("textbox", name="프롬프트")).to_have_value("")
    page.reload()
    expect(page.get_by_role("textbox", name="프롬프트")).to_have_value("")
    expect(page.get_by_role("button", name="입력 초기화")).to_have_count(0)


def test_the_browsers_language_comes_first(app: Server, chromium: Browser) -> None:
    context = chromium.new_context(locale="zh-TW")
    page = context.new_page()
    page.goto(app.url)
    expect(page.get_by_role("tab", name="作品库")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    context.close()


def test_a_restart_of_labs_kernel_loses_nothing(lab: Server, place: Path, page: Page) -> None:
    write_notebook(place / "notebooks" / "typed.ipynb", CELL.format(prompt="a dog"))
    open_in_lab(page, lab, "typed")
    prompt = page.get_by_role("textbox", name="Prompt")
    expect(prompt).to_have_value("a dog")
    prompt.fill("a cat")
    page.get_by_role("combobox", name="Language").select_option("zh")
    expect(page.get_by_role("button", name="恢复初始设置")).to_be_visible()
    before = lab.kernels()
    open_in_lab(page, lab, "typed")  # another page, and its cell again
    expect(page.get_by_role("textbox", name="提示词")).to_have_value("a cat")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    open_in_lab(page, lab, "typed")
    expect(page.get_by_role("textbox", name="提示词")).to_have_value("a cat")
    assert lab.kernels() - before

    # a parameter that was changed in the notebook is not overridden
    write_notebook(place / "notebooks" / "changed.ipynb", CELL.format(prompt="a bird"))
    open_in_lab(page, lab, "changed")
    expect(page.get_by_role("textbox", name="提示词")).to_have_value("a bird")


BRIGHTNESS = """selector => {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = getComputedStyle(document.querySelector(selector)).backgroundColor;
  probe.fillRect(0, 0, 1, 1);
  return Math.max(...probe.getImageData(0, 0, 1, 1).data.slice(0, 3));
}"""


def test_the_theme_follows_the_system_and_what_is_chosen_is_remembered(app: Server, chromium: Browser) -> None:
    context = chromium.new_context(color_scheme="dark", viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.goto(app.url)
    theme = page.get_by_role("combobox", name="Theme")
    expect(theme).to_have_value("system")
    expect(page).to_have_title("WanAvatar Lab")
    assert page.locator("link[rel=icon]").get_attribute("href").startswith("data:image/svg+xml,%3Csvg")  # type: ignore[union-attr]
    for selector in ("body", ".wl-panel-form", ".wl-panel-form textarea"):
        assert page.evaluate(BRIGHTNESS, selector) < 60, selector
    page.emulate_media(color_scheme="light")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "true")
    assert page.evaluate(BRIGHTNESS, ".wl-panel-form") > 240
    theme.select_option(label="Dark")
    assert page.evaluate(BRIGHTNESS, ".wl-panel-form") < 60
    page.reload()
    expect(theme).to_have_value("dark")
    assert page.evaluate(BRIGHTNESS, ".wl-panel-form") < 60
    assert page.evaluate("() => getComputedStyle(document.documentElement).colorScheme") == "dark"
    picture_of(page, "memory-dark")
    context.close()


# Chromium without a window always has the focus
ELSEWHERE = """() => {
  document.hasFocus = () => false;
  window.rung = 0;
  window.AudioContext = class extends AudioContext {
    constructor() {
      super();
      window.rung += 1;
    }
  };
}"""


def test_the_tabs_title_tells_how_a_run_goes(app: Server, page: Page) -> None:
    job = submit(Relax(profile="pocket", steps=80, step_seconds=0.05))
    page.goto(app.url)
    page.get_by_role("tab", name="Gallery").click()
    card = page.get_by_role("region", name="Relax").filter(has_text=job.id)
    card.get_by_role("checkbox", name="Sound at the end").check()
    expect(page).to_have_title(re.compile(r"^\d+ % · WanAvatar Lab$"))
    page.evaluate(ELSEWHERE)
    expect(page).to_have_title("✓ WanAvatar Lab")
    page.evaluate("() => window.dispatchEvent(new Event('focus'))")
    expect(page).to_have_title("WanAvatar Lab")
    assert page.evaluate("() => window.rung") == 1
    job.wait(20)

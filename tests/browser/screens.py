"""Pictures of the page with real runs of `pocket` on it, for the README and for people to look at.

    python -m tests.browser.screens                 the ones of the README, into data/samples/screens
    python -m tests.browser.screens --all runs/screens

`--all` also has every panel, light and dark.
"""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.served import launched_chromium, served_folder
from tests.browser.servers import REPOSITORY, Server, start_voila

SCREENS = REPOSITORY / "data" / "samples" / "screens"
MOST_BYTES = 150_000
PATIENCE = 300_000  # milliseconds
PROMPTS = (
    ("a young woman with light skin, long red hair and glasses, wearing a green sweater, on a blue background", 11),
    ("an old man with dark skin, short grey hair and a beard, wearing a blue shirt, on a yellow background", 5),
    ("a young man with light skin, short brown hair, wearing a red sweater, on a green background", 23),
)


class Visitor:
    """Someone on the page, who works by what is to be seen."""

    def __init__(self, browser: Browser, server: Server, folder: Path) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
        self.page.set_default_timeout(PATIENCE)
        self.server, self.folder = server, folder

    def come(self, theme: str) -> None:
        self.page.goto(f"{self.server.url}/?theme={theme}")
        expect(self.page.get_by_role("textbox", name="Prompt")).to_be_visible(timeout=PATIENCE)

    def the(self, role: str, name: str) -> Locator:
        found = self.page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
        return found.and_(self.page.locator(":visible"))

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()
        self.page.mouse.move(0, 0)
        if tab not in ("Gallery", "LoRAs"):
            expect(self.the("button", "Run").or_(self.the("button", "Run another one"))).to_be_visible()

    def choose_sample(self, name: str) -> None:
        self.the("combobox", "Picture").select_option(label="Sample")  # a form remembers what was chosen before
        self.the("combobox", "Picture: Sample").select_option(label=name)

    def run(self) -> Locator:
        cards = self.page.locator(".wl-job:visible")
        before = self.page.locator(".wl-job-id").all_text_contents()
        self.the("button", "Run").click()
        find = "before => [...document.querySelectorAll('.wl-job-id')].map((each) => each.textContent)"
        find += ".find((id) => id && !before.includes(id))"  # the result of an earlier run keeps its card
        return cards.filter(has_text=str(self.page.wait_for_function(find, arg=before).json_value()))

    def wait(self, card: Locator) -> None:
        expect(card.locator("[data-state='succeeded']")).to_be_visible(timeout=PATIENCE)

    def take(self, name: str, *, whole: bool = False) -> None:
        self.page.mouse.move(0, 0)
        self.page.evaluate("document.activeElement.blur()")
        self.page.wait_for_timeout(700)  # until pictures have come
        if not whole:
            self.page.evaluate("scrollTo(0, 0)")
        save(self.page.screenshot(full_page=whole), self.folder / f"{name}.webp")


def save(png: bytes, path: Path) -> None:
    """Write a screenshot as WebP, as good as the limit on its size lets it be.

    Raises:
        ValueError: even the worst is too large.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in range(95, 40, -5):
        encoded = io.BytesIO()
        picture.save(encoded, "WEBP", quality=quality, method=6)
        if encoded.tell() <= MOST_BYTES:
            path.write_bytes(encoded.getvalue())
            print(f"{path}: {encoded.tell() // 1000} kB at quality {quality}")
            return
    raise ValueError(f"{path.name} does not fit into {MOST_BYTES:,} bytes; take less of the page.")


def make(visitor: Visitor, *, everything: bool) -> None:
    visitor.come("light")
    for prompt, seed in PROMPTS:
        visitor.the("textbox", "Prompt").fill(prompt)
        visitor.the("spinbutton", "Seed").fill(str(seed))
        visitor.wait(visitor.run())
    if everything:
        visitor.take("text_to_image")
    speakers = ("dark", "an old man", "english_male.wav"), ("light", "a young woman", "english_female.wav")
    for theme, person, voice in speakers:
        visitor.come(theme)
        visitor.open("Speech to video")
        visitor.the("combobox", "Picture").select_option(label="Earlier result")
        earlier = visitor.the("combobox", "Picture: Earlier result")
        option = earlier.locator("option").filter(has_text=person).first
        earlier.select_option(value=option.get_attribute("value"))
        visitor.the("combobox", "Voice: Sample").select_option(label=voice)
        visitor.the("spinbutton", "Seed").fill("7")
        card = visitor.run()
        if theme == "dark":
            expect(card.get_by_text("step 5 of 8")).to_be_visible(timeout=PATIENCE)
            visitor.take("running")
        visitor.wait(card)
    video = visitor.page.locator(".wl-player video:visible")
    video.evaluate("video => { video.currentTime = 2.4; }")
    visitor.page.wait_for_function("video => video.readyState >= 3 && !video.seeking", arg=video.element_handle())
    visitor.page.wait_for_timeout(2000)  # until the player's wheel, which says that it waits, has faded
    visitor.take("talking")
    visitor.open("Image to video")
    visitor.choose_sample("avatar_woman.png")
    visitor.the("textbox", "Prompt").fill("she tilts her head to the left")
    visitor.wait(visitor.run())
    if everything:
        visitor.take("image_to_video")
    visitor.open("Gallery")
    visitor.take("gallery")
    if not everything:
        return
    for theme in ("light", "dark"):
        visitor.come(theme)
        for tab in (
            "Text to image",
            "Upscale",
            "Image to video",
            "Text to speech",
            "Speech to video",
            "LoRAs",
            "Gallery",
        ):
            visitor.open(tab)
            visitor.take(f"{theme}-{tab.lower().replace(' ', '_')}")
    visitor.open("Upscale")
    visitor.choose_sample("avatar_man.png")
    visitor.wait(visitor.run())
    visitor.take("dark-upscaled")
    visitor.open("Speech to video")
    visitor.choose_sample("avatar_man.png")
    visitor.the("combobox", "Voice: Sample").select_option(label="korean.wav")
    visitor.wait(visitor.run())
    visitor.page.get_by_role("button", name="More settings").and_(visitor.page.locator(":visible")).click()
    visitor.take("dark-talking")
    visitor.take("dark-talking-whole", whole=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every panel, light and dark, into this folder")
    wanted: Path | None = parser.parse_args().all
    with tempfile.TemporaryDirectory() as scratch, served_folder(Path(scratch) / "root") as folder:
        server = start_voila(folder, {}, "app.ipynb")
        try:
            with launched_chromium() as browser:
                make(Visitor(browser, server, wanted or SCREENS), everything=wanted is not None)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

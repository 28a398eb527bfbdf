"""A notebook's HTML in Chromium, without a server or a network, and what is seen of it."""

from pathlib import Path

from nbconvert import HTMLExporter
from playwright.sync_api import Page

# the width of every picture, and of the poster of every clip: 0 for one that is not drawn
WIDTHS = """async () => {
  const widthOf = async (source) => {
    const picture = Object.assign(new Image(), { src: source });
    await picture.decode().catch(() => {});
    return picture.naturalWidth;
  };
  const pictures = [...document.images].map((picture) => picture.naturalWidth);
  const posters = [...document.querySelectorAll("video")].map((video) => widthOf(video.poster));
  return { pictures, posters: await Promise.all(posters) };
}"""
TROUBLE = "Error displaying widget"


def exported(notebook: Path, page: Page) -> dict[str, list[int]]:
    """Open a notebook's HTML without a server or a network; the widths of its pictures and posters."""
    html, _ = HTMLExporter().from_filename(str(notebook))
    file = notebook.with_suffix(".html")
    file.write_text(html, encoding="utf-8")
    page.context.set_offline(True)
    page.goto(file.as_uri())
    found: dict[str, list[int]] = page.evaluate(WIDTHS)
    assert TROUBLE not in page.locator("body").inner_text()
    assert all(width > 0 for widths in found.values() for width in widths), found
    return found

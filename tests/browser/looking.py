"""What a person sees of a page beyond its text: what a video shows, and where the focus is."""

from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Locator, Page

# the frame that a video shows, as red, green, blue and opacity of each pixel
FRAME = """video => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  return { data: [...data], width, height };
}"""

# whether all of a picture or clip is to be seen in its box: neither ends cut off nor a side squeezed
WHOLE = """shown => {
  const [mine, box] = [shown, shown.closest("li, button")].map((each) => each.getBoundingClientRect());
  const across = mine.left >= box.left - 1 && mine.right <= box.right + 1;
  const inside = across && mine.top >= box.top - 1 && mine.bottom <= box.bottom + 1;
  const drawn = (shown.naturalWidth ?? shown.videoWidth) > 0;
  return inside && drawn && getComputedStyle(shown).objectFit === "contain" && mine.height <= mine.width + 1;
}"""

# what has the focus; `seen` where it is within the window and under nothing else, `ring` where it looks focused
FOCUSED = """() => {
  const it = document.activeElement;
  if (!it || it === document.body) return null;
  const style = getComputedStyle(it);
  const box = it.getBoundingClientRect();
  const over = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  window.focusOrder ??= new Map();
  if (!window.focusOrder.has(it)) window.focusOrder.set(it, window.focusOrder.size);
  return {
    id: window.focusOrder.get(it),
    tag: it.tagName.toLowerCase(),
    name: it.getAttribute("aria-label") || it.labels?.[0]?.textContent.trim() || it.textContent.trim().slice(0, 60),
    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
    seen: !!over && (it.contains(over) || over.contains(it)),
  };
}"""


def frame_of(video: Locator) -> npt.NDArray[np.uint8]:
    """The frame that a video shows: [height, width, 3]."""
    read = video.evaluate(FRAME)
    return np.array(read["data"], np.uint8).reshape(read["height"], read["width"], 4)[..., :3]


def is_blank(frame: npt.NDArray[np.uint8]) -> bool:
    """Whether nothing is to be seen in a frame: all its pixels are nearly of one colour."""
    return float(frame.std(axis=(0, 1)).max()) < 8


def focused(page: Page) -> dict[str, Any] | None:
    """What has the focus, or None where the page itself has it."""
    found: dict[str, Any] | None = page.evaluate(FOCUSED)
    return found


class Keyboard:
    """A person without a mouse: sees where the focus is, or complains."""

    OWN_PARTS = ("video", "audio")  # which draw a focus of their own at their buttons, one after the other

    def __init__(self, page: Page) -> None:
        self.page = page
        self.visited: list[str] = []

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def at(self) -> dict[str, Any] | None:
        """What has the focus; it is to be seen that it has."""
        found = focused(self.page)
        if found is not None:
            assert found["seen"], f"{found} has the focus and is not to be seen"
            assert found["ring"] or found["tag"] in self.OWN_PARTS, f"{found} has the focus and does not look so"
        return found

    def tab_to(self, tag: str, name: str, *, most: int = 80, key: str = "Tab") -> None:
        """Go on with Tab until this has the focus: the name, or how it begins."""
        passed: list[str] = []
        for _ in range(most):
            self.press(key)
            found = self.at()
            if found is not None:
                passed.append(f"{found['tag']} {found['name']}")
                if found["tag"] == tag and found["name"].startswith(name):
                    return
        raise AssertionError(f"Tab does not lead to the {tag} {name!r}; it led to {passed}")

    def round(self, *, most: int = 200) -> list[dict[str, Any]]:
        """All that Tab leads to, once round the page.

        Raises:
            AssertionError: the focus stays at one thing, or does not come round.
        """
        begun: list[dict[str, Any]] = []
        same = 0
        for _ in range(most):
            self.press("Tab")
            found = self.at()
            if found is None:
                continue  # at the end of the page, from where Tab goes to its beginning
            if len(begun) > 1 and found["id"] == begun[0]["id"]:
                return begun
            same = same + 1 if begun and begun[-1]["id"] == found["id"] else 0
            assert same < (12 if found["tag"] in self.OWN_PARTS else 1), f"the focus stays at {found}"
            if not same:
                begun.append(found)
        raise AssertionError(f"Tab does not come round the page; it led to {begun}")

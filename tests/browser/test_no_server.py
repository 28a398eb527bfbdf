"""A player on a page that is not Jupyter's, as in VS Code and Colab: the kernel sends a copy, and words say so."""

import base64
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.ui import made_runs
from wanavatar_lab.ui import player

pytestmark = pytest.mark.chromium

# a model as anywidget gives it to a view, whose kernel answers with one message
VIEW = """async ([script, state, message, data]) => {
  const listeners = {};
  const model = {
    get: (name) => state[name],
    set: () => {},
    save_changes: () => {},
    on: (event, call) => (listeners[event] ??= []).push(call),
    off: () => {},
    send: (content) => {
      window.sent = content;
      const bytes = data ? [new DataView(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer)] : [];
      setTimeout(() => listeners["msg:custom"].forEach((call) => call(message, bytes)), 0);
    },
  };
  const view = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  view.default.render({ model, el: document.body });
}"""


@pytest.mark.parametrize(
    ("largest", "shows", "says"),
    [
        (10**7, "video => video.src.startsWith('blob:') && video.readyState > 0 && video.duration > 0.9", "a copy is"),
        (100, "video => video.poster.startsWith('blob:') && !video.src", "only a small picture of it is shown"),
    ],
    ids=["whole", "poster"],
)
def test_a_clip_is_shown_from_a_copy(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, shows: str, says: str
) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setattr(player, "LARGEST_COPY", largest)
    clip = made_runs.clip(tmp_path / "talking.mp4", 1.0, side=64)
    widget = player.Player(clip)
    state = {name: getattr(widget, name) for name in ("paths", "labels", "version", "kind", "fps", "frames", "peaks")}
    whole, kind, data = player.copy_of(clip)
    message = {"kind": "copy", "index": 0, "whole": whole, "type": kind}
    page.set_content("<body></body>")
    state |= {"words": widget.words, "lang": "en", "loop": False}
    page.evaluate(VIEW, [str(widget._esm), json.loads(json.dumps(state)), message, base64.b64encode(data).decode()])
    expect(page.get_by_role("note")).to_contain_text(says)
    expect(page.get_by_role("note")).to_contain_text("JupyterLab")
    page.wait_for_function(f"() => ({shows})(document.querySelector('video'))")
    assert page.evaluate("window.sent") == {"kind": "copies"}

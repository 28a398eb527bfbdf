"""Thumbnails of files that the page does not serve, as of a runs folder on another disk: the kernel sends small copies.

A page asks with `{kind: "thumbnail", id}` when one comes into view, and for a clip that is to be played with
`{kind: "clip", id}`; the answer is the same with its media type, and the bytes, or none where there is nothing to show.
"""

import asyncio
import io
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.served_files import kind_of

SIDE = 480  # pixels of the longest side: a card of the gallery is 300 wide, on many screens of two dots a pixel


async def answer(widget: Any, content: Any, path: Path | None) -> None:
    """Send what a page has asked for.

    Args:
        widget: that it has asked.
        content: its message.
        path: the file; None where it is gone.
    """
    kind, data = "", b""
    if path is not None and content.get("kind") == "clip":
        from wanavatar_lab.ui.player import copy_of  # reading media is slow to import

        whole, kind, data = await asyncio.to_thread(copy_of, path)
        data = data if whole else b""
    elif path is not None:
        kind, data = "image/jpeg", await asyncio.to_thread(thumbnail_of, path)
    widget.send({"kind": content["kind"], "id": content.get("id"), "type": kind}, [data] if data else None)


def thumbnail_of(path: Path) -> bytes:
    """A small JPEG of a picture, or of a clip's first frame; nothing for sound, and what is gone or damaged."""
    from PIL import Image

    from wanavatar_lab.media import read_frame, read_picture

    try:
        if kind_of(path) == "picture":
            shown = read_picture(path)
        elif kind_of(path) == "video":
            shown = Image.fromarray(read_frame(path, 0.0))
        else:
            return b""
    except (LabError, OSError):  # the page then says that there is no preview
        return b""
    shown.thumbnail((SIDE, SIDE))
    memory = io.BytesIO()
    shown.convert("RGB").save(memory, "JPEG", quality=85)
    return memory.getvalue()

"""A media file inside a page: the picture, or a player with its poster, without any other file or server."""

import base64
import io
import mimetypes
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from wanavatar_lab.files import printable
from wanavatar_lab.media.pictures import read_picture
from wanavatar_lab.media.probe import MediaInfo, probe
from wanavatar_lab.media.video_reader import read_frame

LARGEST_EMBEDDED = 2 * 1024**2  # bytes of a clip or a recording; a notebook with a few of them still opens at once
STILL_SIDE = 1024  # longest side in pixels of an embedded picture or poster
NOT_PLAYED = (".avi", ".mkv")  # by browsers


@dataclass(frozen=True)
class Embedded:
    """What a page shows of a file.

    Attributes:
        html: an element `img`, `video` or `audio`; empty for a recording that is not embedded.
        width: pixels of the page that it takes; None for a recording.
        still: the picture or the clip's first frame, in its full size; None for a recording.
        whole: the file itself is embedded, and not its poster alone.
        info: of the file.
    """

    html: str
    width: int | None
    still: Image.Image | None
    whole: bool
    info: MediaInfo

    @property
    def facts(self) -> str:
        """Its size and length in words."""
        facts = [f"{self.info.width} × {self.info.height}"] if self.info.width else []
        facts += [f"{self.info.duration:.2f} s"] if self.info.duration and self.info.kind != "picture" else []
        facts += [f"{self.info.fps:g} fps"] if self.info.fps and self.info.kind == "video" else []
        return " · ".join(facts)


def embed(path: Path, name: str = "", *, side: int = STILL_SIDE, largest: int = LARGEST_EMBEDDED) -> Embedded:
    """A picture, clip or recording for a page: pictures and posters always, clips and recordings where they are small.

    Args:
        path: the file.
        name: what a screen reader says; the file's name by default.
        side: longest side in pixels of a picture or poster.
        largest: bytes of a clip or recording that is embedded whole.

    Raises:
        MediaError: it cannot be read.
        OSError: it is gone.
    """
    info = probe(path)
    said = escape(printable(name or path.name), quote=True)
    still = read_picture(path) if info.kind == "picture" else None
    if info.kind == "video":
        still = Image.fromarray(read_frame(path, 0.0))
    plays = info.kind != "picture" and path.suffix.lower() not in NOT_PLAYED
    whole = plays and path.stat().st_size <= largest
    source = f' src="{data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "")}"' if whole else ""
    if still is None:
        return Embedded(
            f'<audio controls aria-label="{said}"{source}></audio>' if whole else "", None, None, whole, info
        )
    poster = data_url(encoded(still, side, "WEBP", quality=90), "image/webp")
    fits = "display: block; width: 100%; height: auto"
    html = f'<img alt="{said}" src="{poster}" style="{fits}">'
    if whole:
        sized = f'width="{info.width}" height="{info.height}" poster="{poster}"'
        html = f'<video controls loop playsinline aria-label="{said}" {sized}{source} style="{fits}"></video>'
    return Embedded(html, _shown_width(*still.size, side), still, whole, info)


def data_url(data: bytes, kind: str) -> str:
    """Bytes as an address that a page needs no server for."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def encoded(picture: Image.Image, side: int, form: str, **options: int) -> bytes:
    """A picture of at most `side` pixels as a file of a format of Pillow's."""
    smaller, memory = picture.copy(), io.BytesIO()
    smaller.thumbnail((side, side))
    smaller.save(memory, form, **options)
    return memory.getvalue()


def _shown_width(width: int, height: int, side: int) -> int:
    """Pixels of the page across a picture: small ones are enlarged, and tall ones fit into a window with their text."""
    widest, highest, least = (760, 520, 240) if side == STILL_SIDE else (240, 260, 160)
    return round(width * min(widest / width, highest / height, max(1.0, least / width)))

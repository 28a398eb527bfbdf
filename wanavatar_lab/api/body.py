"""Bodies of requests: JSON and forms, read while they arrive, with limits on their size and their time."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from wanavatar_lab.runs.uploads import Incoming

MOST_JSON = 256 * 1024  # bytes: the longest prompts, in any script, with every field
MOST_TEXT = 16 * 1024**2  # bytes of a form's fields without its files: a recording in base64
MOST_PARTS = 200
LONGEST_PAUSE = 15.0  # seconds in which nothing of a body arrives
# a body arrives at least so fast, in bytes a second, after so many seconds: a slow phone sends some hundred kilobytes
SLOWEST, GRACE = 2048.0, 30.0
_WRITE = 1024**2  # bytes that are written at once

Form = dict[str, str | Incoming]


async def chunks(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises:
        HTTPException: 413 if it has more than `most` bytes, 408 if it comes too slowly.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise _too_large(most)
    began, received, more = time.monotonic(), 0, True
    while more:
        try:
            message = await asyncio.wait_for(request.receive(), LONGEST_PAUSE)
        except TimeoutError:
            raise HTTPException(408, f"Nothing of the body has arrived for {LONGEST_PAUSE:g} s.") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        data, more = message.get("body", b""), message.get("more_body", False)
        received += len(data)
        if received > most:
            raise _too_large(most)
        if more and received < (time.monotonic() - began - GRACE) * SLOWEST:
            raise HTTPException(408, f"The body arrives at less than {SLOWEST:g} bytes a second.")
        if data:
            yield data


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        HTTPException: it is none.
    """
    if _content_type(request)[0] != b"application/json":
        raise HTTPException(415, "Send a JSON object with the header Content-Type: application/json.")
    data = b"".join([part async for part in chunks(request, MOST_JSON)])
    try:
        values = json.loads(data)
        # a lone surrogate is no text, and could not be written anywhere
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The body is no JSON: {str(error)[:200]}.") from None
    if not isinstance(values, dict):
        raise HTTPException(422, "The body must be a JSON object: field names with their values.")
    return values


async def read_form(request: Request, receive: Callable[[str, str], Incoming] | None, most_file: int = 0) -> Form:
    """The fields of a form: texts, and files while they are not finished yet.

    Args:
        receive: where a file goes, by the name of its field and its own; called in a thread. None takes no files.
        most_file: bytes of all files.

    Raises:
        HTTPException: it is no form, or too large, or comes too slowly.
        LabError: `receive` or the disk refuses a file. Nothing is left of the files then.
    """
    kind, options = _content_type(request)
    if kind == b"application/x-www-form-urlencoded":
        data = b"".join([part async for part in chunks(request, MOST_JSON)])
        try:
            pairs = parse_qsl(data.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)
        except ValueError as error:
            raise HTTPException(400, f"The body is no form: {error}.") from None
        return _without_repeats(pairs)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise HTTPException(415, "Send a form, as `curl -F field=value` does (multipart/form-data with a boundary).")
    reader = _Multipart(receive)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
        async for part in chunks(request, MOST_TEXT + most_file):
            parser.write(part)
            if reader.waiting():
                await run_in_threadpool(reader.store)
        parser.finalize()
        if not reader.ended:
            raise HTTPException(400, "The form ends before its last boundary.")
        await run_in_threadpool(reader.store)
        return _without_repeats(reader.pairs)
    except BaseException as error:
        reader.abandon()
        if isinstance(error, FormParserError | UnicodeError):
            raise HTTPException(400, f"The body is no form: {str(error)[:200]}.") from None
        raise


class _Multipart:
    """What the parser reports: in the order of the body, texts as they are and files as far as they have arrived."""

    def __init__(self, receive: Callable[[str, str], Incoming] | None) -> None:
        self.pairs: list[tuple[str, str | Incoming]] = []
        self.ended = False
        self._receive = receive
        self._events: list[tuple[str, str, str | None] | bytes | None] = []
        self._header = [b"", b""]
        self._disposition, self._parts, self._text = b"", 0, 0
        self._open: tuple[str, Incoming | None, bytearray] | None = None

    def callbacks(self) -> dict[str, Any]:
        def field(data: bytes, start: int, end: int) -> None:
            self._header[0] += data[start:end]

        def value(data: bytes, start: int, end: int) -> None:
            self._header[1] += data[start:end]

        def header_end() -> None:
            if self._header[0].strip().lower() == b"content-disposition":
                self._disposition = self._header[1]
            self._header = [b"", b""]

        def data(data: bytes, start: int, end: int) -> None:
            self._events.append(data[start:end])

        return {
            "on_part_begin": self._begin,
            "on_header_field": field,
            "on_header_value": value,
            "on_header_end": header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": data,
            "on_part_end": lambda: self._events.append(None),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        self._disposition = b""
        if self._parts > MOST_PARTS:
            raise HTTPException(413, f"The form has more than {MOST_PARTS} parts.")

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise HTTPException(400, "A part of the form has no name.")
        file = options.get(b"filename")
        # names of files are shown and made safe, so that one in another encoding does no harm; a browser sends an empty
        # one for a field in which no file was chosen
        named = file.decode("utf-8", "replace") if file else None
        self._events.append(("part", options[b"name"].decode(), named))

    def _end(self) -> None:
        self.ended = True

    def waiting(self) -> bool:
        """Whether there is enough to write, or a part begins or ends."""
        sizes = [len(event) if isinstance(event, bytes) else _WRITE for event in self._events]
        return sum(sizes) >= _WRITE

    def store(self) -> None:
        """Take what has been reported. In a thread, since it writes to the disk."""
        events, self._events = self._events, []
        for event in events:
            if isinstance(event, tuple):
                self._start(*event[1:])
                continue
            assert self._open is not None
            name, incoming, held = self._open
            if event is not None:
                held += event
                if incoming is None:
                    self._text += len(event)
                    if self._text > MOST_TEXT:
                        raise _too_large(MOST_TEXT)
            elif incoming is None:
                self.pairs.append((name, held.decode()))
            if incoming is not None and held and (event is None or len(held) >= _WRITE):
                incoming.write(incoming.received, bytes(held))
                held.clear()
            if event is None:
                self._open = None

    def _start(self, name: str, file: str | None) -> None:
        incoming = None
        if file is not None:
            if self._receive is None:
                raise HTTPException(422, f"The field {name[:80]!r} takes no file.")
            incoming = self._receive(name, file)
            self.pairs.append((name, incoming))
        self._open = (name, incoming, bytearray())

    def abandon(self) -> None:
        """Remove the files."""
        for _, value in self.pairs:
            if isinstance(value, Incoming):
                value.abandon()


def _without_repeats(pairs: list[tuple[str, Any]]) -> Form:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise HTTPException(422, f"The form has the field {twice[0][:80]!r} more than once.")
    return dict(pairs)


def _content_type(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    return kind.strip().lower(), options


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"The body has more than {most:,} bytes.")

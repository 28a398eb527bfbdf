"""What no client should send: refused or bounded, and nothing outside of the service's folders is read or written."""

import asyncio
import http.client
import io
import json
import os
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from tests.api.service import Service
from tests.ui import made_runs
from wanavatar_lab.api import body, processes, server
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.requests import TextToImage

SECRET_SIZE = (123, 77)  # of a picture outside, so that an answer that has read it shows it
KEPT = "kept-for-itself"  # in a text outside
PICTURE, VOICE = "samples/avatar_woman.png", "samples/korean.wav"
JSON_FIELDS: list[tuple[str, dict[str, str], str]] = [
    ("/api/generate", {"audio_path": VOICE}, "image_path"),
    ("/api/generate", {"image_path": PICTURE}, "audio_path"),
    ("/api/generate", {"image_path": PICTURE, "audio_path": VOICE}, "pose_video"),
    ("/api/generate-i2v", {}, "image_path"),
    ("/api/generate-i2v", {"image_path": PICTURE}, "last_image"),
    ("/v1/videos", {}, "image"),
    ("/v1/videos", {"image": PICTURE}, "audio"),
]
FORM_FIELDS = [
    ("/api/extract-audio", "video_path"),
    ("/api/extract-frame", "video_path"),
    ("/api/separate-vocals", "audio_path"),
]
PLACES = [
    *(("GET", f"/{path}") for path in ("outputs/{}", "uploads/{}", "api/status/{}", "api/events/{}")),
    *(("GET", f"/v1/videos/{path}") for path in ("{}", "{}/content")),
    *(("DELETE", f"/{path}") for path in ("api/outputs/{}", "api/videos/{}", "api/uploads/{}", "v1/videos/{}")),
    ("POST", "/api/cancel/{}"),
    ("GET", "/api/lora-preview?category=mov&name={}"),
]


@pytest.fixture(scope="module")
def outside(service: Service) -> Path:
    """A folder beside the service's, with a picture, a recording and a text, and links to them among the uploads."""
    folder = service.root.parent / "outside"
    folder.mkdir()
    Image.new("RGB", SECRET_SIZE, "red").save(folder / "secret.png")
    (folder / "secret.wav").write_bytes((service.root / "data" / "samples" / "korean.wav").read_bytes())
    (folder / "secret.txt").write_text(KEPT)
    service.uploads.mkdir(parents=True, exist_ok=True)
    for name, target in (("link.png", folder / "secret.png"), ("folder.png", folder), ("loop.png", Path("loop.png"))):
        (service.uploads / name).symlink_to(target)
    os.mkfifo(service.uploads / "pipe.wav")
    (service.uploads / ".hidden.png").write_bytes((folder / "secret.png").read_bytes())
    return folder


def paths(outside: Path, service: Service) -> list[str]:
    """Paths that mean no file of the service, each in the encodings that a careless program undoes."""
    secret = str(outside / "secret.png")
    up = [f"{'../' * depth}outside/secret.png" for depth in (1, 2, 3, 4)]
    plain = [
        *up,
        *(f"uploads/{path}" for path in up),
        *(f"outputs/{path}" for path in up),
        *(secret, f"/{secret}", f"uploads/{secret}", f"file://{secret}", f"file:{secret}", "uploads/../.hidden.png"),
        *("uploads/link.png", "uploads/folder.png/secret.png", "uploads/loop.png", "uploads/pipe.wav"),
        *(
            "uploads/.hidden.png",
            "uploads/",
            "uploads",
            ".",
            "..",
            "/",
            "~/secret.png",
            "uploads/none.png",
            "samples/none",
        ),
        *(
            "/etc/passwd",
            "/proc/self/environ",
            "/dev/zero",
            "/dev/stdin",
            "C:\\Windows\\win.ini",
            "\\\\host\\share\\a.png",
        ),
        *("http://127.0.0.1:1/a.png", "https://example.org/a.wav", "ftp://127.0.0.1/a.png", "rtmp://127.0.0.1/a"),
        *(
            f"concat:{secret}",
            f"subfile,,start,0,end,9,,:{secret}",
            f"crypto:{secret}",
            "pipe:0",
            "data:image/png;base64,AA",
        ),
        *(
            "uploads/a\0.png",
            f"{secret}\0.png",
            "a" * 5000,
            "uploads/" + "b" * 300 + ".png",
            "．．／outside／secret.png",
        ),
        *(f"runs/{name}" for name in (".worker/lock", ".worker/queue", "../outside/secret.png")),
    ]
    encoded = [quote(path, safe="") for path in up] + [quote(quote(path, safe=""), safe="") for path in up]
    encoded += [path.replace("/", "\\") for path in up] + [path.replace("../", "....//") for path in up]
    encoded += [path.replace("/", "%c0%af") for path in up] + [path.replace("..", "%2e%2e") for path in up]
    return [*plain, *encoded]


def ask(service: Service, method: str, target: str, data: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """An answer to a target that is sent as it is; clients of a better kind would tidy it."""
    connection = http.client.HTTPConnection("localhost", service.port, timeout=30)
    connection._validate_path = lambda url: None  # type: ignore[attr-defined]
    try:
        connection.request(method, target, data, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def everything(service: Service) -> dict[str, str]:
    """Every file and link around the service's folders, and the samples, with their contents."""
    found = {}
    for folder, _, names in os.walk(service.root.parent):
        for path in (Path(folder) / name for name in names):
            inside = path.is_relative_to(service.runs) or path.is_relative_to(service.uploads) or path == service.log
            if not inside and path.is_file():
                found[str(path)] = sha256_of(path)
    return found


@pytest.fixture(scope="module", autouse=True)
def nothing_else_is_touched(service: Service, outside: Path) -> Iterator[None]:
    before = everything(service)
    yield
    assert everything(service) == before
    assert service.process is not None and service.process.poll() is None
    assert "Traceback" not in service.log.read_text()


def test_a_path_in_every_field(service: Service, outside: Path) -> None:
    cases, wrong = 0, []
    for given in paths(outside, service):
        for target, fields, name in JSON_FIELDS:
            data = json.dumps({**fields, name: given}).encode()
            status, answer = ask(service, "POST", target, data, Content_Type="application/json")
            cases += 1
            if not 400 <= status < 500 or KEPT.encode() in answer:
                wrong.append((target, name, given, status))
        for target, name in FORM_FIELDS:
            data = f"{name}={quote(given, safe='')}".encode()
            status, answer = ask(service, "POST", target, data, Content_Type="application/x-www-form-urlencoded")
            cases += 1
            if not 400 <= status < 500 or str(SECRET_SIZE[0]).encode() in answer:
                wrong.append((target, name, given, status))
    assert wrong == [] and cases >= 300


def test_a_path_in_every_address(service: Service, outside: Path) -> None:
    secret, cases, wrong = (outside / "secret.png").read_bytes(), 0, []
    # a link among the uploads may be deleted: itself, and not what it leads to
    for given in (path for path in paths(outside, service) if "link.png" not in path and "loop.png" not in path):
        for target in {quote(given, safe=""), quote(given, safe="/.\\%")}:
            for method, place in PLACES:
                status, answer = ask(service, method, place.replace("{}", target))
                cases += 1
                harmless = method == "GET" and target in ("", ".", "..", "/")  # an address of another endpoint
                if (not 400 <= status < 500 and not harmless) or secret in answer or KEPT.encode() in answer:
                    wrong.append((method, place, given, status))
    assert wrong == [] and cases >= 300
    assert (outside / "secret.png").read_bytes() == secret


def test_a_name_of_an_upload(service: Service, outside: Path, picture: bytes) -> None:
    """Whatever a file is called, it is kept in the folder of uploads, under a plain name, or not at all."""
    for given in paths(outside, service):
        name = given.replace("\0", "").replace('"', "")[:2000] + ("" if given.endswith(".png") else ".png")
        before = set(os.listdir(service.uploads))
        head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        status, answer = ask(
            service,
            "POST",
            "/api/upload/image",
            head + picture + b"\r\n--b--\r\n",
            Content_Type="multipart/form-data; boundary=b",
        )
        new = set(os.listdir(service.uploads)) - before - {".names.lock"}
        assert (status == 200) == (len(new) == 1) and status < 500, (name, status, answer)
        for kept in new:
            assert not kept.startswith(".") and not set(kept) & set("/\\%:\0")
            os.unlink(service.uploads / kept)


def png(width: int, height: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of grey pixels with any data."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *more, (b"IDAT", data), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held)) for name, held in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(kind: str, size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("L", size).save(out, kind, **options)
    return out.getvalue()


def hostile_files(outside: Path, picture: bytes, voice: bytes) -> list[tuple[str, str, bytes]]:
    """Endpoint, name and contents of files that are not what they claim to be, or are far more than they seem."""
    zeros = zlib.compress(bytes(64 * 1024**2), 9)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{outside}/secret.wav\n#EXT-X-ENDLIST\n".encode()
    texts = {
        "html": b"<html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "xml": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "playlist": playlist,
        "concat": f"ffconcat version 1.0\nfile {outside}/secret.wav\n".encode(),
        "sdp": b"v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "dash": b"<MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "zip": b"PK\x03\x04" + bytes(200),
        "gzip": zlib.compress(b"x"),
        "elf": b"\x7fELF" + bytes(200),
        "zeros": bytes(4096),
        "empty": b"",
        "pdf": b"%PDF-1.7\n1 0 obj\n",
        "shell": b"#!/bin/sh\nrm -rf /\n",
    }
    names = (
        ("image", "a.png"),
        ("image", "a.gif"),
        ("audio", "a.wav"),
        ("audio", "a.mp3"),
        ("video", "a.mp4"),
    )
    return [
        *((kind, name, data) for kind, name in names for data in texts.values()),
        ("image", "declared.png", png(50_000, 50_000, zlib.compress(b""))),
        ("image", "declared.png", png(2**31 - 1, 2**31 - 1, zlib.compress(b""))),
        ("image", "bomb.png", png(20_000, 20_000, zlib.compress(bytes(20_000 * 400), 9))),
        ("image", "text.png", png(9, 9, zlib.compress(bytes(90)), *[(b"zTXt", b"a\0\0" + zeros)] * 3)),
        ("image", "bomb.tif", saved("TIFF", (11_000, 11_000), compression="tiff_deflate")),
        ("image", "bomb.gif", saved("GIF", (11_000, 11_000))),
        ("audio", "huge.wav", b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff" + bytes(64)),
        ("audio", "cut.wav", voice[:40]),
        ("audio", "is-a-picture.wav", picture),
        ("video", "is-a-picture.mp4", picture),
        ("image", "is-a-voice.png", voice),
        ("image", "no-suffix", picture),
        ("image", "wrong.pth", picture),
        ("image", "double.png.exe", picture),
        ("audio", "picture.png", picture),
    ]


def test_files_that_are_not_what_they_claim(service: Service, outside: Path, picture: bytes, voice: bytes) -> None:
    before, cases = set(os.listdir(service.uploads)), hostile_files(outside, picture, voice)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda case: service.upload(*case), cases))
    wrong = [
        (case[0], case[1], case[2][:20], one.status_code)
        for case, one in zip(cases, answers, strict=True)
        if one.status_code != 422
    ]
    assert wrong == [] and len(cases) > 90
    assert set(os.listdir(service.uploads)) - {".names.lock"} == before - {".names.lock"}
    assert not any(str(service.root) in one.text for one in answers)


def test_a_file_that_is_two_things_is_served_as_one(service: Service, picture: bytes) -> None:
    """A picture with a page behind it is a picture: kept, and shown as nothing else."""
    page = b"<html><script>alert(1)</script></html>"
    url = service.upload("image", "both.png", picture + page).json()["url"]
    answer = service.client.get(url)
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert service.client.delete(f"/api{url}").status_code == 200


BODIES: list[tuple[str, bytes, str, int]] = [
    ("/api/generate", b"", "application/json", 400),
    ("/api/generate", b"{", "application/json", 400),
    ("/api/generate", b"[]", "application/json", 422),
    ("/api/generate", b'"a"', "application/json", 422),
    ("/api/generate", b"\xff\xfe{}", "application/json", 400),
    ("/api/generate", b'{"image_path": "\\ud800"}', "application/json", 400),
    ("/api/generate", b'{"\\ud800": 1}', "application/json", 400),
    ("/api/generate", b"[" * 200_000, "application/json", 400),
    ("/api/generate", b'{"a":' * 50_000, "application/json", 400),
    ("/api/generate", b'{"seed": ' + b"9" * 10_000 + b"}", "application/json", 400),
    ("/api/generate", b"{}" + b" " * body.MOST_JSON, "application/json", 413),
    ("/api/generate", b"{}", "text/plain", 415),
    ("/api/generate", b"{}", "", 415),
    ("/api/upload/image", b"{}", "application/json", 415),
    ("/api/upload/image", b"", "multipart/form-data", 415),
    ("/api/upload/image", b"", "multipart/form-data; boundary=" + "b" * 1000, 400),
    ("/api/upload/image", b"no form", "multipart/form-data; boundary=b", 400),
    ("/api/upload/image", b"--b\r\n\r\n\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
    ("/api/upload/image", b"--b--\r\n", "multipart/form-data; boundary=b", 422),
    ("/api/upload/image", b"--b\r\n" + b"A" * 100_000, "multipart/form-data; boundary=b", 400),
    ("/api/extract-audio", b"video_path=%ff", "application/x-www-form-urlencoded", 400),
    ("/api/extract-audio", b"a=1&" * 1000, "application/x-www-form-urlencoded", 400),
    ("/api/extract-audio", b"video_path=a&video_path=b", "application/x-www-form-urlencoded", 422),
    ("/api/extract-audio", b"x=1", "application/x-www-form-urlencoded", 422),
]


@pytest.mark.parametrize(("target", "data", "kind", "status"), BODIES)
def test_bodies_that_are_none(service: Service, target: str, data: bytes, kind: str, status: int) -> None:
    found, answer = ask(service, "POST", target, data, **({"Content_Type": kind} if kind else {}))
    assert (found, bool(json.loads(answer)["detail"])) == (status, True)


VALUES: list[Any] = [-1e308, 1e400, -1, 0, 2**70, "", " ", "x", "1", True, [], {}, [[]], [{}], {"a": 1}, "\u202e", "\0"]


def test_every_value_in_every_field(service: Service) -> None:
    """Numbers and texts of every kind are refused, or are what the field takes; the service never fails."""
    schema = service.client.get("/openapi.json").json()["paths"]
    seen: Counter[int] = Counter()
    for target in ("/api/generate", "/api/generate-i2v", "/v1/videos"):
        fields = schema[target]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        # without a picture that exists nothing is submitted
        given = {"image" if target.startswith("/v1") else "image_path": "uploads/none.png"}
        given |= {"audio_path": "uploads/none.wav"} if target == "/api/generate" else {}
        for name in fields:
            for value in VALUES:
                data = json.dumps(given | {name: value}).encode()
                status, _ = ask(service, "POST", target, data, Content_Type="application/json")
                seen[status] += 1
                assert status in (404, 422), (target, name, value, status)
    assert seen[422] >= 300


def exchange(service: Service, data: bytes, seconds: float = 30.0) -> bytes:
    """What is answered to bytes: a refusal's headers, or all until the connection is closed."""
    with socket.create_connection(("localhost", service.port), seconds) as connection:
        connection.settimeout(seconds)
        answer = b""
        try:
            connection.sendall(data)
            while not (answer.startswith(b"HTTP/1.1 4") and b"\r\n\r\n" in answer):
                if not (part := connection.recv(65536)):
                    break
                answer += part
        except ConnectionError:  # closed before all was sent
            pass
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n" + b"A: a\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"nothing that is HTTP\r\n\r\n",
        b"GET /api/health HTTP/9.9\r\n\r\n",
        b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: a\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n",
        b"CONNECT example.org:80 HTTP/1.1\r\nHost: example.org:80\r\nConnection: close\r\n\r\n",
        b"TRACE /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_requests_that_are_none(service: Service, data: bytes) -> None:
    assert exchange(service, data).startswith(b"HTTP/1.1 4")


def test_many_delete_the_same(service: Service, picture: bytes) -> None:
    url = service.upload("image", "once.png", picture).json()["url"]
    request = TextToImage(profile="pocket", prompt="x")
    run = made_runs.ended_run(request, [("picture", service.uploads / "once.png")], runs_dir=service.runs)
    result = service.client.get(f"/api/status/{run.id}").json()["output_path"]
    assert service.client.get(result).content == picture
    for target in (f"/api{url}", f"/api{result}"):
        with ThreadPoolExecutor(16) as clients:
            answers = Counter(clients.map(lambda _, at=target: ask(service, "DELETE", at)[0], range(32)))
        assert answers == {200: 1, 404: 31}


def test_a_request_that_loses_its_client(service: Service) -> None:
    """Uploads and streams that break off leave nothing behind."""
    head = b"POST /api/upload/image HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + bytes(3 * 1024**2)
    for _ in range(5):
        with socket.create_connection(("localhost", service.port)) as connection:
            connection.sendall(head + b"Content-Length: 9000000\r\n\r\n" + part)
    until = time.monotonic() + 20
    while arriving := [name for name in os.listdir(service.uploads) if name.startswith(".upload-")]:
        assert time.monotonic() < until, arriving
        time.sleep(0.05)


def test_a_file_that_ends_its_decoder(service: Service, picture: bytes) -> None:
    """The process that looks into files is killed, as by a file that its decoder cannot bear; the next one works."""
    assert service.process is not None
    assert service.upload("image", "first.png", picture).status_code == 200
    for child in psutil.Process(service.process.pid).children():
        if "--checks" in child.cmdline():
            child.kill()
    answers = [service.upload("image", "next.png", picture).status_code for _ in range(3)]
    assert set(answers) <= {200, 422} and answers[-1] == 200


@pytest.mark.slow  # waits for the limits on time
def test_what_comes_too_slowly_is_closed(service: Service) -> None:
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    slow_body = head + b"Content-Length: 99\r\n\r\n{"
    found: dict[str, bytes] = {}

    def drip(name: str) -> None:
        """Headers, a byte each second."""
        with socket.create_connection(("localhost", service.port)) as connection:
            try:
                for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\n" * 9:
                    connection.sendall(bytes([byte]))
                    time.sleep(1)
                found[name] = b"open"
            except OSError:
                found[name] = b"closed"

    asked = {
        "pause": lambda name: found.update({name: exchange(service, slow_body, 60)}),
        "headers": lambda name: found.update({name: exchange(service, b"GET / HTTP/1.1\r\n", 60)}),
        "drip": drip,
    }
    threads = [threading.Thread(target=each, args=(name,)) for name, each in asked.items()]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["pause"].startswith(b"HTTP/1.1 408") and (found["headers"], found["drip"]) == (b"", b"closed")
    assert time.monotonic() - begun < server.LONGEST_HEADERS + body.LONGEST_PAUSE + 15


@pytest.mark.slow  # 10,000 requests
def test_ten_thousand_tiny_uploads(service: Service) -> None:
    """Files up to the limit are kept, the others refused, and the service does not grow."""
    assert service.process is not None
    tiny = saved("PNG", (1, 1))
    service.upload("image", "tiny.png", tiny)
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    with ThreadPoolExecutor(16) as clients:
        answers = Counter(clients.map(lambda _: service.upload("image", "tiny.png", tiny).status_code, range(10_000)))
    assert set(answers) == {200, 429} and answers[429] > 9000
    # those that arrive at the same moment are counted before they are there
    assert len(os.listdir(service.uploads)) <= 500 + 16
    assert process.memory_info().rss - before < 100 * 1024**2
    assert service.client.get("/api/uploads/images").json()["total"] >= answers[200]
    for path in service.uploads.glob("tiny*.png"):
        path.unlink()


def test_a_process_beside_says_what_is_wrong() -> None:
    """Whatever a library does in it, its answer is one line."""
    assert "error" in processes._answer(json.dumps({"call": "probe", "path": "/nowhere.png"}))
    wrong = {"stage": "text_to_image", "prompt": ""}
    assert (
        processes._answer(json.dumps({"call": "submit", "request": wrong, "area": None}))["problems"][0][0] == "prompt"
    )


def test_a_process_that_ends_blames_what_it_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "resource.py").write_text("raise SystemExit")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def said(checks: bool, seconds: float) -> str:
        beside = processes.Processes(1, seconds, checks=checks)
        try:
            with pytest.raises(LabError) as raised:
                await beside.call("probe" if checks else "submit", path="a.png")
            return str(raised.value)
        finally:
            await beside.close()

    assert "file" in asyncio.run(said(True, 60.0)) and "file" in asyncio.run(said(True, 0.0))
    assert asyncio.run(said(False, 60.0)).startswith("The process that submits runs has ended")
    assert asyncio.run(said(False, 0.0)) == "It takes more than 0 s to submit the run."


def test_a_process_that_has_died_since_refuses_no_file(tmp_path: Path, picture: bytes) -> None:
    (path := tmp_path / "a.png").write_bytes(picture)

    async def look_twice() -> list[Any]:
        beside = processes.Processes(1, 60.0, checks=True)
        try:
            first = await beside.call("probe", path=str(path))
            (idle,) = beside._idle
            idle.kill()
            await idle.wait()
            return [first, await beside.call("probe", path=str(path))]
        finally:
            await beside.close()

    first, second = asyncio.run(look_twice())
    assert first == second

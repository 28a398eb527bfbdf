"""A request that is refused leaves no file among the uploads, or a client that tries again would fill them."""

import asyncio
import base64
import errno
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ui import made_runs
from wanavatar_lab.api.app import create_app
from wanavatar_lab.api.options import Options
from wanavatar_lab.api.tasks import Tasks
from wanavatar_lab.requests import SeparateVocals
from wanavatar_lab.runs.uploads import uploads_folder

Ask = Callable[..., httpx2.Response]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What a service answers, within this process, whose clients may not submit anything."""
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    app = create_app(Options(profile="pocket", jobs_per_client=0, most_uploads=2))

    async def asking(target: str, sent: dict[str, Any]) -> httpx2.Response:
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client,
        ):
            return await client.post(target, **sent)

    return lambda target, **sent: asyncio.run(asking(target, sent))


@pytest.fixture
def files(picture: bytes, voice: bytes) -> dict[str, tuple[str, bytes]]:
    return {"input_reference": ("me.png", picture), "audio": ("me.wav", voice)}


def left() -> list[str]:
    return [path.name for path in uploads_folder().iterdir() if path.name != ".names.lock"]


@pytest.mark.parametrize(("field", "status"), [("no_such_field", 422), ("prompt", 429)])
def test_a_clip_that_is_refused(refused: Ask, files: dict[str, tuple[str, bytes]], field: str, status: int) -> None:
    answer = refused("/v1/videos", files=files, data={field: "a"})
    assert (answer.status_code, left()) == (status, [])


@pytest.mark.parametrize("seconds", [pytest.param(10**400, id="huge"), "1e400", "nan", -1, True, [4]])
def test_a_length_that_is_none(refused: Ask, seconds: Any) -> None:
    answer = refused("/v1/videos", json={"image": "uploads/a.png", "seconds": seconds})
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "seconds"], answer.text


@pytest.mark.parametrize(
    "also",
    [
        {"image": "samples/avatar_man.png"},
        {"image_reference": '{"image_url": "samples/avatar_man.png"}'},
        {"extra_params": '{"audio": "samples/korean.wav"}'},
        {"audio_reference": '{"audio_url": "samples/korean.wav"}'},
    ],
)
def test_a_file_that_is_given_twice(refused: Ask, files: dict[str, tuple[str, bytes]], also: dict[str, str]) -> None:
    """Which of the two is meant cannot be known."""
    answer = refused("/v1/videos", files=files, data=also)
    assert (answer.status_code, left()) == (422, []) and "given" in answer.json()["detail"][0]["msg"], answer.text


def test_a_field_that_is_null_is_one_that_is_left_out(refused: Ask, files: dict[str, tuple[str, bytes]]) -> None:
    """As clients send it that write every field of their own model; only the limit on runs refuses it."""
    uploads_folder().mkdir(parents=True)
    (uploads_folder() / "a.png").write_bytes(files["input_reference"][1])
    nothing = ("image_reference", "audio_reference", "extra_params", "fps", "seconds", "width", "height", "seed")
    answer = refused("/v1/videos", json={"image": "uploads/a.png", "size": "128x128", **dict.fromkeys(nothing)})
    assert answer.status_code == 429, answer.text


def test_a_clip_with_a_file_in_json_that_is_refused(refused: Ask, files: dict[str, tuple[str, bytes]]) -> None:
    reference = f"data:image/png;base64,{base64.b64encode(files['input_reference'][1]).decode()}"
    answer = refused("/v1/videos", json={"image_reference": {"image_url": reference}, "audio": "uploads/none.wav"})
    assert (answer.status_code, left()) == (404, []), answer.text


@pytest.mark.parametrize(
    "kind", ["audio/wav", "audio/x-wav", "audio/mpeg", "audio/flac", "audio/ogg; codecs=opus", "audio/mp4", "audio/aac"]
)
def test_data_of_every_type_is_taken(refused: Ask, files: dict[str, tuple[str, bytes]], kind: str) -> None:
    """Whatever types this machine knows; only the limit on runs refuses it."""
    picture, voice = (base64.b64encode(data).decode() for _, data in files.values())
    body = {
        "image_reference": {"image_url": f"data:image/png;base64,{picture}"},
        "audio_reference": {"audio_url": f"data:{kind};base64,{voice}"},
    }
    answer = refused("/v1/videos", json=body)
    assert (answer.status_code, left()) == (429, []), answer.text


@pytest.mark.parametrize("kind", ["audio/wav", "audio/wav;charset=a", ";base64", "text/plain;base64"])
def test_other_data_is_refused(refused: Ask, kind: str) -> None:
    answer = refused("/v1/videos", json={"audio_reference": {"audio_url": f"data:{kind},UklGRg=="}})
    assert answer.status_code == 422 and "must be data:TYPE;base64" in answer.text


def test_a_form_with_a_file_that_is_not_what_its_name_says(refused: Ask, files: dict[str, tuple[str, bytes]]) -> None:
    """Neither it is kept, nor the one before it."""
    answer = refused("/v1/videos", files=files | {"audio": ("me.wav", files["input_reference"][1])})
    assert (answer.status_code, left()) == (422, [])


def test_a_field_of_a_browser_in_which_no_file_was_chosen(refused: Ask, files: dict[str, tuple[str, bytes]]) -> None:
    """It is left out; only the limit on runs refuses the clip without a voice."""
    parts = [
        b'name="input_reference"; filename="me.png"\r\n\r\n' + files["input_reference"][1],
        b'name="audio"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n',
    ]
    body = b"".join(b"--edge\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--edge--\r\n"
    answer = refused("/v1/videos", content=body, headers={"Content-Type": "multipart/form-data; boundary=edge"})
    assert (answer.status_code, left()) == (429, []), answer.text


def test_an_upload_with_another_field(refused: Ask, files: dict[str, tuple[str, bytes]]) -> None:
    answer = refused("/api/upload/image", files={"file": files["input_reference"]}, data={"name": "me"})
    assert (answer.status_code, left()) == (422, [])


def test_as_many_uploads_as_the_limit_says_are_kept(refused: Ask, files: dict[str, tuple[str, bytes]]) -> None:
    uploads_folder().mkdir(parents=True)
    (uploads_folder() / "README.md").write_text("mine")
    answers = [refused("/api/upload/image", files={"file": files["input_reference"]}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


def test_a_folder_of_uploads_on_a_disk_that_is_not_mounted(refused: Ask, files: dict[str, tuple[str, bytes]]) -> None:
    uploads_folder().parent.mkdir(parents=True)
    uploads_folder().symlink_to("/nowhere/uploads")
    answer = refused("/api/upload/image", files={"file": files["input_reference"]})
    said = f"me.png cannot be kept in {uploads_folder()}: File exists."
    assert answer.status_code == 422 and said in answer.json()["detail"], answer.text


def test_a_voice_for_which_there_is_no_room(
    refused: Ask, voice: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it is no recording that can be chosen."""
    uploads_folder().mkdir(parents=True)
    recording = uploads_folder() / "me.wav"
    recording.write_bytes(voice)
    (found := tmp_path / "voice.wav").write_bytes(voice)
    run = made_runs.ended_run(SeparateVocals(media=str(recording)), [("audio", found)])

    async def submit(*_: Any) -> str:
        return run.id

    def full(_: Path, to: Path) -> None:
        to.write_bytes(voice[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(Tasks, "submit", submit)
    monkeypatch.setattr(shutil, "copyfile", full)
    answer = refused("/api/separate-vocals", data={"audio_path": "uploads/me.wav"})
    assert (answer.status_code, left()) == (507, ["me.wav"])

"""What a script does with the service, from a file to a clip."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tests.api.service import FEW_STEPS, Service, documented
from tests.media import samples
from tests.queue_for_tests import REPOSITORY, QueueUnderTest, eventually, is_alive, let_go, steps_done
from wanavatar_lab import media
from wanavatar_lab.metrics.evaluate import evaluate


def is_talking_clip(data: bytes, folder: Path) -> media.MediaInfo:
    """What is in a clip that a player plays to its end, with sound."""
    path = folder / "answered.mp4"
    path.write_bytes(data)
    info = media.probe(path)
    assert (info.kind, info.fps, info.missing) == ("video", 16.0, "")
    assert info.audio_rate and len(list(media.read_frames(path))) == info.frames
    return info


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash")
def test_the_session_of_a_shell(service: Service, picture: bytes, voice: bytes, tmp_path: Path) -> None:
    run_session(service, picture, voice, tmp_path)
    request = json.loads(next(service.runs.glob("2*/request.json")).read_text())
    assert (request["num_inference_steps"], request["frames_per_segment"], request["profile"]) == (15, 80, "pocket")


@pytest.mark.slow  # 15 steps of the shipped models
@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash")
def test_the_session_with_the_shipped_models(
    service_queue: QueueUnderTest, picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(REPOSITORY / "weights"))
    shipped = Service(service_queue.runs_dir.parent, "--no-page").start()
    try:
        voice = (REPOSITORY / "data" / "samples" / "english_female.wav").read_bytes()
        info = run_session(shipped, picture, voice, tmp_path)
        assert (info.width, info.height) == (128, 128)
        lips = evaluate(tmp_path / "answered.mp4", faces="pocket").lips
        assert lips is not None and lips.r is not None and lips.r > 0.6  # the mouth follows the voice
    finally:
        shipped.stop()


def run_session(service: Service, picture: bytes, voice: bytes, tmp_path: Path) -> media.MediaInfo:
    """Run the documented session as it is, wait for its task, and look at the clip."""
    (tmp_path / "reference.png").write_bytes(picture)
    (tmp_path / "audio.wav").write_bytes(voice)
    script = documented("bash").replace("http://localhost:8000", service.address) + '\necho "TASK=$TASK_ID" >&2\n'
    done = subprocess.run(["bash", "-euxc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["status"] in ("pending", "processing", "completed")
    ended = service.ended(done.stderr.strip().rpartition("=")[2], 600)
    assert (ended["status"], ended["progress"], ended["seed"]) == ("completed", 1.0, 42)
    return is_talking_clip(service.client.get(ended["output_path"]).content, tmp_path)


def test_the_client_in_python(service: Service, picture: bytes, voice: bytes, tmp_path: Path) -> None:
    client = documented("python")
    assert client.count("\n") < 42
    for name, data in (("me.png", picture), ("me.wav", voice), ("client.py", client.encode())):
        (tmp_path / name).write_bytes(data)
    environ = {**os.environ, "SERVICE": service.address}
    command = [sys.executable, "client.py", "me.png", "me.wav", "me.mp4", json.dumps(FEW_STEPS)]
    subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True)
    is_talking_clip((tmp_path / "me.mp4").read_bytes(), tmp_path)


def test_clips_of_serving_engines(service: Service, picture: bytes, voice: bytes, tmp_path: Path) -> None:
    files = {"input_reference": ("me.png", picture), "audio": ("me.wav", voice)}
    fields = {
        "num_inference_steps": "1",
        "frames_per_segment": "16",
        "guidance_scale": "1",
        "seed": "7",
        "seconds": "0.4",
    }
    made = service.client.post("/v1/videos", files=files, data=fields).json()
    assert (made["object"], made["model"]) == ("video", "speech_to_video")
    assert made["status"] in ("queued", "in_progress")
    service.ended(made["id"])
    video = service.client.get(f"/v1/videos/{made['id']}").json()
    assert (video["status"], video["progress"], video["seed"], video["error"]) == ("completed", 100, 7, None)
    answer = service.client.get(f"/v1/videos/{made['id']}/content")
    assert answer.headers["content-type"] == "video/mp4"
    clip = is_talking_clip(answer.content, tmp_path)
    again = service.client.post("/v1/videos/sync", files=files, data=fields)
    assert is_talking_clip(again.content, tmp_path) == clip
    page = service.client.get("/v1/videos?limit=2").json()
    newest, second = (one["id"] for one in page["data"])
    assert (second, page["first_id"], page["last_id"]) == (made["id"], newest, second)
    first = service.client.get("/v1/videos?limit=1").json()
    assert first["has_more"] and [one["id"] for one in first["data"]] == [newest]
    rest = service.client.get("/v1/videos", params={"after": newest, "limit": 100}).json()
    assert rest["first_id"] == second and not rest["has_more"]
    oldest_first = service.client.get("/v1/videos", params={"after": second, "order": "asc"}).json()
    assert [one["id"] for one in oldest_first["data"]] == [newest]
    none = service.client.get("/v1/videos", params={"after": newest, "order": "asc"}).json()
    assert none == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert service.client.get("/v1/videos?after=nothing").status_code == 404
    assert service.client.delete(f"/v1/videos/{made['id']}").json()["deleted"] is True
    assert service.client.get(f"/v1/videos/{made['id']}").status_code == 404


def test_stages_and_tools_by_their_own_names(service: Service, tmp_path: Path) -> None:
    def result(path: str, **fields: Any) -> str:
        answer = service.client.post(f"/api/run/{path}", json=fields)
        assert answer.status_code == 200, answer.text
        ended = service.ended(answer.json()["task_id"])
        assert ended["status"] == "completed", ended
        return str(ended["output_path"])

    voice = result("text-to-speech", text="Hello there", seed=1)
    part = result("trim", media=voice, start=0.1, duration=0.25)
    (tmp_path / "part.wav").write_bytes(service.client.get(part).content)
    assert media.probe(tmp_path / "part.wav").duration == pytest.approx(0.25, abs=1e-3)
    refused = service.client.post("/api/run/trim", json={"media": voice, "duration": -1})
    assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "duration"]
    assert service.client.post("/api/run/trim", json={"media": "/etc/passwd"}).status_code == 404
    assert service.client.post("/api/run/trim", json={"media": voice, "profile": "full"}).status_code == 422


def test_a_client_that_goes_away_cancels_its_clip(service: Service) -> None:
    fields = {"image": "samples/avatar_woman.png", "num_frames": 481, "num_inference_steps": 100, "user": "somebody"}
    known = {one["id"] for one in service.client.get("/v1/videos?limit=100").json()["data"]}

    def made() -> list[dict[str, Any]]:
        found = service.client.get("/v1/videos?limit=100").json()["data"]
        return [one for one in found if one["id"] not in known]

    with pytest.raises(httpx2.TimeoutException), httpx2.Client(base_url=service.address, timeout=1.0) as impatient:
        impatient.post("/v1/videos/sync", json=fields)
    eventually(lambda: [one["status"] for one in made()] == ["cancelled"], 60)


def test_a_clip_without_a_voice(service: Service, picture: bytes, tmp_path: Path) -> None:
    """From JSON, with the size and length of the shape that serving engines share."""
    path = service.upload("image", "still.png", picture).json()["path"]
    fields: dict[str, Any] = {"image": path, "size": "64x96", "num_frames": 5, "num_inference_steps": 1, "seed": 1}
    made = service.client.post("/v1/videos", json=fields).json()
    assert made["model"] == "image_to_video"
    clip = tmp_path / "clip.mp4"
    ended = service.ended(made["id"])
    clip.write_bytes(service.client.get(ended["output_path"]).content)
    info = media.probe(clip)
    assert (info.width, info.height, info.frames, info.audio_rate) == (64, 96, 5, None)


def test_a_picture_and_its_enlargement(service: Service, tmp_path: Path) -> None:
    fields = {"prompt": "a woman", "num_inference_steps": 1, "seed": 5, "aspect_ratio": "portrait"}
    task = service.client.post("/api/generate-flux", json=fields).json()["task_id"]
    ended = service.ended(task)
    assert ended["status"] == "completed", ended
    sizes = {}
    for name in ("output_path", "upscaled_path"):
        picture = tmp_path / f"{name}.png"
        picture.write_bytes(service.client.get(ended[name]).content)
        sizes[name] = media.read_picture(picture).size
    assert sizes == {"output_path": (96, 160), "upscaled_path": (192, 320)}
    outputs = service.client.get("/api/outputs").json()
    mine = {one["url"]: one for one in outputs["outputs"] if task in one["filename"]}
    assert outputs["total"] == len(outputs["outputs"]) and mine.keys() == {ended["output_path"], ended["upscaled_path"]}
    shown = mine[ended["upscaled_path"]]
    assert (shown["type"], shown["width"], shown["height"]) == ("image", 192, 320)
    # a result can be the input of the next run, by its path or by its URL
    for given in (shown["path"], shown["url"]):
        body = {"image_path": given, "frame_num": 5, "inference_steps": 1, "resolution": "100*160"}
        next_task = service.client.post("/api/generate-i2v", json=body).json()["task_id"]
        clip = service.client.get(service.ended(next_task)["output_path"]).content
        (tmp_path / "clip.mp4").write_bytes(clip)
        info = media.probe(tmp_path / "clip.mp4")
        # 16,000 pixels at most, in the shape of the picture
        assert info.width and info.height and (info.width, info.height) == (96, 160)
    assert service.client.delete(f"/api/outputs/{shown['filename']}").status_code == 200
    assert service.client.get(ended["output_path"]).status_code == 404
    assert service.client.get(f"/api/status/{task}").status_code == 404


def test_uploads_are_listed_and_deleted(service: Service, picture: bytes, voice: bytes) -> None:
    image, sound = service.upload("image", "a b.png", picture).json(), service.upload("audio", "v.wav", voice).json()
    assert image == {"path": "uploads/a b.png", "url": "/uploads/a%20b.png", "width": 128, "height": 128}
    assert service.client.get(image["url"]).content == picture
    part = service.client.get(sound["url"], headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")
    listed = service.client.get("/api/uploads/images").json()
    mine = next(one for one in listed["images"] if one["path"] == image["path"])
    assert (mine["filename"], mine["url"], mine["size"]) == ("a b.png", image["url"], len(picture))
    assert (mine["width"], mine["height"]) == (128, 128)
    assert any(one["path"] == sound["path"] for one in service.client.get("/api/uploads/audio").json()["audio"])
    assert service.client.delete("/api/uploads/a b.png").status_code == 200
    assert service.client.get(image["url"]).status_code == 404


def test_tools(service: Service, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    spoken = media.Audio(samples.tone(16_000, 1.0), 16_000)
    frames = [samples.numbered(number) for number in range(5, 21)]
    media.write_talking_clip(clip, frames, fps=16, audio=spoken, start_frame=0)
    video = service.upload("video", "clip.mp4", clip.read_bytes()).json()
    sound = service.client.post("/api/extract-audio", data={"video_path": video["path"]}).json()
    assert media.read_audio(service.root / "data" / sound["path"]).seconds == pytest.approx(1.0, abs=0.05)
    frame = service.client.post("/api/extract-frame", files={"video_path": (None, video["url"])}).json()
    assert (frame["width"], frame["height"]) == (video["width"], video["height"])
    shown = media.read_picture(service.root / "data" / frame["path"])
    assert samples.number_in(np.asarray(shown)) == 5
    answer = service.client.post("/api/separate-vocals", data={"audio_path": sound["path"]})
    # with the extra it would be a voice; without, it says what to install
    assert answer.status_code == 503 and "[separate]" in answer.json()["detail"]


def test_what_a_front_end_asks_first(service: Service) -> None:
    config, health = (service.client.get(f"/api/{name}").json() for name in ("config", "health"))
    assert (config["default_resolution"], len(config["resolutions"]), config["default_steps"]) == ("720*1280", 8, 8)
    assert health["status"] == "ok" and health["device"] == "cpu" and health["i2v_available"] is True
    assert {"lora_enabled", "lora_checkpoint", "sequence_parallel", "world_size", "gpu_busy"} <= health.keys()
    assert service.client.get("/api/t2i-status").json()["available"] is True
    assert service.client.get("/api/lora-adapters?category=mov").json() == {"adapters": []}
    docs = service.client.get("/docs").text
    assert "POST /api/generate-flux" in docs and "http://" not in docs and "https://" not in docs
    assert "Nothing runs" in service.client.get("/").text or "run" in service.client.get("/").text


def test_the_page_is_beside_the_service(service: Service) -> None:
    """A browser is sent to it, a script is not; it ends with the service, also where that is killed."""
    assert service.client.get("/").status_code == 200
    answer = service.client.get("/", headers={"Accept": "text/html"})
    page = answer.headers["location"]
    assert answer.status_code == 307 and page.startswith("http://127.0.0.1:")
    assert "Tornado" in httpx2.get(f"{page}voila/none").headers["server"]
    service.kill()
    eventually(lambda: is_closed(page))
    service.start()


def is_closed(page: str) -> bool:
    try:
        httpx2.get(page)
    except httpx2.TransportError:
        return True
    return False


def test_cancel_and_events(service: Service, service_queue: QueueUnderTest) -> None:
    """A run of another client of the queue is watched to its end; one behind it waits, and is cancelled."""
    job, behind = service_queue.submit(hold_at=1), service_queue.submit()
    eventually(lambda: steps_done(job) == 1)
    assert service.client.get("/api/health").json()["gpu_busy"] is True
    waiting = service.client.get(f"/api/status/{behind.id}").json()
    assert (waiting["status"], waiting["queue_position"]) == ("pending", 1)
    assert service.client.post(f"/api/cancel/{behind.id}").json()["status"] == "cancelled"
    events = []
    with service.client.stream("GET", f"/api/events/{job.id}") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
                let_go(job)
    assert (events[0]["status"], events[-1]["status"], events[-1]["progress"]) == ("processing", "completed", 1.0)


def test_a_client_has_so_many_runs(service: Service, service_queue: QueueUnderTest) -> None:
    blocking = service_queue.submit(hold_at=1)
    eventually(lambda: steps_done(blocking) == 1)
    answers = [service.client.post("/api/generate-flux", json={"prompt": "x"}) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert "3 runs of yours" in answers[-1].json()["detail"]
    for one in answers[:3]:
        service.client.post(f"/api/cancel/{one.json()['task_id']}")
    assert service.client.post("/api/generate-flux", json={"prompt": ""}).status_code == 422
    let_go(blocking)
    blocking.wait(progress=False)


def test_ctrl_c_in_its_terminal(service: Service, picture: bytes) -> None:
    """All processes of the terminal get it; the service ends, with those beside it, and says no more."""
    assert service.upload("image", "before.png", picture).status_code == 200
    assert service.process is not None
    beside = psutil.Process(service.process.pid).children()
    said = service.log.read_text()
    os.killpg(service.process.pid, signal.SIGINT)
    assert service.process.wait(30) == 130
    assert service.log.read_text() == said and not any(each.is_running() for each in beside)
    service.start()


def test_killed_in_the_middle_of_a_run(service: Service, service_queue: QueueUnderTest) -> None:
    """Finished runs are all there when it starts again, the one that runs is shown as it is, and it goes on."""
    before = {one["filename"] for one in service.client.get("/api/outputs").json()["outputs"]}
    job = service_queue.submit(hold_at=2)
    eventually(lambda: steps_done(job) == 2)
    worker = service_queue.process_ids().workers[0]
    assert worker is not None and service.process is not None
    service.kill()
    assert service.process.returncode == -signal.SIGKILL and is_alive(worker)
    service.start()
    now = service.client.get(f"/api/status/{job.id}").json()
    assert (now["status"], now["progress"]) == ("processing", pytest.approx(job.run.status().fraction, abs=1e-3))
    assert {one["filename"] for one in service.client.get("/api/outputs").json()["outputs"]} == before
    let_go(job)
    assert service.ended(job.id)["status"] == "completed"


def test_missing_weights_are_said(
    service_queue: QueueUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    bare = Service(service_queue.runs_dir.parent, "--no-page").start()
    try:
        answer = bare.client.post("/api/generate-i2v", json={"image_path": "samples/avatar_woman.png"})
        assert answer.status_code == 503
        assert f"not at {tmp_path}/pocket/image_to_video" in answer.json()["detail"]
        assert bare.client.get("/api/t2i-status").json()["available"] is False
    finally:
        bare.stop()

"""Files and their addresses, the switch of languages, the page's tabs, and the heartbeat's answer."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import ipywidgets
import pytest

from tests.queue_for_tests import REPOSITORY, QueueUnderTest, eventually, let_go
from tests.ui import made_runs
from tests.ui.looking import named
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, TextToImage
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.page import WORDS, Heartbeat, Page
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.player import Player
from wanavatar_lab.ui.queue_view import QueueView
from wanavatar_lab.ui.served_files import can_show, is_sent, server_path, server_root
from wanavatar_lab.ui.widget import LanguageSwitch, loop_runs, start


def test_a_path_is_relative_to_the_servers_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert server_path("../runs/a b/얼굴.png") == "runs/a b/얼굴.png"
    elsewhere = tmp_path.parent / f"{tmp_path.name}-disk"
    elsewhere.mkdir()
    (tmp_path / "runs").symlink_to(elsewhere)
    assert server_path(tmp_path / "runs" / "x.png") == "runs/x.png"
    with pytest.raises(LabError, match="WANAVATAR_SERVER_ROOT"):
        server_path(elsewhere / "x.png")
    with pytest.raises(LabError, match="hidden name"):
        server_path(tmp_path / ".trash" / "x.png")
    assert can_show("x.png") and not can_show("/etc/passwd")


def test_runs_outside_of_the_root_are_sent_by_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, runs = tmp_path / "root", tmp_path / "large disk" / "runs"
    picture = made_runs.picture(runs / "a run" / "picture.png", side=8)
    served = made_runs.picture(root / "served.png", side=8)
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(root))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(runs))
    assert is_sent(picture) and not is_sent(served)
    assert not is_sent(tmp_path / "large disk" / "else.png")  # any other file of this machine
    assert Player(picture, served).paths == ["", "served.png"]
    with pytest.raises(LabError, match="WANAVATAR_SERVER_ROOT"):
        server_path(picture)


def test_the_root_is_the_repository_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANAVATAR_SERVER_ROOT", raising=False)
    assert server_root() == REPOSITORY


def test_voila_serves_media_and_trained_loras_and_nothing_else() -> None:
    config = json.loads((REPOSITORY / "voila.json").read_text())
    allowed = config["VoilaConfiguration"]["file_allowlist"]

    def served(path: str) -> bool:
        return any(re.fullmatch(pattern, path, re.IGNORECASE) for pattern in allowed)

    assert served("runs/20260101-120000-ab12-upscale/picture.png")
    assert served("runs/demo/talking.mp4") and served("data/samples/korean.wav") and served("data/uploads/내 얼굴.JPG")
    assert served("runs/ann/training/checkpoint-50/lora_weights.safetensors")
    for path in (
        "runs/ann/training/checkpoint-50/optimizer.safetensors",
        "weights/loras/mov/character/ann.safetensors",
        "runs/x/request.json",
        "runs/x/log.txt",
        "runs/.trash/x/picture.png",
        "notebooks/app.ipynb",
        "weights/pocket/card.png",
        "data/private/face.png",
        "runs/../weights/card.png",
        "runs/x/../../weights/card.png",
        "runs/x/.half.png",
    ):
        assert not served(path), path
    assert config["MappingKernelManager"]["cull_idle_timeout"] > 0
    assert not config["MappingKernelManager"]["cull_connected"]


def test_the_switch_switches_and_follows() -> None:
    switch, other = LanguageSwitch(), LanguageSwitch()
    switch.code = "zh"
    assert (language.code, other.code, other.words["language"]) == ("zh", "zh", "语言")
    language.code = "ko"
    assert (switch.code, other.code) == ("ko", "ko")
    switch.code = "fr"  # no page sends this
    assert language.code == "ko"


def test_a_tab_is_built_when_it_is_opened() -> None:
    built: list[str] = []

    def build(name: str) -> Any:
        def made() -> ipywidgets.Widget:
            built.append(name)
            return ipywidgets.Label(name)

        return made

    page = Page([(WORDS["gallery"], build("first")), (WORDS["gallery"], build("second"))])
    tab = page.children[-1]
    assert built == ["first"]
    tab.selected_index = 1
    tab.selected_index = 0
    assert built == ["first", "second"]
    language.code = "ko"
    assert tab.titles == ("갤러리", "갤러리")
    page.close()


def test_a_run_is_run_again_from_the_page(shared_queue: QueueUnderTest) -> None:
    job = shared_queue.submit(steps=2, seed=11, hold_at=1)
    let_go(job)
    job.wait(20)
    page = Page()
    page._tab.selected_index = len(page.tabs) - 1
    _, ongoing, gallery = page._places[-1].children[0].children
    gallery.receive({"kind": "again", "run": job.id})
    assert gallery.notice == ""
    (card,) = eventually(lambda: seen(ongoing).cards)
    assert card.job is not None and card.reveal
    assert card.run_id != job.id and card.job.run.request() == job.run.request()
    page.look()
    assert named(page, "Queue: 1")
    page._tab.selected_index = 0
    named(page, "Queue: 1").click()
    assert page._tab.selected_index == len(page.tabs) - 1
    let_go(card.job)
    card.job.wait(20)
    ongoing.close()


def test_a_file_from_the_gallery_goes_where_it_is_of_use(tmp_path: Path) -> None:
    page = Page()
    assert [isinstance(place.children[0], Panel) for place in page._places if place.children] == [True]
    picture, clip = REPOSITORY / "data" / "samples" / "avatar_man.png", tmp_path / "clip.txt"
    page.use(picture)  # text_to_image, which is shown, takes none
    speaking = list(STAGE_REQUESTS).index("speech_to_video")
    assert page._tab.selected_index == speaking
    assert page.open_panel("speech_to_video").form.values()["image"] == str(picture)
    page._tab.selected_index = list(STAGE_REQUESTS).index("upscale")
    page.use(picture)  # the one that was looked at last comes first
    assert page._tab.selected_index == list(STAGE_REQUESTS).index("upscale")
    with pytest.raises(LabError, match=r"no use for clip\.txt"):
        page.use(clip)
    page.close()


def test_a_request_from_the_gallery_is_changed_in_the_panel_of_its_stage() -> None:
    page = Page()
    page._tab.selected_index = len(page.tabs) - 1
    page.change(TextToImage(profile="pocket", prompt="a sailor", seed=7))
    assert page._tab.selected_index == 0
    assert page.open_panel("text_to_image").form.values()["seed"] == 7
    page.close()


def test_the_heartbeat_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = Heartbeat()
    sent: list[Any] = []
    monkeypatch.setattr(heartbeat, "send", lambda content, *_: sent.append(content))
    heartbeat.receive({"kind": "ping", "number": 3})
    assert sent == [{"kind": "pong", "number": 3}]
    assert heartbeat.kernel_id == ""  # this is no kernel


def seen(queue: QueueView) -> QueueView:
    """The queue, once it has looked again."""
    queue.look()
    return queue


def test_work_is_done_with_or_without_a_loop() -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        done.append(number)

    assert start(work(1)) is None and done == [1] and not loop_runs()

    async def within() -> None:
        assert loop_runs()
        task = start(work(2))
        assert task is not None and done == [1]
        await task

    asyncio.run(within())
    assert done == [1, 2]


def test_an_error_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise LabError("went wrong")

    async def within() -> None:
        start(fail())
        await asyncio.sleep(0.01)

    asyncio.run(within())
    assert "went wrong" in caplog.text

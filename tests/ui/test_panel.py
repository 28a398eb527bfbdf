"""Panels with real runs: by the button, by await, found again; what goes wrong."""

import asyncio
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.queue_for_tests import REPOSITORY, QueueUnderTest, eventually, let_go, steps_done
from tests.stages_for_tests import Relax
from tests.ui import made_runs
from tests.ui.looking import alerts, everything, named, text, until
from wanavatar_lab.errors import RequestError, RunError
from wanavatar_lab.jobs import Job, list_jobs, submit
from wanavatar_lab.requests import Request, SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.uploads import Upload


@pytest.fixture(autouse=True)
def queue(shared_queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> QueueUnderTest:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(shared_queue.runs_dir.parent))
    return shared_queue


def cards(panel: Panel) -> list[JobCard]:
    return [each for each in everything(panel) if isinstance(each, JobCard)]


def job_of(panel: Panel) -> Job:
    assert panel.job is not None
    return panel.job


def test_await_gives_what_was_made() -> None:
    panel = Panel(Relax, steps=2, seed=4)
    assert panel.artifacts == []
    made = asyncio.run(panel.run())
    assert made == panel.artifacts == [job_of(panel).run.folder / "result.npy"]
    assert panel.artifact is not None and panel.artifact.is_file()
    assert job_of(panel).run.request() == Relax(profile="pocket", steps=2, seed=4)
    assert cards(panel)[0].state == "succeeded"
    assert "there is no picture, clip or sound to show" in alerts(panel)  # numbers are none


def test_the_button_answers_at_once_and_the_result_comes() -> None:
    panel = Panel(Relax, steps=3, hold_at=1)

    async def person() -> None:
        button = named(panel, "Run")
        button.click()
        assert panel.job is None  # it is submitted in the background
        await until(lambda: cards(panel) and cards(panel)[0].state == "running")
        assert button.description == "Run another one" and not button.disabled
        language.code = "ko"
        assert button.description == "하나 더 실행"
        assert panel.artifact is None
        let_go(job_of(panel))
        await until(lambda: panel.artifact)
        assert button.description == "실행"

    asyncio.run(person())


def test_a_wrong_value_stands_at_its_field_and_nothing_is_queued() -> None:
    before = len(list_jobs())
    panel = Panel(TextToImage)
    named(panel, "Run").click()
    assert panel.form.problems() == {"prompt": "is empty; give text of 1 to 10000 characters"}
    assert "is empty; give text of 1 to 10000 characters" in alerts(panel)
    with pytest.raises(RequestError, match="prompt: is empty; give text of 1 to 10000 characters"):
        asyncio.run(panel.run())
    with pytest.raises(RequestError, match="steps: must be an integer"):
        Panel(Relax, steps=0)
    panel.form.set(prompt="a cat", loras=["nobody"])
    named(panel, "Run").click()  # which only the submission can know
    assert "'nobody' is not there" in panel.form.problems()["loras"]
    assert (len(list_jobs()), cards(panel)) == (before, [])


def test_a_stage_without_its_weights_is_refused_at_once_with_the_command_that_downloads_them(tmp_path: Path) -> None:
    before = len(list_jobs())
    panel = Panel(SpeechToVideo, image=str(made_runs.picture(tmp_path / "a.png", side=32)), prompt="she speaks")
    panel.form.set(audio=str(made_runs.sound(tmp_path / "v.wav", seconds=0.5)))
    assert panel.form.problems() == {}
    named(panel, "Models").value = "full"  # as soon as it is chosen
    command = "wanavatar-lab weights download Wan2.2-S2V-14B"
    assert f'<code class="wl-code">{command}</code>' in alerts(panel) and "`" not in alerts(panel)
    named(panel, "Run").click()
    with pytest.raises(RequestError, match=command):
        asyncio.run(panel.run())
    assert (len(list_jobs()), cards(panel)) == (before, [])
    language.code = "ko"
    assert "설치되어 있지 않습니다" in alerts(panel) and command in alerts(panel)
    language.code = "en"
    named(panel, "Models").value = "pocket"
    assert alerts(panel) == ""
    picture = Panel(TextToImage, prompt="a cat", profile="full")
    assert "accept the licence at https://huggingface.co/black-forest-labs/FLUX.2-klein-9B" in alerts(picture)


def test_a_run_that_fails_is_said_in_full() -> None:
    panel = Panel(Relax, fault="weights")
    with pytest.raises(RunError, match=r"The run \S+ failed: The weights of relax are missing. Get them."):
        asyncio.run(panel.run())
    assert cards(panel)[0].error == "The weights of relax are missing. Get them."
    named(panel, "Run").click()  # by the button it is the card that says so
    assert cards(panel)[0].state == "failed" and panel.artifact is None


def test_whoever_stops_waiting_cancels() -> None:
    panel = Panel(Relax, hold_at=1)

    async def impatient() -> None:
        waiting = asyncio.create_task(panel.run())
        await until(lambda: panel.job is not None and steps_done(panel.job) >= 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(impatient())
    assert eventually(lambda: job_of(panel).status().state == "cancelled")


def test_interrupting_a_submission_cancels_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def slowly(request: Request) -> Job:  # as with a large input file, which is copied
        begun.set()
        assert may_go_on.wait(20)
        return submit(request)

    monkeypatch.setattr("wanavatar_lab.jobs.submit", slowly)
    panel = Panel(Relax, hold_at=1)

    async def impatient() -> None:
        waiting = asyncio.create_task(panel.run())
        await until(begun.is_set)
        waiting.cancel()
        await asyncio.sleep(0)
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(impatient())
    assert eventually(lambda: list_jobs()[0].status().state == "cancelled")


def test_a_new_panel_finds_the_run_that_goes_on() -> None:
    async def person() -> None:
        first = Panel(Relax, hold_at=1)
        named(first, "Run").click()
        await until(lambda: first.job is not None and steps_done(first.job) >= 1)
        job = first.job
        first.close()
        second = Panel(Relax)
        assert second.job == job
        assert named(second, "Run").description == "Run another one"
        await until(lambda: cards(second)[0].state == "running")
        assert Panel(Relax, profile="full").job is None
        assert Panel(TextToImage).job is None
        let_go(job_of(second))
        await until(lambda: second.artifact)
        assert Panel(Relax).job is None

    asyncio.run(person())


def test_a_later_run_keeps_the_card_of_the_one_that_goes_on_and_of_the_last_result() -> None:
    panel = Panel(Relax, hold_at=1)

    async def person() -> None:
        named(panel, "Run").click()
        await until(lambda: panel.job is not None and steps_done(panel.job) >= 1)
        first = job_of(panel)
        panel.form.set(hold_at=-1)
        named(panel, "Run").click()
        await until(lambda: job_of(panel) != first)
        assert [card.run_id for card in cards(panel)] == [first.id, job_of(panel).id]
        let_go(first)
        await until(lambda: panel.artifact)
        assert panel.artifact == job_of(panel).run.folder / "result.npy"
        assert first.status().state == "succeeded"
        await until(lambda: [card.run_id for card in cards(panel)] == [job_of(panel).id])  # whose result is shown
        second = job_of(panel)
        panel.form.set(hold_at=1)
        named(panel, "Run").click()
        await until(lambda: job_of(panel) != second)
        assert [card.run_id for card in cards(panel)] == [job_of(panel).id, second.id]
        let_go(job_of(panel))
        await until(lambda: panel.artifact)

    asyncio.run(person())


def test_the_title_follows_the_language() -> None:
    panel = Panel(TextToImage)
    assert "Text to image" in text(panel)
    language.code = "zh"
    assert "文生图" in text(panel) and named(panel, "运行").description == "运行"


def test_a_run_whose_folder_is_deleted_ends_the_waiting() -> None:
    panel = Panel(Relax, hold_at=1)

    async def person() -> None:
        waiting = asyncio.create_task(panel.run())
        await until(lambda: panel.job is not None and steps_done(panel.job) >= 1)
        job = job_of(panel)
        aside = job.run.folder.rename(job.run.folder.with_name(".aside"))
        try:
            with pytest.raises(RunError, match="was deleted"):
                await waiting
        finally:
            aside.rename(job.run.folder)
        language.code = "ko"
        assert cards(panel)[0].state == "gone" and named(panel, "실행").description == "실행"
        job.cancel()
        assert eventually(lambda: job.status().ended)

    asyncio.run(person())


def test_the_next_result_comes_also_where_the_one_shown_was_deleted() -> None:
    panel = Panel(Relax, steps=1)
    (before,) = asyncio.run(panel.run())
    shutil.rmtree(before.parent)  # as in the gallery of another page
    made = asyncio.run(panel.run())
    assert made == [job_of(panel).run.folder / "result.npy"]
    assert [card.run_id for card in cards(panel)] == [job_of(panel).id]


def test_where_nothing_was_ever_run_there_is_nothing_to_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "nowhere"))
    assert Panel(TextToImage).job is None
    assert not (tmp_path / "nowhere").exists()


def test_a_dropped_file_goes_to_the_field_under_it_or_to_the_one_it_is_for(
    queue: QueueUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = Panel(SpeechToVideo)
    (zone,) = [each for each in everything(panel) if isinstance(each, Upload)]
    monkeypatch.setattr(zone, "send", lambda *_: None)

    def drop(file: Path, field: str = "") -> Path:
        data = file.read_bytes()
        zone.receive({"kind": "begin", "id": "1", "name": file.name, "size": len(data), "field": field})
        zone.receive({"kind": "chunk", "id": "1", "offset": 0}, [memoryview(data)])
        return zone.folder / file.name

    named(panel, "Picture: Sample").label = "avatar_woman.png"
    face = drop(made_runs.picture(tmp_path / "dropped face.png", side=32))
    voice = drop(made_runs.sound(tmp_path / "dropped voice.wav", seconds=0.5))
    values = panel.form.values()
    assert (values["image"], values["audio"]) == (str(face), str(voice))
    assert named(panel, "Picture: File path").value == str(face)  # the sample is chosen no more
    clip = drop(made_runs.clip(tmp_path / "dropped clip.mp4", 0.5, side=32), "audio")
    values = panel.form.values()
    assert (values["image"], values["audio"]) == (str(face), str(clip))
    drop(made_runs.picture(tmp_path / "other face.png", side=32), "audio")  # no voice, so it is the picture
    assert panel.form.values()["image"].endswith("other face.png")
    panel.close()


def test_a_panel_without_files_says_nothing_of_dropping_any() -> None:
    assert "Drop files" not in text(Panel(TextToImage)) and "Drop files" in text(Panel(Upscale))


def test_a_panel_is_there_before_what_plays_media_is_read() -> None:
    code = (
        "import sys\nfrom wanavatar_lab.requests import SpeechToVideo\nfrom wanavatar_lab.ui.panel import Panel\n"
        "Panel(SpeechToVideo, profile='pocket')\n"
        "print([name for name in ('numpy', 'av', 'PIL', 'torch') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n", "each of these takes a good part of a second"

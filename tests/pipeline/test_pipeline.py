"""Links that feed one another, in real runs of the test stage; what goes wrong is said once and leaves nothing."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.queue_for_tests import QueueUnderTest, eventually, queue_settings_fixture, shared_queue_fixture
from tests.stages_for_tests import Relax
from tests.toys import voice
from wanavatar_lab import files
from wanavatar_lab.errors import DiskFull, LabError, RequestError
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.media import Audio, write_picture, write_talking_clip
from wanavatar_lab.metrics import loudness
from wanavatar_lab.pipeline import (
    Link,
    Made,
    Progress,
    TalkingAvatar,
    follow,
    hand_over,
    make_folder,
    measure,
    talking_avatar,
)
from wanavatar_lab.requests import SpeechToVideo

__all__ = ["queue_settings_fixture", "shared_queue_fixture"]


def relax(file: str, *, start: str | None = None, **values: object) -> Link:
    takes = {"start": start} if start else {}
    return Link(file, Relax(profile="pocket", seed=1, **values, **takes), takes)


def nothing(_: Progress) -> None:
    pass


def test_each_link_takes_what_another_made(shared_queue: QueueUnderTest, tmp_path: Path) -> None:
    seen: list[Progress] = []
    links = [relax("a.npy"), relax("b.npy", start="a.npy"), relax("c.npy", start="a.npy")]
    made = asyncio.run(follow(links, seen.append, runs_dir=shared_queue.runs_dir))
    assert [one.link.file for one in made] == ["a.npy", "b.npy", "c.npy"]
    first = made[0].job.id
    assert [one.job.run.manifest()["parents"] for one in made] == [[], [first], [first]]
    done = [(progress.number, progress.status.state) for progress in seen if progress.status.ended]
    assert done == [(1, "succeeded"), (2, "succeeded"), (3, "succeeded")]
    out = make_folder(tmp_path / "deep" / "out")
    assert hand_over(made, out) == [out / "a.npy", out / "b.npy", out / "c.npy"]
    assert sorted(path.name for path in out.iterdir()) == ["a.npy", "b.npy", "c.npy"]
    assert np.array_equal(np.load(out / "b.npy"), np.load(out / "c.npy"))

    alone = Made.of(made[1].job, "other.npy")
    assert (alone.path, alone.status, alone.link.request) == (made[1].path, made[1].status, made[1].job.run.request())
    assert hand_over([alone], out) == [out / "other.npy"]


def test_results_that_are_kept_are_taken_and_not_made_again(shared_queue: QueueUnderTest) -> None:
    links = [relax("a.npy"), relax("b.npy", start="a.npy"), relax("c.npy", start="b.npy")]
    first = {one.link.file: one for one in asyncio.run(follow(links, nothing, runs_dir=shared_queue.runs_dir))}
    before, seen, begun = len(list_jobs(runs_dir=shared_queue.runs_dir)), list[Progress](), list[int]()
    kept = {file: one for file, one in first.items() if file != "b.npy"}
    made = asyncio.run(
        follow(links, seen.append, lambda index, _: begun.append(index), kept=kept, runs_dir=shared_queue.runs_dir)
    )
    assert len(list_jobs(runs_dir=shared_queue.runs_dir)) == before + 1 and begun == [1]
    assert [one.job for one in made] == [first["a.npy"].job, made[1].job, first["c.npy"].job]
    assert made[1].job != first["b.npy"].job and made[1].job.run.manifest()["parents"] == [first["a.npy"].job.id]
    assert {(progress.number, progress.count) for progress in seen} == {(1, 1)}


def test_a_link_that_fails_ends_the_chain(shared_queue: QueueUnderTest) -> None:
    links = [relax("a.npy"), relax("b.npy", start="a.npy", fault="scratch"), relax("c.npy", start="b.npy")]
    before = len(list_jobs(runs_dir=shared_queue.runs_dir))
    with pytest.raises(
        LabError, match=r"relax failed: Failed with files half-written\. Its run is .*-relax; `"
    ) as told:
        asyncio.run(follow(links, nothing, runs_dir=shared_queue.runs_dir))
    jobs = list_jobs(runs_dir=shared_queue.runs_dir)
    assert len(jobs) == before + 2
    assert jobs[0].id in str(told.value)


def test_cancelling_the_task_cancels_the_run(shared_queue: QueueUnderTest) -> None:
    async def stop() -> None:
        chain = asyncio.create_task(follow([relax("a.npy", hold_at=1)], nothing, runs_dir=shared_queue.runs_dir))
        job = None
        while job is None or job.status().phase != "relax":
            await asyncio.sleep(0.02)
            job = list_jobs(runs_dir=shared_queue.runs_dir)[0]
        chain.cancel()
        await chain

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stop())
    eventually(lambda: list_jobs(runs_dir=shared_queue.runs_dir)[0].status().state == "cancelled")


def test_a_run_that_is_cancelled_from_elsewhere_ends_the_chain(shared_queue: QueueUnderTest) -> None:
    def cancel(progress: Progress) -> None:
        if progress.status.phase == "relax":
            list_jobs(runs_dir=shared_queue.runs_dir)[0].cancel()

    with pytest.raises(LabError, match="relax was cancelled"):
        asyncio.run(follow([relax("a.npy", hold_at=1)], cancel, runs_dir=shared_queue.runs_dir))


def test_a_missing_file_is_refused_before_anything_runs(shared_queue: QueueUnderTest, tmp_path: Path) -> None:
    gone = Link("b.npy", Relax(profile="pocket", start=str(tmp_path / "none.npy")))
    before = len(list_jobs(runs_dir=shared_queue.runs_dir))
    with pytest.raises(RequestError, match="does not exist"):
        asyncio.run(follow([relax("a.npy"), gone], nothing, runs_dir=shared_queue.runs_dir))
    assert len(list_jobs(runs_dir=shared_queue.runs_dir)) == before


def test_results_are_put_there_all_or_none(
    shared_queue: QueueUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = asyncio.run(follow([relax("a.npy"), relax("b.npy", start="a.npy")], nothing, runs_dir=shared_queue.runs_dir))
    (tmp_path / "a.npy").write_text("of an earlier run")

    def no_room(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        if ".b." in str(target):
            raise OSError(min(files.OUT_OF_ROOM), "No space left on device")

    monkeypatch.setattr("shutil.copyfile", no_room)
    with pytest.raises(DiskFull, match="no room for the results"):
        hand_over(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert (tmp_path / "a.npy").read_text() == "of an earlier run"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(LabError, match=r"out: '.*out' cannot be made \(File exists\); give a folder"):
        make_folder(tmp_path / "out")


def avatar(tmp_path: Path, **changes: object) -> list[Link]:
    values = {"profile": "pocket", "prompt": "a man", "motion_prompt": "he nods", "audio": voice(tmp_path / "v.wav")}
    return talking_avatar(**values | changes)  # type: ignore[arg-type]


def test_the_chain_to_a_talking_avatar(tmp_path: Path) -> None:
    links = avatar(tmp_path, seed=5)
    assert [link.file for link in links] == ["picture.png", "upscaled.png", "moving.mp4", "talking.mp4"]
    assert [dict(link.takes) for link in links] == [{}, *[{"image": "picture.png"}] * 3]
    assert links[0].request.to_json()["upscale"] is False
    assert links[2].request.to_json()["prompt"] == "he nods"
    assert links[3].request.to_json()["audio_duration"] * 16 == links[3].request.to_json()["frames_per_segment"] == 80
    assert {link.request.to_json().get("seed", 5) for link in links} == {5}
    assert {link.request.profile for link in links} == {"pocket"}


def test_a_picture_stands_for_the_prompt(tmp_path: Path) -> None:
    write_picture(picture := tmp_path / "face.png", Image.new("RGB", (64, 64)))
    asked = TalkingAvatar(
        profile="pocket", picture=str(picture), audio=voice(tmp_path / "v.wav"), talking_prompt="he sings", seed=3
    )
    links = asked.links()
    assert [(link.request.stage, dict(link.takes)) for link in links] == [
        ("upscale", {}),
        ("image_to_video", {}),
        ("speech_to_video", {}),
    ]
    assert {link.request.to_json()["image"] for link in links} == {str(picture)}
    assert links[2].request.to_json()["prompt"] == "he sings"
    usual = asked.changed(talking_prompt=None).links()[2].request.to_json()
    assert usual["prompt"] == SpeechToVideo.model_fields["prompt"].default and usual["audio_duration"] is None
    for values, said in (
        ({}, "prompt: is required, unless a picture"),
        ({"prompt": "a man", "picture": "a.png"}, "two"),
    ):
        with pytest.raises(RequestError, match=said):
            TalkingAvatar(profile="pocket", audio="v.wav", **values)
    with pytest.raises(RequestError, match=r"^picture: .*none\.png' does not exist"):
        asked.changed(picture=str(tmp_path / "none.png")).check_inputs()


def test_all_that_is_wrong_is_said_once_by_the_names_of_the_chain(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as told:
        avatar(tmp_path, prompt="", motion_prompt="x" * 10_001, audio="", audio_duration=-1, seed=-2)
    names = [name for name, _ in told.value.problems]
    assert sorted(names) == ["audio", "audio_duration", "motion_prompt", "prompt", "seed"]
    with pytest.raises(RequestError, match=r"profile: must be one of .*'pockte'") as told:
        avatar(tmp_path, profile="pockte")
    assert len(told.value.problems) == 1
    with pytest.raises(RequestError, match=r"audio: '.*none\.wav' does not exist"):
        avatar(tmp_path, audio=str(tmp_path / "none.wav"))


def talking(path: Path, sound: np.ndarray) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (32, 64, 64, 3), dtype=np.uint8)
    write_talking_clip(path, iter(frames), fps=16, audio=Audio(sound[:, None], 16_000), start_frame=0)
    return path


def test_lips_are_measured_against_the_sound_of_the_file(tmp_path: Path) -> None:
    time = np.arange(32_000) / 16_000
    sound = (0.5 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 1.3 * time) ** 2).astype(np.float32)
    clip = talking(tmp_path / "a.mp4", sound)
    found = measure(clip, np.roll(loudness(sound, frames=32), 2))
    assert (found.frames, found.picture) == (32, 2.0)
    assert found.sound == pytest.approx(2.0, abs=1 / 16)
    assert found.lips is not None
    assert (found.lips.lag, round(found.lips.r_at_lag, 2)) == (2, 1.0)
    # frames without a face are taken to be between their neighbours
    unseen = [None if 10 <= i < 12 else each for i, each in enumerate(np.roll(loudness(sound, frames=32), 2))]
    assert (part := measure(clip, unseen).lips) is not None
    assert part.lag == 2 and part.r_at_lag == pytest.approx(1.0, abs=0.05)
    assert "nothing here reads" in measure(clip, [None] * 32).why_no_lips


def test_why_lips_were_not_measured_is_said(tmp_path: Path) -> None:
    clip = talking(tmp_path / "a.mp4", np.full(32_000, 0.1, np.float32))
    assert "nothing here reads" in measure(clip, None).why_no_lips
    still = measure(clip, np.zeros(32))
    assert still.lips is None
    assert "does not change" in still.why_no_lips

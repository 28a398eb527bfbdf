"""Requests that are refused before anything loads, and what GPUs are looked at for it."""

from pathlib import Path
from typing import Any

import pytest

from tests import toys
from tests.memory.machines import GB, machine
from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.memory import Machine, choose_offload
from wanavatar_lab.memory.plan import refuse_what_cannot_fit
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, TextToSpeech, Upscale
from wanavatar_lab.worker.model_cache import ModelCache


@pytest.fixture(name="requests")
def requests_fixture(tmp_path: Path) -> dict[str, Request]:
    picture = str(toys.picture(tmp_path / "a.png"))
    return {
        "text_to_image": TextToImage(profile="pocket", prompt="a face", aspect="square"),
        "image_to_video": ImageToVideo(profile="pocket", image=picture, resolution="720x1280"),
        "speech_to_video": SpeechToVideo(profile="pocket", image=picture, audio="a.wav", resolution="auto"),
    }


def have(monkeypatch: pytest.MonkeyPatch, where: Machine) -> list[int | None]:
    """Let a machine be this one; collects how many of its GPUs are looked at."""
    looked: list[int | None] = []

    def look(_: str, most: int | None = None) -> Machine:
        looked.append(most)
        return Machine(where.gpus[:most], where.host_free)

    monkeypatch.setattr(choose_offload, "this_machine", look)
    return looked


@pytest.mark.parametrize("stage", ["text_to_image", "image_to_video", "speech_to_video"])
def test_a_gpu_that_is_too_small_is_said_with_the_figures(
    stage: str, requests: dict[str, Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, machine(0.602))
    with pytest.raises(LabError, match=r"does not fit in any mode: .* it needs [\d.]+ [MG]B"):
        refuse_what_cannot_fit(requests[stage], "cuda", 8 * GB)
    have(monkeypatch, machine(80))
    refuse_what_cannot_fit(requests[stage], "cuda", 8 * GB)


def test_a_mode_that_is_asked_for_is_held_against_the_gpu(
    requests: dict[str, Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, machine(0.7))
    with pytest.raises(RequestError, match="offload: 'none' does not fit"):
        refuse_what_cannot_fit(requests["image_to_video"].changed(offload="none"), "cuda:0", 8 * GB)


def test_main_memory_counts_for_what_is_not_loaded(
    requests: dict[str, Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, machine(80))
    with pytest.raises(LabError, match="through main memory"):
        refuse_what_cannot_fit(requests["speech_to_video"], "cuda", 1_000_000)
    refuse_what_cannot_fit(requests["speech_to_video"], "cuda", None)


def test_nothing_is_refused_on_a_cpu_nor_without_weights(
    requests: dict[str, Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked = have(monkeypatch, machine(0.602))
    refuse_what_cannot_fit(requests["image_to_video"], "cpu", 1)
    refuse_what_cannot_fit(Upscale(profile="pocket", image="a.png"), "cuda", 1)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    refuse_what_cannot_fit(requests["image_to_video"], "cuda", 1)
    assert looked == []


def test_a_second_gpu_is_left_alone_where_the_first_is_enough(
    requests: dict[str, Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = have(monkeypatch, machine(80, 4))
    refuse_what_cannot_fit(requests["text_to_image"], "cuda", 8 * GB)
    assert looked == [1]


def test_a_run_that_cannot_fit_loads_nothing(
    requests: dict[str, Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(ModelCache, "models", lambda *given: loaded.append(given))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    monkeypatch.setenv("WANAVATAR_DEVICE", "cuda")
    have(monkeypatch, machine(0.602))
    status = jobs.run_here(requests["image_to_video"], runs_dir=tmp_path / "runs").status()
    assert status.state == "failed"
    assert "does not fit in any mode" in (status.error or "")
    assert loaded == []


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANAVATAR_DEVICE", "cuda:99")
    run = jobs.run_here(TextToSpeech(profile="pocket", text="Hello."), runs_dir=tmp_path / "runs")
    error = run.status().error or ""
    assert error.startswith("The device is cuda:99; GPUs that torch sees: ") and "Set WANAVATAR_DEVICE to auto" in error

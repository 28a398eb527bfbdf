"""Which models a worker keeps."""

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import toys
from tests.memory.machines import GB
from tests.stages_for_tests import OutOfMemoryError, Relax
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import STAGE_REQUESTS, ImageToVideo, Request, SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Status
from wanavatar_lab.stages import stage_module
from wanavatar_lab.worker import model_cache as cache_module
from wanavatar_lab.worker.execute import execute
from wanavatar_lab.worker.model_cache import ModelCache

REQUESTS: dict[str, Request] = {
    "text": TextToImage(profile="pocket", prompt="a face"),
    "upscale": Upscale(profile="pocket", image="a.png"),
    "image": ImageToVideo(profile="pocket", image="a.png"),
    "speech": SpeechToVideo(profile="pocket", image="a.png", audio="a.wav"),
}


class Patient:
    """Models that can wait."""

    def __init__(self, size: int) -> None:
        self.size, self.rests = size, 0

    def offload_to_host(self) -> None:
        self.rests += 1

    def host_bytes(self) -> int:
        return self.size


class Stage(ModuleType):
    """A stage whose models are of some size, and which can fail to load."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__("toy")
        self.make, self.loads = make, 0

    def load(self, profile: Profile, device: str) -> Any:
        self.loads += 1
        return self.make()


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))


def waiting(cache: ModelCache) -> list[str]:
    return [name.partition("/")[0] for name in cache.waiting]


def patient(size_gb: float) -> Stage:
    return Stage(lambda: Patient(int(size_gb * GB)))


def test_stages_that_take_turns_are_loaded_once() -> None:
    cache = ModelCache("cuda", lambda: 256 * GB)
    stages = {name: patient(40) for name in REQUESTS}
    kept = {name: cache.models(REQUESTS[name], stages[name]) for name in REQUESTS}
    for name in ("speech", "speech", "text", "image", "upscale"):
        assert cache.models(REQUESTS[name], stages[name]) is kept[name]
    assert [stage.loads for stage in stages.values()] == [1, 1, 1, 1]
    # only the one that runs is on the GPU
    assert [kept[name].rests for name in REQUESTS] == [2, 1, 2, 1]
    assert cache.name == "upscale/pocket"
    assert tuple(cache.waiting) == ("speech_to_video/pocket", "text_to_image/pocket", "image_to_video/pocket")


def test_what_ran_longest_ago_goes_first() -> None:
    total = 160  # GB
    cache = ModelCache("cuda", lambda: (total - 60 * (len(cache.waiting) + (cache.name is not None))) * GB)
    stages = {name: patient(60) for name in REQUESTS}
    first = cache.models(REQUESTS["text"], stages["text"])
    cache.models(REQUESTS["image"], stages["image"])
    assert cache.models(REQUESTS["text"], stages["text"]) is first
    # 120 that would wait are less than 0.8 of 160, and 180 are more than 0.8 of 220
    cache.models(REQUESTS["speech"], stages["speech"])
    assert waiting(cache) == ["image_to_video", "text_to_image"]
    total = 220
    cache.models(REQUESTS["upscale"], stages["upscale"])
    assert waiting(cache) == ["text_to_image", "speech_to_video"]
    total = 70
    cache.models(REQUESTS["text"], stages["text"])
    assert waiting(cache) == []
    assert stages["text"].loads == 2


def test_what_will_be_loaded_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "bytes_to_load", lambda *_: 50 * GB)
    cache = ModelCache("cuda", lambda: 20 * GB)
    cache.models(REQUESTS["text"], patient(30))
    seen: list[tuple[str, ...]] = []
    cache.models(REQUESTS["image"], Stage(lambda: seen.append(tuple(cache.waiting))))
    assert seen == [()], "it made room before it loaded"


def test_a_stage_without_files_says_what_it_loads() -> None:
    cache = ModelCache("cuda", lambda: 20 * GB)
    cache.models(REQUESTS["text"], patient(30))
    seen: list[tuple[str, ...]] = []
    stage = Stage(lambda: seen.append(tuple(cache.waiting)))
    stage.bytes_to_load = lambda: 50 * GB  # type: ignore[attr-defined]
    cache.models(REQUESTS["image"], stage)
    assert seen == [()], "it made room before it loaded"


@pytest.mark.parametrize(("size", "waits"), [(1.9, True), (2.1, False)])
def test_on_a_cpu_small_models_wait(size: float, waits: bool) -> None:
    # a quarter of what is free and of what they take themselves
    cache = ModelCache("cpu", lambda: 6 * GB)
    cache.models(REQUESTS["text"], patient(size))
    cache.models(REQUESTS["image"], patient(size))
    assert tuple(cache.waiting) == (("text_to_image/pocket",) if waits else ())


def test_models_that_cannot_wait_are_released() -> None:
    cache = ModelCache("cuda", lambda: 256 * GB)
    others = Stage(dict)
    STAGE_REQUESTS.setdefault("relax", Relax)
    relax = Relax(profile="pocket")
    cache.models(relax, others)
    cache.models(REQUESTS["text"], patient(1))
    assert tuple(cache.waiting) == ()
    cache.models(relax, others)
    assert others.loads == 2


def test_a_load_that_fails_leaves_the_earlier_stage_usable() -> None:
    def fail() -> Any:
        raise WeightsError("cut short")

    cache = ModelCache("cuda", lambda: 256 * GB)
    stage = patient(30)
    models = cache.models(REQUESTS["text"], stage)
    with pytest.raises(WeightsError):
        cache.models(REQUESTS["speech"], Stage(fail))
    assert (cache.name, tuple(cache.waiting)) == (None, ("text_to_image/pocket",))
    assert cache.models(REQUESTS["text"], stage) is models
    assert stage.loads == 1


def test_a_stage_of_pocket_works_on_when_another_one_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(__file__).parents[2] / "weights/pocket", tmp_path / "pocket")
    damaged = tmp_path / "pocket/speech_to_video/transformer/diffusion_pytorch_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    cache = ModelCache("cpu", lambda: 8 * GB)
    drawing = TextToImage(profile="pocket", prompt="a face", width=64, height=64, upscale=False, seed=1)
    picture, voice = str(toys.picture(tmp_path / "a.png")), str(toys.voice(tmp_path / "v.wav"))
    speaking = SpeechToVideo(profile="pocket", image=picture, audio=voice)

    def run(request: Request) -> tuple[str, bytes, str]:
        made = Run.create(request)
        with made.held():
            made.write_status(Status(state="running"))
            assert execute(made, cache), "the process can execute another run"
        status = made.status()
        return status.state, b"".join(made.path(each).read_bytes() for each in status.artifacts), status.error or ""

    state, before, error = run(drawing)
    assert state == "succeeded", error
    models = cache.models(drawing, stage_module("text_to_image"))
    state, _, error = run(speaking)
    assert state == "failed" and str(damaged) in error
    assert run(drawing)[:2] == ("succeeded", before)
    assert cache.models(drawing, stage_module("text_to_image")) is models, "nothing was loaded again"


def test_models_that_fail_to_make_room_are_not_taken_for_usable() -> None:
    class Stuck(Patient):
        def offload_to_host(self) -> None:
            raise RuntimeError("CUDA error")

    cache = ModelCache("cuda", lambda: 256 * GB)
    cache.models(REQUESTS["text"], Stage(lambda: Stuck(1)))
    with pytest.raises(RuntimeError):
        cache.models(REQUESTS["image"], patient(1))
    assert (cache.name, tuple(cache.waiting)) == (None, ())


def test_forget_drops_what_ran_and_release_drops_all() -> None:
    cache = ModelCache("cuda", lambda: 256 * GB)
    for name in ("text", "image"):
        cache.models(REQUESTS[name], patient(1))
    cache.forget()
    assert (cache.name, tuple(cache.waiting)) == (None, ("text_to_image/pocket",))
    assert cache.host_free(REQUESTS["text"]) is None
    assert cache.host_free(REQUESTS["image"]) == 257 * GB
    cache.release()
    assert (cache.name, tuple(cache.waiting)) == (None, ())


@pytest.mark.parametrize("kind", [MemoryError, OutOfMemoryError])
def test_nothing_keeps_models_that_had_no_room(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    stage, loaded = stage_module("upscale"), list["weakref.ref[Patient]"]()

    def load(*_: Any) -> Patient:
        models = Patient(1)
        loaded.append(weakref.ref(models))
        return models

    def fail(*_: Any) -> None:
        raise kind("out of memory")

    monkeypatch.setattr(stage, "load", load)
    monkeypatch.setattr(stage, "run", fail)
    made = Run.create(Upscale(profile="pocket", image=str(toys.picture(tmp_path / "a.png"))))
    with made.held():
        made.write_status(Status(state="running"))
        assert execute(made, ModelCache("cpu", lambda: 8 * GB))
    assert "ran out of memory" in (made.status().error or "")
    assert [models() for models in loaded] == [None], "the next run looks at how much memory is free"


def test_the_four_stages_of_pocket_all_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANAVATAR_WEIGHTS")
    cache = ModelCache("cpu", lambda: 8 * GB)
    kept = {name: cache.models(request, stage_module(request.stage)) for name, request in REQUESTS.items()}
    gc.collect()
    for name, request in REQUESTS.items():
        assert cache.models(request, stage_module(request.stage)) is kept[name]
    assert len(cache.waiting) == 3

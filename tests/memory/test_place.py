"""How a pipeline is placed, and what an earlier placing leaves behind."""

import weakref
from typing import Any

import pytest
import torch

from tests import toys
from tests.memory.machines import machine
from tests.memory.test_pinned import lora
from tests.memory.test_take_turns import clip
from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.memory import Choice, Workload, choose_offload, usual_workload
from wanavatar_lab.memory import place as resident
from wanavatar_lab.memory.place import HALF_WAY, Resident, components_in, place

WORK = usual_workload("speech_to_video", "pocket")


class Toy(Resident):
    """The toy pipeline, counting how often it is loaded."""

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.reads = device, 0
        self.read()

    def read(self) -> None:
        self.pipeline = toys.s2v_pipeline()
        self.reads += 1


@pytest.fixture(name="placed")
def placed_fixture(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A GPU with all the memory of the world, and what would be moved on it."""
    moves: list[tuple[str, str | None]] = []

    def pretend(_: Any, __: str, choice: Choice, placed: str | None = None) -> str:
        moves.append((choice.key, placed))
        return choice.key

    monkeypatch.setattr(choose_offload, "this_machine", lambda *_, **__: machine(80))
    monkeypatch.setattr(resident, "place", pretend)
    return moves


def test_on_a_cpu_every_mode_leaves_the_pipeline_there() -> None:
    models = Toy()
    for offload in ("auto", "none", "group"):
        assert models.place(offload, WORK).mode == "none"
        models.rest()
    assert models.reads == 1
    assert clip(models.pipeline).shape[1] > 0


def test_what_diffusers_cannot_undo_is_loaded_anew(placed: list[tuple[str, str | None]]) -> None:
    models = Toy()
    for offload in ("none", "model", "group", "group", "fp8", "fp8", "model"):
        models.place(offload, WORK)
    assert placed == [
        ("none", None),
        ("model", "none"),
        ("group", "model"),
        ("group", "group"),
        ("fp8", None),
        ("fp8", "fp8"),
        ("model", None),
    ]
    assert models.reads == 3


def test_a_choice_goes_by_the_weights_as_they_were_loaded(placed: list[tuple[str, str | None]]) -> None:
    models = Toy()
    before = models.components()
    models.place("fp8", WORK)
    models.pipeline.transformer.to(torch.bfloat16)
    assert models.components() == before
    assert models.host_bytes() == sum(component.gpu_bytes for component in before)


def test_after_a_placing_that_failed_the_pipeline_is_loaded_anew(
    placed: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Toy()
    pretend = resident.place

    def fail(*_: Any) -> str:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resident, "place", fail)
    with pytest.raises(torch.OutOfMemoryError):
        models.place("none", WORK)
    assert models.placed == HALF_WAY
    monkeypatch.setattr(resident, "place", pretend)
    models.place("none", WORK)
    assert (models.placed, models.reads) == ("none", 2)


def test_a_pipeline_that_is_loaded_anew_does_not_lie_beside_the_old_one(
    placed: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Toy()
    models.place("fp8", WORK)
    old = weakref.ref(models.pipeline)
    read, gone = Toy.read, []

    def fail(_: Toy) -> None:
        gone.append(old() is None)
        raise WeightsError("cut short")

    monkeypatch.setattr(Toy, "read", fail)
    for _ in range(2):
        with pytest.raises(WeightsError):
            models.place("model", WORK)
        models.rest()
    assert gone == [True, True]
    monkeypatch.setattr(Toy, "read", read)
    models.place("model", WORK)
    assert (models.placed, models.reads) == ("model", 2)
    assert clip(models.pipeline).shape[1] > 0


def test_what_does_not_fit_is_refused_and_moves_nothing(
    placed: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Toy()
    models.place("none", WORK)
    monkeypatch.setattr(choose_offload, "this_machine", lambda *_, **__: machine(0.61))
    with pytest.raises(LabError, match="does not fit in any mode"):
        models.place("auto", Workload("speech_to_video", 720, 1280, 80))
    assert (models.placed, placed) == ("none", [("none", None)])


def test_eight_bits_take_the_memory_that_was_said() -> None:
    pipeline = toys.s2v_pipeline()
    (said,) = [component.fp8_bytes for component in components_in(pipeline) if component.name == "transformer"]
    wanted = clip(pipeline)
    resident._store_in_8_bits(pipeline.transformer)
    tensors = (*pipeline.transformer.parameters(), *pipeline.transformer.buffers())
    assert sum(tensor.nbytes for tensor in tensors) == said
    made = clip(pipeline)
    assert made.isfinite().all()
    assert (made - wanted).abs().mean() < 0.1


def test_adapters_of_earlier_runs_are_not_rounded_with_the_weights() -> None:
    network = toys.s2v_transformer()
    adapters_of(network).load("mine", lora(network))
    resident._store_in_8_bits(network)
    assert adapters_of(network).loaded() == set()
    adapters_of(network).load("mine", lora(network))
    assert {weight.dtype for name, weight in network.named_parameters() if ".lora_" in name} == {torch.float32}


def test_a_run_that_needs_no_tiles_has_none_of_an_earlier_one() -> None:
    pipeline = toys.s2v_pipeline()
    tiled = Choice("none", False, {}, None, 0, "", tiled=True)
    placed = place(pipeline, "cpu", tiled)
    assert (pipeline.vae.use_tiling, pipeline.vae.tile_sample_min_width) == (True, 256)
    place(pipeline, "cpu", Choice("none", False, {}, None, 0, ""), placed)
    assert not pipeline.vae.use_tiling


def test_the_cpu_is_a_place_for_any_choice() -> None:
    pipeline = toys.s2v_pipeline()
    choice = Choice("none", False, {}, None, 0, "")
    assert place(pipeline, "cpu", choice) == "none"

"""A stage whose pipeline is loaded anew for a run, as after offload group, which diffusers cannot undo."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lora.files import whole_file
from tests.stages.test_ends_early import STAGES, request, results_in
from wanavatar_lab import media
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.memory import usual_workload
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.stages import speech_to_video, stage_module
from wanavatar_lab.stages.context import StageContext


def loaded(stage: str) -> Any:
    """Models that the next run loads anew: their pipeline counts as placed in mode group."""
    models = stage_module(stage).load(PROFILES["pocket"], "cpu")
    choice = models.apply_offload("auto", usual_workload(stage, "pocket"))
    models.choice = replace(choice, mode="group")
    return models


def frames(stage: str, models: Any, place: Path, name: str, **fields: Any) -> np.ndarray:
    (place / name).mkdir()
    stage_module(stage).run(request(stage, place, **fields), models, StageContext(place / name, seed=1))
    (made,) = results_in(place / name)
    if made.suffix == ".png":
        return np.asarray(media.read_picture(made))
    return np.stack(list(media.read_frames(made)))


@pytest.mark.parametrize("stage", STAGES)
def test_loras_are_in_the_networks_that_compute(stage: str, place: Path) -> None:
    _, kind, network = STAGES[stage]
    whole_file(place / "loras" / kind / "ann.safetensors", network())
    models = loaded(stage)
    before = models.pipeline
    made = frames(stage, models, place, "anew", loras=["ann"])
    assert models.pipeline is not before
    assert np.array_equal(made, frames(stage, models, place, "again", loras=["ann"]))
    assert not np.array_equal(made, frames(stage, models, place, "without"))


@pytest.mark.parametrize("stage", STAGES)
def test_weights_that_could_not_be_read_are_read_by_the_next_run(
    stage: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = loaded(stage)

    def fail(_: Any) -> None:
        raise WeightsError("cut short")

    with monkeypatch.context() as patch:
        patch.setattr(type(models), "read", fail)
        for name in ("first", "second"):
            with pytest.raises(WeightsError, match="cut short"):
                frames(stage, models, place, name)
    assert frames(stage, models, place, "third").size


def test_a_network_that_was_widened_for_inpainting_stays_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, read, gone = loaded("speech_to_video"), speech_to_video.Models.read, []
    old = weakref.ref(models.pipeline.transformer)

    def note(self: speech_to_video.Models) -> None:
        gone.append(old() is None)
        read(self)

    monkeypatch.setattr(speech_to_video.Models, "read", note)
    models.widen()
    workload = usual_workload("speech_to_video", "pocket")
    for mode in ("none", "group"):
        models.choice = replace(models.apply_offload("auto", workload), mode="group")
        assert models.pipeline.transformer.config.in_channels == 36, mode
    assert gone == [True, True], "weights are never in memory twice"

"""A run whose weights are not there: which, how large, and the one command that gets them."""

from pathlib import Path

import pytest

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, Tool
from wanavatar_lab.stages import stage_module
from wanavatar_lab.weights import WEIGHTS, amount

STAGES = [stage for stage, request in STAGE_REQUESTS.items() if not issubclass(request, Tool)]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_lacks_weights_says_how_to_get_them(
    stage: str, profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    location = PROFILES[profile].weights(stage, tmp_path)
    with pytest.raises(WeightsError) as caught:
        models = stage_module(stage).load(PROFILES[profile], "cpu")
        models.network()  # of upscale, whose requests may bring weights of their own
    said = str(caught.value)
    assert said.startswith(f"The weights of {stage} are not at {location}. ")
    (weights,) = [weights for weights in WEIGHTS.values() if (profile, stage) in weights.needed_by]
    if weights.ships:
        assert "`git checkout -- weights/pocket`" in said
    else:
        assert f"`wanavatar-lab weights download {weights.name}` gets what is missing" in said
        assert amount(weights.size) in said

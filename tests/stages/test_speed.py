"""`speed` and TeaCache from request to file: which passes are computed, what the run says of it, and what stays."""

import re
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import toys
from tests.lora.files import whole_file
from tests.toy_i2v import i2v_pipeline
from training.pocket.saving import save_all_parts
from wanavatar_lab import jobs, media
from wanavatar_lab.bench.speed import SPEEDS, computed_passes
from wanavatar_lab.errors import Cancelled
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, RequestError, SpeechToVideo
from wanavatar_lab.stages import speed, stage_module
from wanavatar_lab.stages.context import StageContext, Step

STEPS = 8
PLANS = tomllib.loads(speed.TABLE.read_text(encoding="utf-8"))
Made = tuple[np.ndarray, int, StageContext]
Make = Callable[..., Made]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toys.pocket_weights(tmp_path_factory.mktemp("weights"))
    save_all_parts(i2v_pipeline(), "image_to_video", folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "weights").mkdir()
    for part in weights.iterdir():
        (tmp_path / "weights" / part.name).symlink_to(part)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


def request(place: Path, stage: str, **fields: Any) -> SpeechToVideo | ImageToVideo:
    common = {"profile": "pocket", "image": str(toys.picture(place / "a.png")), "resolution": "64x64", "seed": 1}
    common |= {"num_inference_steps": STEPS, "guidance_scale": 2.0}
    if stage == "image_to_video":
        return ImageToVideo(**common | {"prompt": "a person", "frame_num": 9, "segment_frames": 5} | fields)
    voice = str(toys.voice(place / "v.wav", 1.0))
    return SpeechToVideo(**common | {"audio": voice, "frames_per_segment": 8, "lead_in": False} | fields)


@pytest.fixture(params=["speech_to_video", "image_to_video"])
def make(place: Path, request: pytest.FixtureRequest) -> Make:
    return maker(place, request.param)


def maker(place: Path, stage: str) -> Make:
    """A clip of two segments, its computed passes and its run; with the same models at every call."""
    module: Any = stage_module(stage)
    models = module.load(PROFILES["pocket"], "cpu")

    def made(on_step: Callable[[Step], None] | None = None, **fields: Any) -> Made:
        context = StageContext(Path(tempfile.mkdtemp(dir=place)), seed=1, on_step=on_step)
        with computed_passes(models.pipeline) as computed:
            (artifact,) = module.run(request(place, stage, **fields), models, context)
        frames = np.stack(list(media.read_frames(context.folder / artifact.path)))
        return frames, computed["passes"], context

    return made


@pytest.mark.parametrize(
    "fields", [{"speed": "balanced"}, {"speed": "fast"}, {"use_teacache": True, "teacache_thresh": 1.0}]
)
def test_each_segment_computes_what_the_plan_says_and_the_next_run_knows_nothing_of_it(
    make: Make, fields: dict[str, Any]
) -> None:
    exact, all_passes, context = make()
    assert all_passes == 2 * 2 * STEPS and "speed" not in context.facts
    frames, computed, context = make(**fields)
    facts = context.facts["speed"]
    assert facts["plan"][0] == "2" and facts["plan"][-1] != "0"
    assert computed == facts["computed"] == 2 * sum(map(int, facts["plan"])) < facts["passes"] == all_passes
    assert frames.shape == exact.shape and not np.array_equal(frames, exact)
    log = (context.folder / "log.txt").read_text()
    assert f"of {all_passes} forward passes {computed} were computed and {all_passes - computed} predicted" in log
    if "speed" in fields:
        assert facts["calibrated_for"] == f"pocket, {STEPS} steps" and "not calibrated" not in log
    assert np.array_equal(frames, make(**fields)[0]), "a second run must not see what the first one kept"
    assert np.array_equal(exact, make()[0])


def test_previews_and_progress_go_on_in_steps_that_are_predicted(make: Make) -> None:
    steps: list[Step] = []
    _, _, context = make(on_step=steps.append, speed="fast")
    denoised = [(step.segment, step.step) for step in steps if step.phase == "denoise" and step.step]
    assert denoised == [(segment, step) for segment in (1, 2) for step in range(1, STEPS + 1)]
    assert "no more previews" not in (context.folder / "log.txt").read_text()


def test_a_run_that_is_cancelled_leaves_nothing_behind(make: Make) -> None:
    exact, _, _ = make()

    def cancel(step: Step) -> None:
        if step.phase == "denoise" and step.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        make(on_step=cancel, speed="fast")
    frames, computed, _ = make()
    assert computed == 4 * STEPS and np.array_equal(frames, exact)


def test_without_guidance_the_passes_of_the_prompt_are_left_out_alone(make: Make) -> None:
    _, computed, context = make(speed="balanced", guidance_scale=1.0)
    facts = context.facts["speed"]
    assert computed == 2 * sum(digit != "0" for digit in facts["plan"]) and facts["passes"] == 2 * STEPS


def test_a_lora_whose_weight_changes_is_computed_with_at_once(place: Path) -> None:
    whole_file(place / "weights/loras/mov/character/ann.safetensors", toys.s2v_transformer(), 0)
    make = maker(place, "speech_to_video")
    _, computed, context = make(speed="fast", num_segments=1)
    changing = {"loras": "ann:1:0.2", "lora_schedule": "progress", "num_segments": 1}
    _, more, _ = make(speed="fast", **changing)
    # by progress, the weight is 1 up to step 2, between in the steps 3 and 4, and 0.2 from step 5 on
    plan = context.facts["speed"]["plan"]
    assert computed == sum(map(int, plan))
    assert more == computed + sum(2 - int(plan[step]) for step in (3, 4, 5))


def test_what_was_not_calibrated_is_stretched_and_said(place: Path) -> None:
    make = maker(place, "speech_to_video")
    _, computed, context = make(speed="balanced", num_inference_steps=6, num_segments=1)
    assert computed == sum(map(int, context.facts["speed"]["plan"])) < 12
    log = (context.folder / "log.txt").read_text()
    assert "Speed balanced was not calibrated for pocket, 6 steps: what was found for pocket, 8 steps is used" in log
    assert "bench calibrate speech-to-video --profile pocket --steps 6 finds out" in log


def test_the_manifest_and_the_file_say_it(place: Path) -> None:
    run = jobs.run_here(request(place, "speech_to_video", speed="fast", num_segments=1))
    assert run.status().state == "succeeded", run.status().error
    facts = run.manifest()["facts"]["speed"]
    assert facts["method"] == "fast" and facts["computed"] * 3 <= facts["passes"] == 2 * STEPS
    assert run.manifest()["request"]["speed"] == "fast"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"speed": "fast", "use_teacache": True}, "speed: must be exact with use_teacache (got 'fast')"),
        ({"speed": "balanced", "step_cache": "first_block"}, "speed: must be exact with step_cache (got 'balanced')"),
        ({"step_cache": "first_block", "use_teacache": True}, "use_teacache: must be false with step_cache (got True)"),
        ({"teacache_thresh": 0}, "teacache_thresh: must be a number above 0 and up to 1"),
        ({"speed": "quick"}, "speed: must be one of 'exact', 'balanced', 'fast'"),
    ],
)
def test_one_way_at_a_time(place: Path, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError, match=re.escape(problem)):
        request(place, "speech_to_video", **fields)


@pytest.mark.parametrize("stage", PLANS)
def test_the_plans_that_ship_save_what_their_names_say(stage: str) -> None:
    for entry in PLANS[stage]:
        for name in SPEEDS:
            plan = entry[name]
            assert len(plan) == entry["steps"] and plan[0] == "2" and plan[-1] in "12"
        assert 2 * len(plan) / sum(map(int, entry["fast"])) >= SPEEDS["fast"]
    for name in ("speech_to_video", "image_to_video"):
        assert {(entry["profile"], entry["steps"]) for entry in PLANS[name]} >= {("pocket", 8)}


@given(
    plan=st.sampled_from([entry[name] for entries in PLANS.values() for entry in entries for name in SPEEDS]),
    steps=st.integers(1, 100),
)
def test_a_plan_of_any_length_begins_and_ends_computed_and_keeps_its_share(plan: str, steps: int) -> None:
    found = speed.stretched(plan, steps)
    assert len(found) == steps and found[0] == "2" and found[-1] != "0"
    if steps >= len(plan):
        share, wanted = (sum(map(int, each)) / len(each) for each in (found, plan))
        assert share == pytest.approx(wanted, abs=0.3)


def test_plans_of_a_profile_come_before_those_of_another(tmp_path: Path) -> None:
    table = tmp_path / "speed.toml"
    table.write_text(
        '[[speech_to_video]]\nprofile = "pocket"\nsteps = 8\nfast = "20000002"\n'
        '[[speech_to_video]]\nprofile = "full"\nsteps = 4\nfast = "2002"\n'
    )
    assert speed.plan_for("speech_to_video", "full", 4, "fast", table) == ("2002", "full, 4 steps")
    assert speed.plan_for("speech_to_video", "full", 8, "fast", table)[1] == "full, 4 steps"
    assert speed.plan_for("speech_to_video", "pocket", 8, "fast", table) == ("20000002", "pocket, 8 steps")

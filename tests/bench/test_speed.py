"""Plans that are calibrated, and the figures and the picture of what each way to save passes costs."""

import itertools
import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests import toys
from tests.toy_i2v import i2v_pipeline
from training.pocket.saving import save_all_parts
from wanavatar_lab.bench import speed
from wanavatar_lab.bench.__main__ import main
from wanavatar_lab.errors import LabError
from wanavatar_lab.stages import kernels

SIGMAS = [1.0, 0.8, 0.5, 0.2]


@pytest.fixture
def toy_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toys.pocket_weights(tmp_path / "weights")
    save_all_parts(i2v_pipeline(), "image_to_video", tmp_path / "weights")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path


def last_latents(plan: str, flows: np.ndarray, networks: list[nn.Module], guidance: list[float]) -> np.ndarray:
    """What Euler steps over the flows of the exact clip give where those that the plan leaves out are predicted."""
    found, past = np.zeros(flows.shape[2]), dict[str, list[tuple[float, np.ndarray]]]()
    for step, digit in enumerate(plan):
        if step and networks[step] is not networks[step - 1]:
            past = {}
        values = []
        for level, value in (("1", flows[0, step]), ("2", flows[0, step] - flows[1, step])):
            known = past.setdefault(level, [])
            if digit >= level:
                known.append((SIGMAS[step], value))
            elif len(known) == 1:
                value = known[0][1]
            else:
                (a, x), (b, y) = known[-2:]
                start, end, at = (math.log((each + 0.001) / (1.001 - each)) for each in (a, b, SIGMAS[step]))
                value = y + (y - x) * (at - end) / (end - start)
            values.append(value)
        found += ([*SIGMAS, 0.0][step + 1] - SIGMAS[step]) * (values[0] + (guidance[step] - 1) * values[1])
    return found


@pytest.mark.parametrize("change", [None, 2])
def test_the_best_plan_of_so_many_passes_is_the_one_whose_latents_are_nearest(change: int | None) -> None:
    flows = np.random.default_rng(0).standard_normal((2, 4, 50)).cumsum(axis=1)
    first, second = nn.Identity(), nn.Identity()
    networks: list[nn.Module] = [first if change is None or step < change else second for step in range(4)]
    guidance, exact = [3.0, 3.0, 2.0, 2.0], last_latents("2222", flows, networks, [3.0, 3.0, 2.0, 2.0])
    rows = np.concatenate([flows[0], flows[0] - flows[1]])
    found = speed.best_plans(rows @ rows.T / 50, SIGMAS, guidance, networks)
    errors: dict[int, dict[str, float]] = {}
    for plan in map("".join, itertools.product("012", repeat=4)):
        if plan[0] == "2" and plan[3] != "0" and (change is None or plan[change] == "2"):
            away = np.square(last_latents(plan, flows, networks, guidance) - exact).mean()
            errors.setdefault(sum(map(int, plan)), {})[plan] = float(away)
    assert found.keys() == errors.keys()
    for passes, plan in found.items():
        assert errors[passes][plan] == pytest.approx(min(errors[passes].values()))


@pytest.mark.parametrize("stage", ["speech_to_video", pytest.param("image_to_video", marks=pytest.mark.slow)])
def test_a_calibration_adds_to_a_table_what_holds_for_its_clip(stage: str, toy_weights: Path) -> None:
    table = toy_weights / "speed.toml"
    table.write_text('[[speech_to_video]]\nprofile = "full"\nsteps = 4\nbalanced = "2222"\nfast = "2002"\n')
    request = speed.sample_request(stage, "pocket", 5, 8, resolution="64x64")
    for again in ("one", "two"):
        (toy_weights / again).mkdir()
        found = speed.calibrate(request, "cpu", toy_weights / again, table)
    assert found["balanced"]["psnr"] >= 36 and found["fast"]["computed"] <= 5, "both experts compute their first step"
    entries = tomllib.loads(table.read_text())
    (mine,) = (entry for entry in entries[stage] if entry["profile"] == "pocket")
    assert mine == {"profile": "pocket", "steps": 5} | {name: each["plan"] for name, each in found.items()}
    assert {"profile": "full", "steps": 4, "balanced": "2222", "fast": "2002"} in entries["speech_to_video"]


def test_a_clip_without_guidance_cannot_be_calibrated(toy_weights: Path) -> None:
    request = speed.sample_request("speech_to_video", "pocket", 2, 8, resolution="64x64", guidance_scale=1.0)
    with pytest.raises(LabError, match="2 passes for 2 steps; calibrate one segment, with guidance above 1"):
        speed.calibrate(request, "cpu", toy_weights, toy_weights / "speed.toml")


def test_the_trade_off_is_measured_drawn_and_put_into_a_table(
    toy_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = toy_weights / "speed.json", toy_weights / "speed.svg"
    words = "speed image-to-video --profile pocket --steps 8 --frames 4 --device cpu --modes exact fast --json"
    assert main([*words.split(), str(file)]) == 0
    figures = json.loads(file.read_text())
    exact, fast = figures["rows"]
    assert (exact["mode"], exact["computed"], exact["psnr"]) == ("exact", 16, None)
    assert fast["computed"] * 3 <= fast["passes"] == 16 and fast["psnr"] > 10
    out = capsys.readouterr().out
    assert f"| image to video, pocket | 8 | fast | {fast['computed']} of 16 |" in out
    assert main(["draw-speed", str(file), "--into", str(picture)]) == 0
    drawn = picture.read_text()
    assert "times fewer passes than exact" in drawn or "<svg" in drawn
    assert main(["draw-speed", str(file), "--into", str(picture)]) == 0
    assert picture.read_text() == drawn, "the same figures give the same file"


def test_psnr() -> None:
    frames = np.zeros((1, 2, 2, 3))
    assert speed.psnr_of(frames, frames) == math.inf
    assert speed.psnr_of(frames + 255, frames) == 0
    assert speed.psnr_of(frames + 2.55, frames) == pytest.approx(40)


def test_a_layer_that_every_computed_pass_runs_is_counted() -> None:
    pipeline = i2v_pipeline()
    with speed.computed_passes(pipeline) as computed, torch.no_grad():
        for network in (pipeline.transformer, pipeline.transformer_2):
            network.blocks[-1].ffn(torch.zeros(1, 2, 24))
    assert computed["passes"] == 2


@pytest.mark.slow  # it compiles
def test_kernels_are_measured_plain_and_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kernels.json"
    words = ["kernels", "--size", "tiny", "--device", "cpu", "--json", str(file)]
    monkeypatch.setattr(kernels, "BACKEND", "eager")
    try:
        assert main(words) == 0
        rows = json.loads(file.read_text())["rows"]
        plain, compiled, *in_float8 = rows
        kinds = [("none", False), ("none", True), ("fp8", False), ("fp8", True)]
        assert [(row["quantization"], row["compiled"]) for row in rows] == kinds
        assert plain["difference"] == 0 and compiled["difference"] < 1e-4 and compiled["forward_s"] > 0
        assert all(1e-3 < row["difference"] < 5e-2 for row in in_float8)
        out = capsys.readouterr().out
        assert "| cpu, 96x64x8 | sdpa | yes | none |" in out and "| cpu, 96x64x8 | sdpa | yes | fp8 |" in out

        def broken(*_: object) -> object:
            raise RuntimeError("no compiler here")

        monkeypatch.setattr(kernels, "BACKEND", broken)
        assert main(words) == 1, "a failure must not look like a figure"
        assert "no compiler here" in json.loads(file.read_text())["rows"][1]["error"]
        assert "| cpu, 96x64x8 | sdpa | failed |" in capsys.readouterr().out
    finally:
        torch._dynamo.reset()

"""The benches run without a GPU, and count what the networks really compute and hold."""

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.memory.test_model_offload import clip, is_on, moving, picture
from wanavatar_lab.bench import random_models
from wanavatar_lab.bench.__main__ import main
from wanavatar_lab.bench.cases import CASES, read_cases
from wanavatar_lab.bench.network import random_inputs, random_model
from wanavatar_lab.bench.offload import WAYS
from wanavatar_lab.bench.random_models import random_pipeline
from wanavatar_lab.bench.ranks import in_processes
from wanavatar_lab.bench.stages import RandomStage
from wanavatar_lab.bench.table import tables
from wanavatar_lab.bench.watch import Watch, clock_and_power, read_clocks
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import Workload, model_offload, usual_workload
from wanavatar_lab.memory.activations import FACTORS, need
from wanavatar_lab.memory.apply_offload import networks
from wanavatar_lab.memory.components import PUBLISHED, dimensions
from wanavatar_lab.memory.estimate_time import forward_flops
from wanavatar_lab.memory.pinned import PinnedWeights
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.s2v import SegmentMemory

STAGES = ("text_to_image", "image_to_video", "speech_to_video")
MAKE = {"text_to_image": picture, "image_to_video": moving, "speech_to_video": clip}


@cache
def plainly_made(stage: str) -> torch.Tensor:
    """What the random networks of a stage make, without offload."""
    return MAKE[stage](random_pipeline(stage, "tiny", torch.float32))


def test_the_counted_work_is_the_work_done() -> None:
    device = torch.device("cpu")
    model = random_model("tiny", torch.float32, device)
    inputs = random_inputs(model, 128, 192, 16, device, torch.float32)

    memory = SegmentMemory()
    with torch.no_grad():
        model(**inputs, memory=memory)
        with FlopCounterMode(display=False) as counter:
            model(**inputs, memory=memory)
    counted = forward_flops(Workload("speech_to_video", 192, 128, 16), **dimensions(model.config))
    # patches, time and the audio's few tokens are left out of the formula, and are little even at this size
    assert sum(counted) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_tiny_is_small_enough_for_a_cpu_and_shows_progress(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", "bench --size tiny --device cpu --json".split())
    monkeypatch.delitem(sys.modules, "wanavatar_lab.bench.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("wanavatar_lab.bench", run_name="__main__")
    assert ended.value.code == 0
    said = capfd.readouterr()
    figures = json.loads(said.out)
    assert figures["pixels"] == "96x64x8"
    assert figures["forward_s"] > 0
    assert figures["parameters"] > 1_000_000
    assert "peak_memory_gb" not in figures, "the memory of a CPU is not measured, so no figure is given"
    assert [line.partition(" ")[0] for line in said.err.splitlines() if line.endswith("…")] == [
        *("Matrix", "Random", "The", "2"),
    ]


def test_what_an_adapter_adds_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--size tiny --height 64 --width 64 --frames 8 --dtype float32 --warm-up 0 --repeats 1 --device cpu --json"
    # the matrix product, the first pass, others, three times without and with the LoRA, once with PEFT's own layers
    seconds = iter([1.0, 9.0, 2.0, 2.0, 2.2, 2.5, 2.1, 3.0, 2.3, 2.4])

    def timed(call: Callable[[], Any], *args: Any, **kwargs: Any) -> float:
        call()
        return next(seconds)

    monkeypatch.setattr("wanavatar_lab.bench.network.median_seconds", timed)
    assert main([*words.split(), "--adapter-rank", "4"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["adapter_without_s"], figures["adapter_forward_s"]) == (2.0, 2.1)
    assert (figures["adapter_adds"], figures["adapter_adds_by_peft"]) == (0.05, 0.2)


def test_the_stages_run_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    again = "speech-to-video:64x80x4/2"
    words = ["text-to-image", "upscale", "image-to-video", "speech-to-video", again]
    assert main(["stages", *words, "--size", "tiny", "--device", "cpu", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    cases = figures["cases"]
    assert [case["stage"] for case in cases] == [*(case.stage for case in CASES["tiny"]), "speech_to_video"]
    assert [case["was_warm"] for case in cases] == [False] * 4 + [True]
    assert [len(case["step_seconds"]) for case in cases] == [3, 0, 3, 2, 1]
    assert [case.get("passes") for case in cases] == [1, 1, 2, 2, 2]
    calls = {name: network["calls"] for name, network in cases[2]["networks"].items()}
    assert calls["transformer"] + calls["transformer_2"] == 4 * 2 and calls["transformer_2"] > 0
    assert (calls["vae.decode"], calls["text_encoder"]) == (1, 2)
    assert {"text_to_image/full", "upscale/full", "image_to_video/full"} <= set(cases[-1]["waiting"])
    assert main(["table", str(file)]) == 0
    table = capsys.readouterr().out
    assert "| speech to video | 64×80×4 | none | cached |" in table


def test_a_case_that_fails_reports_why_and_the_others_run(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    # no multiple of 4
    words = ["speech-to-video:64x64x8/1", "image-to-video:64x64x6/1", "text-to-image"]
    assert main(["stages", *words, "--size", "tiny", "--device", "cpu", "--json", str(file)]) == 1
    cases = json.loads(file.read_text())["cases"]
    assert ["error" in case for case in cases] == [False, True, False]
    assert "frame_num" in cases[1]["error"]
    assert "failed: " in tables([json.loads(file.read_text())])


def test_a_limit_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "upscale", "--size", "tiny", "--device", "cpu", "--memory-gb", "24"]) == 1
    assert "--memory-gb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("round --size tiny", "did you mean 'rounding'?"),
        ("anything", "there are stages, offload"),
        ("kernels --size tiny --clip 64 100 8", "64, 100 and 8; give height and width in multiples of 16"),
        ("rounding --size tiny --clip 0 96 8", "0, 96 and 8; give"),
        ("--size tiny --frames 6", "64, 96 and 6; give"),
        (
            "rounding --size tiny --device cpu --attention flash4",
            "flash4: cpu does not compute with it. Give auto, sdpa.",
        ),
        ("rounding --device cpu --processes 1000", "GB of main memory"),
        ("ranks --device cpu --gpus 1000", "--size tiny"),
    ],
)
def test_what_no_bench_can_measure_is_refused_in_a_line(
    words: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 1
    said = capsys.readouterr()
    assert answer in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("rounding --size tiny --processes 1", "--processes: must be 2 or more (got 1)"),
        ("ranks --size tiny --gpus 1", "--gpus: must be 2 or more (got 1)"),
        ("parts --size tiny --device cuda:99", "--device: 'cuda:99' is not there"),
        ("stages --size tiny --device gpu", "--device: 'gpu' is not a device"),
    ],
)
def test_an_option_that_says_nothing_is_refused(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2 and answer in capsys.readouterr().err


def _end_by_signal(rank: int, _world: int, _folder: Path) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)  # ended with the other one, and not named


@pytest.mark.parametrize("words", ["", "kernels", "parts speech-to-video:480x832x80 --parts transformer"])
def test_a_network_that_main_memory_does_not_hold_is_refused(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(random_models, "free_host_bytes", lambda: 10**8)
    assert main([*words.split(), "--device", "cpu"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "GB of main memory for this, and 100.0 MB are free. --size tiny runs anywhere." in said


@pytest.mark.slow  # processes import torch
def test_a_process_that_ends_is_named_with_how() -> None:
    with pytest.raises(LabError, match=r"\(rank 1 of 2: signal 9, SIGKILL[^;]*\)"):
        in_processes(_end_by_signal, 2)


def test_reading_from_a_disk_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    words = ["files", "--stage", "image-to-video", "--folder", str(tmp_path / "weights")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_WEIGHTS", "")
        assert main([*words, "--size", "tiny", "--device", "cpu", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    there = sum(found.stat().st_size for found in (tmp_path / "weights").rglob("*") if found.is_file())
    assert figures["bytes"] == there > 0
    assert figures["load_seconds"] > 0 and figures["mode"] == "none"
    assert "image to video" in tables([figures])


def test_cases_are_read_as_they_are_written() -> None:
    assert read_cases([], "published") == list(CASES["published"])
    assert [(case.width, case.height) for case in read_cases(["speech-to-video"], "published")] == [
        (480, 832),
        (720, 1280),
    ]
    (case,) = read_cases(["image-to-video:720x1280x49/2"], "published")
    assert (case.width, case.height, case.frames, case.steps) == (720, 1280, 49, 2)
    with pytest.raises(LabError, match=r"nonsense.*speech-to-video"):
        read_cases(["nonsense"], "published")


@pytest.mark.parametrize("stage", STAGES)
def test_random_weights_are_finite_and_make_something(stage: str) -> None:
    pipeline = random_pipeline(stage, "tiny", torch.float32)
    for network in networks(pipeline).values():
        assert all(bool(parameter.abs().max() > 0) for parameter in network.parameters())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    made = MAKE[stage](pipeline)
    assert bool(made.isfinite().all()) and float(made.std()) > 0


def test_random_weights_keep_the_scale_of_what_they_multiply() -> None:
    weight = random_models.random_tensor((4000, 5000), torch.float32)  # more than are drawn
    given = torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))
    assert float((weight @ given).std()) == pytest.approx(1, rel=0.05)
    assert not torch.equal(weight[0], weight[3355]), "rows differ where the drawn numbers repeat"


@pytest.mark.parametrize("way", ["model", "group"])
@pytest.mark.parametrize("stage", STAGES)
def test_watching_changes_no_result(stage: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_offload, "is_on_device", is_on)
    wanted = plainly_made(stage)
    pipeline = random_pipeline(stage, "tiny", torch.float32)
    watch = Watch(networks(pipeline))
    cpu = torch.device("cpu")
    if way == "model":
        model_offload.enable_model_offload(list(networks(pipeline).values()), cpu)
        onload = PinnedWeights.onload

        def slowly(weights: PinnedWeights, device: torch.device) -> None:
            time.sleep(0.02)
            onload(weights, device)

        monkeypatch.setattr(PinnedWeights, "onload", slowly)
    else:
        pipeline.enable_group_offload(onload_device=cpu, offload_type="leaf_level")
    assert torch.equal(MAKE[stage](pipeline), wanted)
    assert {name.partition(".")[0] for name in watch.calls} == networks(pipeline).keys()
    calls = [call for some in watch.calls.values() for call in some]
    assert all(call.seconds > 0 for call in calls)
    if way == "model":
        assert max(call.arrival_seconds for call in calls) >= 0.02, "the first call of each waits for its weights"
    watch.begin()
    assert not watch.calls


@pytest.mark.parametrize("stage", [*STAGES, "upscale"])
def test_measured_bytes_become_the_factor_that_would_plan_them(stage: str) -> None:
    for component in PUBLISHED[stage]:
        needed = need(usual_workload(stage, "full"), component)
        assert needed.factor_for(needed.bytes) == pytest.approx(FACTORS[needed.factor], rel=1e-3)
        assert needed.factor_for(2 * needed.bytes) > FACTORS[needed.factor]


def test_the_memory_that_a_random_stage_loads(tmp_path: Path) -> None:
    assert RandomStage("speech_to_video", "published", tmp_path).bytes_to_load() == pytest.approx(46.3e9, rel=0.01)
    tiny = RandomStage("speech_to_video", "tiny", tmp_path)
    models: Any = tiny.load(PROFILES["full"], "cpu")
    assert tiny.bytes_to_load() <= models.host_bytes() < 10e6


def test_an_upscaler_file_has_the_published_tensors(tmp_path: Path) -> None:
    file = tmp_path / "x2.pth"
    random_models.write_random_upscaler(file, "published")
    state = torch.load(file, weights_only=True)["params_ema"]
    assert sum(tensor.numel() for tensor in state.values()) == PUBLISHED["upscale"][0].parameters
    assert state["body.22.rdb3.conv5.weight"].shape == (64, 192, 3, 3)


def test_the_documentation_has_the_figures_that_were_measured(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    measured = sorted((docs / "measured").glob("*.json"))
    assert measured
    copy = tmp_path / "performance.md"
    copy.write_text((docs / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["table", *map(str, measured), "--into", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == (docs / "performance.md").read_text(encoding="utf-8")


def test_tables_need_their_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, text = tmp_path / "figures.json", tmp_path / "text.md"
    figures.write_text('{"bench": "stages", "device": "cpu", "memory_limit_bytes": null, "cases": []}')
    text.write_text("no marks")
    assert main(["table", str(figures), "--into", str(text)]) == 1
    assert "<!-- figures -->" in capsys.readouterr().err
    assert text.read_text() == "no marks"


@pytest.mark.gpu
def test_the_bench_keeps_to_a_limit_and_says_what_it_took(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    words = ["stages", "speech-to-video", "text-to-image", "--size", "tiny", "--memory-gb", "8", "--json", str(file)]
    assert main(words) == 0
    figures = json.loads(file.read_text())
    assert figures["memory_limit_bytes"] == 8e9 < figures["gpu_bytes"]
    assert torch.cuda.get_per_process_memory_fraction() == 1
    for case in figures["cases"]:
        assert 0 < case["peak_bytes"] <= case["reserved_bytes"] < 8e9
        assert case["mode"] == "none"
        assert case["units"]["transformer"]["measured"] > 0
    assert "of its memory; pinned memory comes at" in tables([figures])


@pytest.mark.slow  # a process for each way; the next test has the command and its table
def test_offloading_is_measured_in_every_way_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    words = ["offload", "speech-to-video:64x64x8/3", "speech-to-video:64x64x4/2", "--ways", "group", "diffusers-block"]
    assert main([*words, "--size", "tiny", "--device", "cpu", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert [row["way"] for row in figures["rows"]] == ["group", "diffusers-block"]
    for row in figures["rows"]:
        assert [(case["frames"], len(case["step_seconds"])) for case in row["cases"]] == [(8, 2), (4, 1)]
        # a step is one pass
        assert len(row["cases"][0]["networks"]["transformer"]["seconds"]) == 3
        assert row["load_seconds"] > 0 and row["host_resident_bytes"] > 0
    assert "| speech to video | – | diffusers-block | 64×64×8 |" in tables([figures])
    assert main(["offload", "upscale", "--size", "tiny", "--device", "cpu"]) == 1
    assert "upscale is not measured here" in capsys.readouterr().err


def test_a_way_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    # no multiple of 4
    words = ["offload", "image-to-video:64x64x6/2", "--ways", "group", "diffusers-leaf"]
    assert main([*words, "--size", "tiny", "--device", "cpu", "--json", str(file)]) == 1
    rows = json.loads(file.read_text())["rows"]
    assert ["frame_num" in row["error"] for row in rows] == [True, True]
    assert "failed: " in tables([json.loads(file.read_text())])


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if way.apply is not None])
@pytest.mark.parametrize("stage", ["image_to_video", "speech_to_video"])
def test_diffusers_ways_make_the_same(stage: str, way: str) -> None:
    wanted = plainly_made(stage)
    pipeline = random_pipeline(stage, "tiny", torch.float32)
    apply = WAYS[way].apply
    assert apply is not None
    apply(pipeline, torch.device("cpu"))
    made = MAKE[stage](pipeline)
    if "fp8" in way:
        assert not torch.equal(made, wanted) and (made - wanted).abs().mean() < 0.1
    else:
        assert torch.equal(made, wanted)


def test_two_results_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"attention": "sdpa", "compiled": True, "first_forward_s": 20.0, "forward_s": 4.0, "difference": 0.0}
    other = row | {"attention": "cudnn"}
    figures = {"bench": "kernels", "device": "a GPU", "pixels": "832x480x80"}
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(figures | {"rows": [row, other, {"attention": "xformers", "error": "absent"}]}))
    after.write_text(json.dumps(figures | {"rows": [row | {"forward_s": 3.0, "peak_memory_gb": 38.0}]}))
    assert main(["compare", str(before), str(after)]) == 0
    said = capsys.readouterr().out
    assert "| a GPU, 832x480x80, sdpa, yes, none | a pass | 4.00 s | 3.00 s | -25.0% |" in said
    assert "Only before: a GPU, 832x480x80, cudnn, yes, none." in said and "xformers" not in said
    after.write_text(json.dumps(figures | {"rows": [other | {"compiled": False}]}))
    assert main(["compare", str(before), str(after)]) == 1
    assert "no case in common" in capsys.readouterr().err
    after.write_text(json.dumps({"bench": "speed", "rows": []}))
    assert main(["compare", str(before), str(after)]) == 1
    assert "two benches, kernels and speed" in capsys.readouterr().err


def test_clock_and_power_are_means_of_what_the_driver_says() -> None:
    lines = ["1500, 690.5, 0x0000000000000004", "[N/A], 1, 0x0", "1600, 680.1, 0x0000000000000000", "17"]
    assert read_clocks("\n".join(lines)) == {"clock_mhz": 1550, "power_w": 685, "power_capped": 0.5}
    assert read_clocks("NVIDIA-SMI has failed") == {}
    with clock_and_power(torch.device("cpu")) as found:
        pass
    assert found == {}


@pytest.mark.slow
def test_ranks_are_measured_in_every_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ranks.json"
    words = ["ranks", "--size", "tiny", "--device", "cpu", "--gpus", "2", "--profile", "--json", str(file)]
    assert main(words) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["gpus"], row["shared"]) for row in rows] == [(1, "alone"), (2, "sequence 2"), (2, "guidance 2")]
    assert all(row["difference"] < 1e-5 and row["step_s"] == max(row["step_s_by_rank"]) > 0 for row in rows)
    assert all(row["kernels"]["attention"] > 0 and row["kernels"]["products"] > 0 for row in rows)
    assert tables([json.loads(file.read_text())]) in capsys.readouterr().out


@pytest.mark.slow
def test_how_much_a_shared_step_differs_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rounding.json"
    words = ["rounding", "--size", "tiny", "--device", "cpu", "--processes", "3", "--float32", "--json", str(file)]
    assert main(words) == 0
    one, three = json.loads(file.read_text())["rows"]
    assert (one["processes"], one["difference"], one["pass_difference"], one["pass_error"]) == (1, 0, 0, 0)
    # something was computed in another order, and nothing else
    assert three["processes"] == 3 and all(0 < three[name] < 1e-5 for name in ("difference", "pass_difference"))
    assert three["pass_error"] == three["pass_difference"]
    assert tables([json.loads(file.read_text())]) in capsys.readouterr().out

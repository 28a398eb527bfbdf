"""The command plan, in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wanavatar_lab.memory import Gpu, Machine, expected_seconds, stage_components, usual_workload
from wanavatar_lab.profiles import PROFILES

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WANAVATAR_WEIGHTS": str(ROOT / "weights"), "WANAVATAR_DEVICE": "cpu"}
    command = [sys.executable, "-m", "wanavatar_lab", "plan", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def test_a_plan_for_machines() -> None:
    done = run(
        *"speech-to-video --profile full --resolution 480x832 --gpu-memory 141 --host-memory 512 --json".split(),
        *("--gpu", "NVIDIA H200"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    plan: dict[str, Any] = json.loads(done.stdout)
    assert (plan["mode"], plan["device"], plan["gpu"], plan["weights_there"]) == ("none", "cuda", "NVIDIA H200", False)
    assert (plan["width"], plan["height"], plan["frames"], plan["passes"]) == (480, 832, 80, 2)
    sizes = {component["name"]: component["bytes"] for component in plan["components"]}
    assert sizes.keys() == {"text_encoder", "audio_encoder", "transformer", "vae"}
    assert 33.1e9 < sizes["transformer"] < 33.2e9
    assert plan["host_bytes"] == sum(sizes.values())
    assert sum(sizes.values()) < plan["peak_gpu_bytes"] < 60e9
    assert 100 < plan["expected_seconds"] < 400


def test_a_plan_for_people_names_the_mode_and_the_figures() -> None:
    done = run("image_to_video", "--gpu-memory", "24", "--host-memory", "128", "--resolution", "480p")
    assert done.returncode == 0
    for words in ("fp8 (8-bit weights, model by model)", "transformer_2", "GB of GPU memory", "time      unknown"):
        assert words in done.stdout


def test_a_plan_with_float8_has_smaller_weights() -> None:
    words = [*"image-to-video --gpu-memory 24 --host-memory 128 --resolution 480p --quantization".split()]
    done = run(*words, "fp8")
    assert "offload   model (model by model, products in float8)" in done.stdout
    assert "28.6 GB of weights, 16.7 GB on the GPU" in done.stdout and "memory    93.0 GB" in done.stdout
    refused = run(*words, "int4")
    assert refused.returncode != 0 and "quantization: must be one of 'none', 'fp8' (got 'int4')" in refused.stderr
    refused = run("text-to-image", "--gpu-memory", "24", "--quantization", "fp8")
    assert refused.returncode != 0 and "quantization: does not apply to text_to_image" in refused.stderr


def test_the_expected_time_is_said_where_the_gpu_is_known() -> None:
    done = run(*"speech-to-video --gpu-memory 141 --host-memory 512 --gpu".split(), "NVIDIA H200")
    assert re.search(r"time      about \d+:\d\d a segment, an estimate", done.stdout), done.stdout
    for words in (
        r"transformer +33\.2 GB of weights, 33\.2 GB on the GPU",
        r"peak +\d+\.\d GB",
        r"memory +46\.3 GB of main memory",
    ):
        assert re.search(words, done.stdout), done.stdout


def test_a_long_clip_is_planned_by_its_segments() -> None:
    words = "image-to-video --gpu-memory 24 --host-memory 128 --resolution 480x832".split()
    plans = {frames: json.loads(run(*words, "--frames", frames, "--json").stdout) for frames in ("81", "241")}
    assert [(plan["frames"], plan["segments"]) for plan in plans.values()] == [(81, 1), (81, 3)]
    assert plans["81"]["peak_gpu_bytes"] == plans["241"]["peak_gpu_bytes"]
    assert "480x832, 81 frames at a time, 3 segments," in run(*words, "--frames", "241").stdout


def test_a_plan_says_that_the_autoencoder_works_in_tiles() -> None:
    words = "image-to-video --gpu-memory 24 --host-memory 128 --resolution 720x1280".split()
    plan = json.loads(run(*words, "--json").stdout)
    assert (plan["mode"], plan["vae_tiled"]) == ("group", True)
    needs = {component["name"]: component["activation_bytes"] for component in plan["components"]}
    assert needs["vae"] < needs["transformer"] < plan["peak_gpu_bytes"] < 24e9
    assert "The VAE works in tiles, and needs 4.2 GB instead of 23.0 GB." in run(*words).stdout


def test_the_pocket_profile_is_planned_from_its_files() -> None:
    done = run("text-to-image", "--profile", "pocket", "--json")
    plan = json.loads(done.stdout)
    assert (plan["device"], plan["mode"], plan["weights_there"]) == ("cpu", "none", True)
    assert (plan["peak_gpu_bytes"], plan["expected_seconds"]) == (None, None)
    assert all(component["file_bytes"] for component in plan["components"])
    said = run("text-to-image", "--profile", "pocket").stdout
    assert "in main memory, " in said and "GPU" not in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("speech-to-video --gpu-memory 12 --host-memory 128", 1, "does not fit in any mode"),
        ("speech-to-video --gpu-memory 24 --host-memory 128 --offload none", 2, "offload: 'none' does not fit"),
        ("speech-to-video --gpu-memory 24 --host-memory 16", 1, "through main memory"),
        ("speech-to-video --gpu-memory lots", 2, "gpu-memory: must be a number above 0, at most 100000 (got 'lots')"),
        ("speech-to-video --gpu-memory nan", 2, "gpu-memory: must be a number above 0, at most 100000 (got 'nan')"),
        ("speech-to-video --frames 81 --gpu-memory 80", 2, "frames_per_segment: must be an integer from 4 to 160"),
        ("text-to-image --frames 4", 2, "does not apply"),
        ("upscale --resolution 64x64", 2, "resolution: '64x64' does not apply to upscale"),
        ("text-to-image --offload cpu", 2, "offload: must be one of 'auto'"),
        ("text-to-image --profile huge", 2, "'huge' is not a profile"),
        ("paint", 2, "'paint' cannot be planned"),
        ("text-to-image --gpus 3", 2, "3 are more than the 0 here"),
        ("text-to-image --gpu 4090", 2, "gpu: is of another machine, whose memory has to be known; give it too, as in"),
        ("", 2, "STAGE"),
    ],
)
def test_what_cannot_be_is_one_line(words: str, code: int, said: str) -> None:
    done = run(*words.split())
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_planning_for_another_machine_does_not_load_torch() -> None:
    words = ["plan", "speech-to-video", "--gpu-memory", "80", "--host-memory", "128"]
    code = f"import sys; from wanavatar_lab.cli import main; main({words}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "known"),
    [("NVIDIA H200", True), ("NVIDIA H100 80GB HBM3", True), ("NVIDIA L4", True), ("NVIDIA L40", False), (None, False)],
)
def test_the_time_is_said_for_known_gpus(name: str | None, known: bool) -> None:
    components = stage_components(PROFILES["full"], "text_to_image", Path("nowhere"), "cuda")
    machine = Machine((Gpu(name, 10**11, 10**11),), None)
    seconds = expected_seconds(usual_workload("text_to_image", "full"), components, machine)
    assert (seconds is not None) == known


def test_many_clips_cost_a_gpu_each() -> None:
    words = "speech-to-video --gpu H200 --gpu-memory 141 --host-memory 1000 --gpus 8 --resolution 480x832".split()
    one = json.loads(run(*words, "--json").stdout)
    many = json.loads(run(*words, "--clips", "1001", "--json").stdout)
    alone = one["seconds_by_gpus"]["1"]
    assert "clips" not in one and many["gpu_hours"] == pytest.approx(1001 * alone / 3600, abs=0.1)
    assert many["hours_here"] == pytest.approx(126 * alone / 3600, abs=0.1), "the last of 126 rounds has one clip"
    assert many["clips_an_hour_and_gpu"] == pytest.approx(3600 / alone, abs=0.1)

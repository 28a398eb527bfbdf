"""The benchmark runs where there is no GPU, and counts what the network really computes."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wanavatar_lab import bench
from wanavatar_lab.s2v import SegmentMemory


def test_the_counted_work_is_the_work_done() -> None:
    device = torch.device("cpu")
    model = bench.random_model("tiny", torch.float32, device)
    inputs = bench.random_inputs(model, 128, 192, 16, device, torch.float32)
    memory = SegmentMemory()
    with torch.no_grad():
        model(**inputs, memory=memory)
        with FlopCounterMode(display=False) as counter:
            model(**inputs, memory=memory)
    # patches, time and the audio's few tokens are left out of the formula, and are little even at this size
    assert bench.forward_flops(model, 128, 192, 16) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_it_says_its_figures_as_json() -> None:
    words = "--size tiny --height 64 --width 64 --frames 8 --dtype float32 --warm-up 0 --repeats 1 --device cpu --json"
    done = subprocess.run(
        [sys.executable, "-m", "wanavatar_lab.bench", *words.split()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["forward_s"] > 0
    assert figures["parameters"] > 1_000_000
    assert "peak_memory_gb" not in figures, "the memory of a CPU is not measured, so nothing is said of it"

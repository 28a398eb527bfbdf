"""Compiled blocks over a whole clip and over clips of other sizes, as a warm worker meets them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.s2v.toy import at_step, flow, relative_error, toy_inputs, toy_model
from wanavatar_lab.s2v import SegmentMemory

# a first segment and a later one at each size
CLIPS: list[dict[str, Any]] = [
    {"height": 8, "width": 8},
    {"height": 16, "width": 8},
    {"height": 12, "width": 16, "frames": 4},
]
SEGMENTS = [{**size, "motion": motion} for size in CLIPS for motion in (False, True)]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow  # it compiles eight graphs
def test_a_second_step_compiles_and_no_later_one() -> None:
    model, plain, compiler = toy_model(), toy_model(), CompileCounter()
    model.compile_repeated_blocks(fullgraph=True, backend=compiler)
    after: list[int] = []
    for segment in SEGMENTS:
        # with guidance there are two memories, which are of one kind to the compiler
        memories = [SegmentMemory(), SegmentMemory()]
        graphs = []
        for step in range(4):
            inputs = at_step(toy_inputs(**segment), step)
            for memory in memories:
                assert relative_error(flow(model, inputs, memory=memory), flow(plain, inputs)) <= 1e-6
            graphs.append(compiler.frame_count)
        assert graphs[0] == (after[-1] if after else 0), "the step that fills the memory is not worth a graph"
        assert len(set(graphs[1:])) == 1
        after.append(graphs[-1])
    # two kinds of block, times: the first shape, any length, any size. Beyond eight graphs torch gives up
    assert after[1] <= 4
    assert after[-1] <= torch._dynamo.config.recompile_limit
    assert after[-1] - after[-2] == 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor on a CPU needs the C++ compiler g++, and PATH has none")
def test_inductor_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = toy_model(num_layers=1, audio_inject_layers=(0,))
    inputs = toy_inputs()
    wanted = flow(model, inputs)
    model.compile_repeated_blocks(fullgraph=True)
    memory = SegmentMemory()
    for _ in range(2):
        assert relative_error(flow(model, inputs, memory=memory), wanted) <= 1e-5

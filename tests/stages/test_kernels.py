"""Compiled blocks and the backend of attention, from request to log: what is chosen, said, and never compiled again."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from tests import toys
from tests.lora.files import whole_file
from tests.s2v.toy import blocks, flow, relative_error, toy_inputs, toy_model
from wanavatar_lab import media
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import RequestError, SpeechToVideo
from wanavatar_lab.stages import kernels, speech_to_video
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan import attention

Make = Callable[..., tuple[np.ndarray, StageContext]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pocket_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def make(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Clips of three segments, by the same models."""
    for part in weights.iterdir():
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / part.name).symlink_to(part)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(kernels, "BACKEND", "eager")  # how often something is compiled does not depend on it
    whole_file(tmp_path / "weights/loras/mov/character/ann.safetensors", toys.s2v_transformer(), 0)
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    values = {"profile": "pocket", "image": str(toys.picture(tmp_path / "a.png")), "resolution": "64x64", "seed": 1}
    values |= {"audio": str(toys.voice(tmp_path / "v.wav", 1.5)), "frames_per_segment": 8, "lead_in": False}

    def made(**fields: Any) -> tuple[np.ndarray, StageContext]:
        context = StageContext(Path(tempfile.mkdtemp(dir=tmp_path)), seed=1)
        sizes = {"num_inference_steps": 3, "guidance_scale": 2.0}
        (artifact,) = speech_to_video.run(SpeechToVideo(**values | sizes | fields), models, context)
        return np.stack(list(media.read_frames(context.folder / artifact.path))), context

    yield made
    torch._dynamo.reset()


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def log_of(context: StageContext) -> str:
    return (context.folder / "log.txt").read_text() if (context.folder / "log.txt").exists() else ""


@pytest.mark.slow
def test_on_a_cpu_nothing_is_compiled_by_itself(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    before = graphs()
    plain, context = make(num_segments=1)
    assert graphs() == before and (context.facts["attention"], context.facts["compiled"]) == ("sdpa", False)
    assert "ompiled" not in log_of(context)
    monkeypatch.setenv("WANAVATAR_COMPILE", "on")
    compiled, context = make(num_segments=1)
    assert graphs() > before and context.facts["compiled"]
    assert "Blocks are compiled, which takes" in log_of(context)
    assert np.abs(compiled.astype(int) - plain).max() <= 1
    monkeypatch.setenv("WANAVATAR_COMPILE", "off")
    again, context = make(num_segments=1)
    assert np.array_equal(again, plain) and not context.facts["compiled"]


@pytest.mark.slow
def test_a_size_is_compiled_once_whatever_else_changes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_COMPILE", "on")
    before = graphs()
    make(num_segments=2)
    # a block with audio and one without, each for the first segment, which has no motion frames, and for a later one
    assert graphs() - before <= 4
    compiled = graphs()
    make()
    make(prompt="a person", negative_prompt="speaks", guidance_scale=3.0, seed=2)
    make(guidance_scale=1.0, num_inference_steps=4)
    make(speed="fast")
    assert graphs() == compiled, "segments, prompts, seeds, guidance, steps and predicted passes have the same graphs"
    plain, _ = make()
    with_lora, _ = make(loras="ann:1:0.2", lora_schedule="progress", num_inference_steps=6)
    layers = graphs()
    assert not np.array_equal(plain, with_lora[: len(plain)])
    make(loras="ann:0.4:0.7", lora_schedule="progress", num_inference_steps=6)
    make(loras="ann:0.3:0")
    assert graphs() == layers, "the weights of a LoRA are no constants of a graph"


@pytest.mark.slow
def test_a_size_seen_before_is_not_compiled_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_COMPILE", "on")
    make(num_segments=1)
    make(num_segments=1, resolution="64x96")
    both = graphs()
    make(num_segments=1)
    make(num_segments=1, resolution="64x96")
    assert graphs() == both


def test_where_compiling_fails_the_run_goes_on_and_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = make(num_segments=1)

    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(kernels, "BACKEND", broken)
    monkeypatch.setenv("WANAVATAR_COMPILE", "on")
    frames, context = make(num_segments=1)
    assert np.array_equal(frames, plain) and context.facts["compiled"] is False
    log = log_of(context)
    assert log.count("Compiling failed, and the blocks compute uncompiled") == 1 and "no compiler here" in log
    assert "WANAVATAR_COMPILE=off" in log


def test_a_step_cache_of_blocks_is_not_compiled(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_COMPILE", "on")
    before = graphs()
    _, context = make(step_cache="first_block", num_segments=1)
    assert graphs() == before
    assert "Blocks are not compiled: the step cache decides between blocks." in log_of(context)


def test_an_attention_that_is_not_there_is_refused_by_name(make: Make) -> None:
    before = graphs()
    said = "attention: must be auto or one of sdpa (got 'flash4'): cpu does not compute with it"
    with pytest.raises(RequestError, match=re.escape(said)):
        make(attention="flash4")
    _, context = make(attention="sdpa", num_segments=1, num_inference_steps=1)
    assert "ompiled" not in log_of(context) and graphs() == before, "on a CPU nothing is compiled by itself"
    assert context.facts["attention"] == "sdpa"


# --- the choice of a backend, by the clock of a GPU that is not there -------------------------------------------------


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was measured; flash4 is fastest of those that keep their precision, and sage of all."""
    seen: list[list[str]] = []
    times = {"sdpa": 4e-3, "cudnn": 3e-3, "flash4": 2e-3, "sage": 1e-3}

    def measure(_: str, candidates: list[str], *__: Any, gradients: bool) -> dict[str, float]:
        seen.append([*candidates, *(["gradients"] if gradients else [])])
        return {name: times[name] for name in candidates}

    monkeypatch.setattr(attention, "measure", measure)
    lacks = {**dict.fromkeys(times, ""), "flash3": "flash_attn_interface is not installed"}
    monkeypatch.setattr(attention, "lacks", lambda _: lacks)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    return seen


def test_the_fastest_is_measured_once_for_each_kind_of_network(tmp_path: Path, timed: list[list[str]]) -> None:
    kept = tmp_path / "cache" / "attention.json"
    for _ in range(2):
        name, why = attention.choose("auto", "cuda", 40, 128, torch.bfloat16, kept)
        assert (name, why) == ("flash4", "fastest of sdpa 4.00 ms, cudnn 3.00 ms, flash4 2.00 ms")
    assert timed == [["sdpa", "cudnn", "flash4"]], "sage is chosen by no clock"
    attention.choose("auto", "cuda", 12, 64, torch.bfloat16, kept)
    assert len(timed) == 2 and len(json.loads(kept.read_text())) == 2
    attention.choose("auto", "cuda", 12, 64, torch.bfloat16, kept, gradients=True)
    assert timed[2:] == [["sdpa", "cudnn", "flash4", "gradients"]], "a backward pass has a fastest one of its own"
    assert attention.choose("sage", "cuda", 40, 128, torch.bfloat16, kept) == ("sage", "as asked")
    with pytest.raises(RequestError, match="flash_attn_interface is not installed"):
        attention.choose("flash3", "cuda", 40, 128, torch.bfloat16, kept)


def test_an_installed_backend_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cute = tmp_path / "flash_attn" / "cute"
    cute.mkdir(parents=True)
    (cute.parent / "__init__.py").touch()
    (cute / "__init__.py").write_text("raise ImportError('no module cutlass.cute')")
    monkeypatch.syspath_prepend(tmp_path)
    why = "flash_attn.cute cannot be used: no module cutlass.cute"
    assert attention.lacks("cuda")["flash4"] == why
    with pytest.raises(RequestError, match=re.escape(why)):
        attention.choose("flash4", "cuda", 40, 128, torch.bfloat16, tmp_path / "attention.json")
    monkeypatch.setattr(attention, "kept_times", lambda *_: {"cudnn": 3e-3, "sdpa": 4e-3})
    chosen, said = attention.choose("auto", "cuda", 40, 128, torch.bfloat16, tmp_path / "attention.json")
    assert (chosen, said) == ("cudnn", f"fastest of cudnn 3.00 ms, sdpa 4.00 ms; {why}")


@pytest.mark.parametrize("text", ["", "[]", '{"A GPU": 3}', "\0"])
def test_a_damaged_file_of_times_is_measured_again(text: str, tmp_path: Path, timed: list[list[str]]) -> None:
    kept = tmp_path / "attention.json"
    kept.write_text(text)
    assert attention.choose("auto", "cuda", 40, 128, torch.bfloat16, kept)[0] == "flash4"
    assert attention.choose("auto", "cuda", 40, 128, torch.bfloat16, kept)[0] == "flash4"
    assert len(timed) == 1


def test_a_backend_of_ones_own_serves_self_attention_alone_and_compiles() -> None:
    calls: list[tuple[int, ...]] = []

    @torch.library.custom_op("wanavatar_tests::attend", mutates_args=())
    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(query.shape))
        made: torch.Tensor = dispatch_attention_fn(query, key, value, backend="native")
        return made.clone()

    @attend.register_fake
    def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(query)

    attention.register_backend("wanavatar_tests", lambda query, key, value: attend(query, key, value))
    assert AttentionBackendName("wanavatar_tests").value == "wanavatar_tests"
    network, inputs = toy_model(), toy_inputs()
    wanted = flow(network, inputs)
    for block in blocks(network):
        block.attn1.set_attention_backend("wanavatar_tests")
    assert relative_error(flow(network, inputs), wanted) < 1e-6
    assert len(calls) == len(network.blocks)
    kernels.compile_blocks(network, lambda error: pytest.fail(str(error)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BACKEND", "eager")
        kernels.forget_compiled(network)
        kernels.compile_blocks(network, lambda error: pytest.fail(str(error)))
        assert relative_error(flow(network, inputs), wanted) < 1e-5
    attention.use_backend(network, "sdpa")
    kernels.forget_compiled(network)
    assert relative_error(flow(network, inputs), wanted) < 1e-6
    torch._dynamo.reset()

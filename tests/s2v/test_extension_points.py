"""What diffusers offers every model works on this one: caches, adapters, compilation, casting, offload, backends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from peft import LoraConfig
from safetensors.torch import save_file

from tests import toys
from tests.s2v.toy import at_step, blocks, count_calls, flow, relative_error, toy_inputs, toy_model
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel


@pytest.fixture(autouse=True)
def active_backend() -> Iterator[None]:
    """Put back what diffusers takes for layers without a backend of their own, which every choice of one changes."""
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry._active_backend = before


def lora(seed: int = 0, rank: int = 2, targets: tuple[str, ...] = ("to_q", "to_k", "to_v")) -> LoraConfig:
    torch.manual_seed(seed)
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights=False)


@pytest.fixture
def model() -> WanS2VTransformer3DModel:
    return toy_model()


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


# --- training ---------------------------------------------------------------------------------------------------------


def gradients(model: WanS2VTransformer3DModel, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    model(**inputs, return_dict=False)[0].square().mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.eval()
    return found


@pytest.mark.parametrize("motion", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(model: WanS2VTransformer3DModel, motion: bool) -> None:
    inputs = toy_inputs(motion=motion)
    plain = gradients(model, inputs)
    model.enable_gradient_checkpointing()
    with count_calls({"block": blocks(model)[0].ffn}) as calls:
        again = gradients(model, inputs)
    assert calls["block"] == 2, "once forward, once more on the way back"
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, again[name], atol=1e-6), name


# --- step caches ------------------------------------------------------------------------------------------------------

CACHES = {
    "first block": FirstBlockCacheConfig(threshold=1e9),
    "mag": MagCacheConfig(num_inference_steps=6, retention_ratio=0.0, threshold=1e9, mag_ratios=[1.0] * 6),
}


def cached_steps(model: WanS2VTransformer3DModel, steps: list[dict[str, Any]]) -> list[torch.Tensor]:
    outputs = []
    for number, inputs in enumerate(steps):
        with model.cache_context("cond", step_index=number, sigma=0.9 - 0.1 * number, num_inference_steps=len(steps)):
            outputs.append(flow(model, inputs))
    return outputs


@pytest.mark.parametrize("name", CACHES)
def test_a_cached_step_hears_the_audio_once(model: WanS2VTransformer3DModel, name: str) -> None:
    inputs = toy_inputs()
    wanted = flow(model, inputs)
    model.enable_cache(CACHES[name])
    last = blocks(model)[-1]
    with count_calls({"last": last.ffn}) as calls:
        outputs = cached_steps(model, [inputs] * 4)
    assert calls["last"] < 4, "nothing was cached, so nothing was tested"
    for output in outputs:
        assert relative_error(output, wanted) < 1e-5
    model.disable_cache()
    assert relative_error(flow(model, inputs), wanted) < 1e-6


def test_a_threshold_of_nothing_caches_nothing(model: WanS2VTransformer3DModel) -> None:
    steps = [at_step(toy_inputs(), number) for number in range(3)]
    wanted = [flow(model, inputs) for inputs in steps]
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    for output, expected in zip(cached_steps(model, steps), wanted, strict=True):
        assert relative_error(output, expected) < 1e-6


@pytest.mark.parametrize("named", [None, [r"blocks\.\d+\.attn1"]], ids=["by default", "as told"])
def test_taylor_seer_predicts_a_still_step(model: WanS2VTransformer3DModel, named: list[str] | None) -> None:
    inputs = toy_inputs()
    wanted = flow(model, inputs)
    config = TaylorSeerCacheConfig(
        cache_interval=5,
        disable_cache_before_step=2,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=named,
    )
    model.enable_cache(config)
    heard = blocks(model)[0].audio_injection
    assert heard is not None
    parts = {"self": blocks(model)[0].attn1.to_q, "ffn": blocks(model)[0].ffn.net[2], "audio": heard.attn.to_q}
    with count_calls(parts) as calls:
        for output in cached_steps(model, [inputs] * 6):
            assert relative_error(output, wanted) <= 1e-6
    # steps 0, 1 and 3 are computed; the lips follow the audio in all of them
    assert calls == {"self": 3, "ffn": 3 if named is None else 6, "audio": 6}


def test_each_segment_starts_with_an_empty_cache() -> None:
    pipeline = toys.s2v_pipeline()
    arguments: dict[str, Any] = {
        "image": torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "audio": torch.randn(24_000, generator=torch.Generator().manual_seed(1)).numpy(),
        "prompt": "a person speaks",
        "negative_prompt": "",
        "height": 64,
        "width": 64,
        "frames_per_segment": 16,
        "num_inference_steps": 4,
        "output_type": "pt",
    }
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with count_calls({"last": blocks(pipeline.transformer)[-1].ffn}) as calls:
        frames = pipeline(**arguments).frames
    segments = 2
    assert calls["last"] == segments * 2, "the first step of each segment is computed, with and without guidance"
    assert torch.equal(frames, pipeline(**arguments).frames), "a second run must not see the first one's cache"


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_an_adapter_changes_the_output_by_its_weight(model: WanS2VTransformer3DModel) -> None:
    inputs = toy_inputs()
    plain = flow(model, inputs)
    model.add_adapter(lora(), adapter_name="one")
    full = flow(model, inputs)
    assert relative_error(full, plain) > 1e-3
    model.set_adapters("one", weights=0.0)
    assert relative_error(flow(model, inputs), plain) < 1e-6
    model.set_adapters("one", weights=0.5)
    half = flow(model, inputs)
    assert relative_error(half, plain) > 1e-3 and relative_error(half, full) > 1e-3
    model.set_adapters("one", weights=1.0)
    assert relative_error(flow(model, inputs, attention_kwargs={"scale": 0.5}), half) < 1e-5
    model.disable_lora()
    assert relative_error(flow(model, inputs), plain) < 1e-6
    model.enable_lora()
    model.fuse_lora()
    assert relative_error(flow(model, inputs), full) < 1e-5
    model.unfuse_lora()
    model.delete_adapters("one")
    assert relative_error(flow(model, inputs), plain) < 1e-5


def test_a_memory_is_told_when_adapters_change(model: WanS2VTransformer3DModel) -> None:
    inputs = toy_inputs()
    model.add_adapter(lora(targets=("to_k", "to_v")), adapter_name="one")
    memory = SegmentMemory()
    flow(model, inputs, memory=memory)
    model.set_adapters("one", weights=0.2)
    wanted = flow(model, inputs)
    memory.forget_projections()
    assert relative_error(flow(model, inputs, memory=memory), wanted) < 1e-6


def test_the_pipeline_loads_and_saves_an_adapter(tmp_path: Path) -> None:
    pipeline = toys.s2v_pipeline()
    transformer = pipeline.transformer
    names = {name for name, _ in transformer.named_modules() if name.endswith((".to_q", ".to_v"))}
    assert any("audio_injection" in name for name in names)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name in names:
        layer = transformer.get_submodule(name)
        weights[f"transformer.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator)
        weights[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=generator)
    save_file(weights, tmp_path / "one.safetensors")
    pipeline.load_lora_weights(str(tmp_path), weight_name="one.safetensors", adapter_name="one")
    wrapped = {name for name, module in transformer.named_modules() if hasattr(module, "lora_A")}
    assert wrapped == names
    name = sorted(names)[0]
    layer = transformer.get_submodule(name)
    merged = (
        layer.base_layer.weight
        + weights[f"transformer.{name}.lora_B.weight"] @ (weights[f"transformer.{name}.lora_A.weight"])
    )
    state = torch.randn(1, 3, layer.base_layer.in_features, generator=generator)
    assert torch.allclose(layer(state), torch.nn.functional.linear(state, merged, layer.base_layer.bias), atol=1e-4)
    pipeline.unload_lora_weights()
    assert not any(hasattr(module, "lora_A") for module in transformer.modules())


# --- compilation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", [True, False])
def test_blocks_compile_whole_and_once(model: WanS2VTransformer3DModel, motion: bool) -> None:
    steps = [at_step(toy_inputs(motion=motion), number) for number in range(4)]
    memory = SegmentMemory()
    wanted = [flow(model, inputs, memory=memory) for inputs in steps]
    torch._dynamo.utils.counters.clear()
    # fullgraph raises at a graph break; the backend is of no consequence for that, and eager is quick
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    memory = SegmentMemory()
    outputs = [flow(model, inputs, memory=memory) for inputs in steps]
    for output, expected in zip(outputs, wanted, strict=True):
        assert relative_error(output, expected) < 1e-5
    kinds = len({block.audio_injection is None for block in blocks(model)})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= kinds, "steps after the second compile nothing"


def test_a_block_compiles_for_training(model: WanS2VTransformer3DModel) -> None:
    inputs = toy_inputs()
    plain = gradients(model, inputs)
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    for name, gradient in gradients(model, inputs).items():
        assert torch.allclose(gradient, plain[name], atol=1e-5), name


# --- memory and number formats ----------------------------------------------------------------------------------------


def test_layerwise_casting_stores_in_eight_bits(model: WanS2VTransformer3DModel) -> None:
    inputs = toy_inputs()
    wanted = flow(model, inputs)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {p.dtype for name, p in model.named_parameters() if name.endswith("to_q.weight")}
    assert stored == {torch.float8_e4m3fn}
    kept = {p.dtype for name, p in model.named_parameters() if "scale_shift_table" in name or "causal_audio" in name}
    assert kept == {torch.float32}
    assert relative_error(flow(model, inputs), wanted) < 0.2
    assert relative_error(flow(model, inputs, memory=SegmentMemory()), wanted) < 0.2


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_gives_the_same(model: WanS2VTransformer3DModel, kind: str) -> None:
    inputs = toy_inputs()
    wanted = flow(model, inputs)
    blocks_per_group = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    # from memory to memory: what is moved and when is the same as with a GPU, and a test for that is marked gpu
    model.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type=kind, **blocks_per_group
    )
    memory = SegmentMemory()
    for _ in range(2):
        assert relative_error(flow(model, inputs, memory=memory), wanted) < 1e-6
    assert memory.blocks[0].text is not None, "what a step keeps must outlive the offload's hooks"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_to_a_gpu(model: WanS2VTransformer3DModel, kind: str) -> None:
    wanted = flow(model, toy_inputs())
    device = torch.device("cuda")
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in toy_inputs().items()}
    blocks_per_group = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    model.enable_group_offload(onload_device=device, offload_type=kind, use_stream=True, **blocks_per_group)
    memory = SegmentMemory()
    for _ in range(2):
        assert relative_error(flow(model, inputs, memory=memory).cpu(), wanted) < 1e-3


@pytest.mark.gpu
def test_model_offload_to_a_gpu() -> None:
    pipeline = toys.s2v_pipeline()
    pipeline.enable_model_cpu_offload()
    frames = pipeline(
        image=torch.rand(3, 64, 64),
        audio=torch.randn(16_000).numpy(),
        prompt="a person",
        negative_prompt="",
        height=64,
        width=64,
        frames_per_segment=16,
        num_inference_steps=2,
        output_type="pt",
    ).frames
    assert frames.isfinite().all()


# --- attention --------------------------------------------------------------------------------------------------------


def test_attention_backends_agree(model: WanS2VTransformer3DModel) -> None:
    inputs = toy_inputs()
    wanted = flow(model, inputs)
    model.set_attention_backend("_native_math")
    assert relative_error(flow(model, inputs), wanted) < 1e-5
    model.reset_attention_backend()
    assert relative_error(flow(model, inputs), wanted) < 1e-6
    with pytest.raises(ValueError, match="nothing"):
        model.set_attention_backend("nothing")


def test_fused_projections_give_the_same(model: WanS2VTransformer3DModel) -> None:
    inputs = toy_inputs()
    wanted = flow(model, inputs)
    model.fuse_qkv_projections()
    assert hasattr(blocks(model)[0].attn1, "to_qkv")
    assert relative_error(flow(model, inputs), wanted) < 1e-5
    model.unfuse_qkv_projections()
    assert relative_error(flow(model, inputs), wanted) < 1e-6

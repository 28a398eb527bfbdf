"""What a forward pass keeps: the gradients are the same, and attention is computed as often as is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition  # type: ignore[import-untyped]
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from tests.s2v.toy import CONFIG, relative_error, toy_inputs, toy_model
from tests.training.toy import toy_with_adapter
from training.model import host_memory
from training.model.activations import Activations, use_attention_backend
from training.model.host_memory import HostMemory
from wanavatar_lab.wan import attention
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

BLOCKS = CONFIG["num_layers"]
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class Counting(TorchDispatchMode):
    """Counts how often self-attention is computed."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == ATTENTION and args[0].shape[-2] == args[1].shape[-2]:
            self.count += 1
        return func(*args, **(kwargs or {}))


def gradients(activations: Activations | None, steps: int = 1) -> tuple[Tensor, int]:
    """Those of a LoRA after the last of some steps, and how often self-attention was computed in it."""
    network, trained = toy_with_adapter()
    if activations:
        activations.install(network)
    for _ in range(steps):
        network.zero_grad()
        with Counting() as counting:
            network(**toy_inputs(), return_dict=False)[0].square().mean().backward()
    return torch.cat([matrix.grad.flatten() for matrix in trained if matrix.grad is not None]), counting.count


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what has left, toy tensors being large enough; the text, longer than a toy's sequence, aside."""
    shapes: list[torch.Size] = []
    leave = HostMemory._buffer

    def noted(memory: HostMemory, tensor: Tensor) -> Tensor:
        if TEXT_LENGTH not in tensor.shape:
            shapes.append(tensor.shape)
        return leave(memory, tensor)

    monkeypatch.setattr(host_memory, "LEAST_BYTES", 20_000)
    monkeypatch.setattr(HostMemory, "_buffer", noted)
    return shapes


@pytest.mark.parametrize(("keep", "computed"), [(0, 2 * BLOCKS), (1, 2 * BLOCKS - 1), (None, BLOCKS)])
@pytest.mark.parametrize("offload", [0, 2, None])
def test_gradients_are_the_same_whatever_is_kept(
    keep: int | None, computed: int, offload: int | None, left: list[torch.Size]
) -> None:
    wanted, _ = gradients(None)
    found, count = gradients(Activations(keep, offload), steps=2)
    assert torch.equal(found, wanted) and count == computed
    # in each of the steps a block's input, and the output of its attention where that is kept
    blocks = BLOCKS if offload is None else offload
    assert len(left) == 2 * (blocks + min(blocks, BLOCKS if keep is None else keep))


def test_compiled_blocks_keep_attention_and_give_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, left: list[torch.Size]
) -> None:
    computed: dict[str, list[int]] = {"forward": [], "backward": []}

    def counted(kind: str) -> Any:
        def compiler(graph: Any, _: Any) -> Any:
            computed[kind].append(sum(node.target == ATTENTION for node in graph.graph.nodes))
            return make_boxed_func(graph.forward)

        return compiler

    backend = aot_autograd(
        fw_compiler=counted("forward"),
        bw_compiler=counted("backward"),
        partition_fn=min_cut_rematerialization_partition,
    )
    compiled = torch.compile
    # the graphs are what matters; to make machine code of them takes a minute
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled(function, backend=backend, **options))
    found, _ = gradients_compiled(Activations(None, None, compile=True))
    assert len(left) == 2 * BLOCKS
    assert relative_error(found, gradients(None)[0]) < 1e-5
    # blocks that hear and blocks that do not; the way back computes attention to text and audio again, and no other
    assert sorted(computed["forward"]) == [2, 3] and sorted(computed["backward"]) == [1, 2]


def gradients_compiled(activations: Activations) -> tuple[Tensor, int]:
    """As above, but uncounted: what watches single operators keeps code from being compiled."""
    network, trained = toy_with_adapter()
    activations.install(network)
    network(**toy_inputs(), return_dict=False)[0].square().mean().backward()
    return torch.cat([matrix.grad.flatten() for matrix in trained if matrix.grad is not None]), 0


def test_what_leaves_comes_back_as_it_was_and_its_buffers_serve_again() -> None:
    memory = HostMemory(least_bytes=64)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(4, 8, generator=generator, requires_grad=True)
    buffers: set[int] = set()
    for _ in range(3):
        with memory.hooks():
            # neither is contiguous when it is saved
            turned = first.t()
            result = (turned * turned.exp()).sum()
        (found,) = torch.autograd.grad(result, first)
        assert torch.allclose(found, (1 + first) * first.exp())
        buffers |= {buffer.data_ptr() for buffer in memory._free}
    assert 0 < len(buffers) <= 3


def test_samples_of_other_shapes_share_the_buffers_of_the_largest() -> None:
    memory = HostMemory(least_bytes=64)

    def sample(*shape: int) -> None:
        numbers = torch.ones(shape, requires_grad=True)
        with memory.hooks():
            result = numbers.exp().exp().sum()  # keeps both results of exp
        result.backward()

    shapes = [(4, 8), (10, 20), (20, 10), (5, 6, 7), (3, 50), (10, 20)]
    largest = 0
    for shape in shapes:
        sample(*shape)
        largest = max(largest, 4 * torch.Size(shape).numel())
        assert memory.nbytes == 2 * largest
    with memory.hooks():
        unused = torch.ones(10, 20, requires_grad=True).exp().exp()
    del unused  # without a backward pass, an error for example
    assert memory.nbytes == 2 * largest == sum(buffer.nbytes for buffer in memory._free)


def test_small_tensors_and_weights_stay() -> None:
    weight = torch.ones(100, requires_grad=True)
    memory = HostMemory(least_bytes=64)
    small = torch.ones(2, requires_grad=True)
    with memory.hooks([weight]):
        result = (weight * weight).sum() + (small * small).sum()
    assert not memory._free
    result.backward()


def test_a_second_backward_pass_is_refused() -> None:
    memory = HostMemory(least_bytes=64)
    numbers = torch.ones(100, requires_grad=True)
    with memory.hooks():
        result = numbers.exp().sum()
    result.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="cannot be two backward passes"):
        result.backward()


def test_an_attention_backend_is_for_self_attention_and_has_to_be_known() -> None:
    network: Any = toy_model()
    here = torch.device("cpu"), torch.float32
    assert use_attention_backend(network, "_native_math", *here) == ("_native_math", "as asked")
    assert network.blocks[0].attn1.processor._attention_backend == "_native_math"
    assert network.blocks[0].attn2.processor._attention_backend is None
    with pytest.raises(ValueError, match="unheard"):
        use_attention_backend(network, "unheard", *here)


def test_the_fastest_attention_is_that_of_the_whole_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANAVATAR_CACHE_DIR", str(tmp_path))
    network: Any = toy_model()
    assert use_attention_backend(network, "auto", torch.device("cpu"), torch.float32) == ("sdpa", "there is no other")
    asked = []

    def choose(*arguments: Any, gradients: bool) -> tuple[str, str]:
        asked.append((*arguments, gradients))
        return "cudnn", "fastest"

    monkeypatch.setattr(attention, "choose", choose)
    use_attention_backend(network, "auto", torch.device("cuda:1"), torch.bfloat16)
    heads = network.config.num_attention_heads, network.config.attention_head_dim
    assert asked == [("auto", "cuda:1", *heads, torch.bfloat16, tmp_path / "attention.json", True)]
    assert network.blocks[0].attn1.processor._attention_backend == "_native_cudnn"

"""What networks need beside their weights, counted on the meta device at true size: no GPU, no memory.

Only tensors are counted: what libraries take for themselves, and the gaps of an allocator, are not. What was measured
says how much that is.
"""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.memory.machines import make_random_weights_on_meta
from wanavatar_lab.bench.random_models import SIZES, random_network
from wanavatar_lab.memory import Workload
from wanavatar_lab.memory.activations import FACTORS
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel
from wanavatar_lab.wan.float8 import quantize, quantized

BLOCKS = 2  # are as good as forty: one is computed after the other
WIDTH = 5120


class Allocated(TorchDispatchMode):
    """The most bytes that tensors take at a time, weights of a network not counted."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self._weights = [tensor.untyped_storage() for tensor in (*network.parameters(), *network.buffers())]
        self._seen = weakref.WeakValueDictionary({storage._cdata: storage for storage in self._weights})

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if self._seen.get(storage._cdata) is not storage:
            self._seen[storage._cdata] = storage
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size


@pytest.fixture(autouse=True)
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
        # as the kernels of a GPU have it, which never write the scores down
        batch, heads, length, width = query.shape
        return query.new_empty(batch, length, heads, width).transpose(1, 2)

    make_random_weights_on_meta(monkeypatch)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def prepared(network: Any, kind: str) -> Any:
    """A network whose products are exact, in float8 or in emulated float8."""
    network = network.to("meta")
    if kind != "exact":
        quantize(network, "meta")
        for layer in quantized(network).values():
            layer.fast = kind == "float8"
    return network


@torch.no_grad()
def image_to_video(workload: Workload, kind: str) -> float:
    """Hidden states that a pass of one of the experts needs."""
    expert: Any = random_network(
        lambda: WanTransformer3DModel(**{**SIZES["published"]["expert"], "num_layers": BLOCKS}), torch.bfloat16
    )
    expert = prepared(expert, kind)
    with Allocated(expert) as allocated:
        expert(
            hidden_states=empty(1, 36, (workload.frames - 1) // 4 + 1, workload.height // 8, workload.width // 8),
            timestep=empty(1, dtype=torch.int64),
            encoder_hidden_states=empty(1, 512, 4096),
            return_dict=False,
        )
    return allocated.most / (workload.tokens * WIDTH * 2)


@torch.no_grad()
def speech_to_video(workload: Workload, kind: str) -> float:
    """The same of the S2V network, in a later step of a segment that continues another."""
    network: Any = random_network(
        lambda: WanS2VTransformer3DModel(num_layers=BLOCKS, audio_inject_layers=(0,)), torch.bfloat16
    )
    network = prepared(network, kind)
    memory, rows, columns = SegmentMemory(), workload.height // 8, workload.width // 8
    with Allocated(network) as allocated:
        for _ in range(2):
            network(
                hidden_states=empty(1, 16, workload.frames // 4, rows, columns),
                timestep=empty(1, dtype=torch.float32),
                encoder_hidden_states=empty(1, 512, 4096),
                ref_latents=empty(1, 16, 1, rows, columns),
                motion_latents=empty(1, 16, 19, rows, columns),
                audio_embeds=empty(1, 25, 1024, workload.frames),
                memory=memory,
                return_dict=False,
            )
    return allocated.most / (workload.tokens * WIDTH * 2)


COUNTS: dict[str, Callable[[Workload, str], float]] = {
    "image_to_video": image_to_video,
    "speech_to_video": speech_to_video,
}


@pytest.mark.parametrize(("width", "height"), [(480, 832), (720, 1280)])
@pytest.mark.parametrize("stage", COUNTS)
def test_a_pass_allocates_what_is_planned_and_little_less(stage: str, width: int, height: int) -> None:
    frames = 81 if stage == "image_to_video" else 80
    counted = COUNTS[stage](Workload(stage, width, height, frames), "exact")
    print(f"{stage} {width}x{height}: {counted:.2f} of {FACTORS[stage]}")
    assert 0.85 * FACTORS[stage] < counted < FACTORS[stage]


@pytest.mark.parametrize("kind", ["float8", "emulated"])
@pytest.mark.parametrize("stage", COUNTS)
def test_products_in_float8_take_no_more_than_is_planned(stage: str, kind: str) -> None:
    """Uncompiled, as the first step of each segment of speech is."""
    frames = 81 if stage == "image_to_video" else 80
    counted = COUNTS[stage](Workload(stage, 480, 832, frames), kind)
    print(f"{stage} {kind}: {counted:.2f} of {FACTORS[stage]}")
    assert 0.7 * FACTORS[stage] < counted < FACTORS[stage]


@torch.no_grad()
def test_to_encode_a_clip_takes_less_than_to_decode_it() -> None:
    # image to video encodes all of a clip's frames before it begins, and only the decoder is planned with
    vae: Any = random_network(lambda: AutoencoderKLWan(**SIZES["published"]["wan_vae"]), torch.float32).to("meta")
    width, height, frames = 480, 832, 13
    feature_map = 4 * 96 * width * height * 4
    needed = {}
    for way, given in {
        "encode": lambda: vae.encode(empty(1, 3, frames, height, width, dtype=torch.float32)),
        "decode": lambda: vae.decode(empty(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, dtype=torch.float32)),
    }.items():
        with Allocated(vae) as allocated:
            given()
        needed[way] = allocated.most / feature_map
    assert needed["encode"] < needed["decode"] < FACTORS["wan_decoder"]

"""FlashAttention 4 as a backend, with a package in its place that computes the same in PyTorch on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# what is used of flash_attn.cute: [B, L, H, D], and [B, H, L] for the logarithm of the sums of the softmax
INTERFACE = """
import torch

calls = []


def _attend(q, k, v, scale):
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (logits.softmax(-1) @ v).transpose(1, 2), logits.logsumexp(-1)


def flash_attn_func(q, k, v, softmax_scale=None, return_lse=False):
    calls.append("forward")
    out, lse = _attend(q, k, v, softmax_scale)
    return out.contiguous(), lse.float()


def _flash_attn_bwd(q, k, v, out, dout, lse, softmax_scale=None):
    calls.append("backward")
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    q, k, v, out, dout = (each.transpose(1, 2) for each in (q, k, v, out, dout))
    shares = (q @ k.transpose(-1, -2) * scale - lse[..., None]).exp()
    of_logits = shares * (dout @ v.transpose(-1, -2) - (dout * out).sum(-1, keepdim=True)) * scale
    found = of_logits @ k, of_logits.transpose(-1, -2) @ q, shares.transpose(-1, -2) @ dout
    return tuple(each.transpose(1, 2).contiguous() for each in found)
"""
CHECK = """
import torch
from flash_attn.cute import interface
from tests.s2v.toy import compile_without_inductor, toy_inputs
from tests.training.toy import toy_with_adapter
from training.model.activations import Activations, use_attention_backend
from wanavatar_lab.s2v import SegmentMemory
from wanavatar_lab.stages import kernels
from wanavatar_lab.wan.attention import log_sum_operator
from wanavatar_lab.wan.context_parallel import merged

compile_without_inductor()

def gradients(backend, activations):
    network, trained = toy_with_adapter()
    use_attention_backend(network, backend, torch.device("cpu"), torch.float32)
    activations.install(network)
    interface.calls.clear()
    network(**toy_inputs(), return_dict=False)[0].square().mean().backward()
    return torch.cat([matrix.grad.flatten() for matrix in trained]), list(interface.calls)

blocks = len(toy_with_adapter()[0].blocks)
wanted, none = gradients("sdpa", Activations())
assert not none
for keep, compiled, computed in ((None, False, blocks), (0, False, 2 * blocks), (None, True, blocks)):
    found, calls = gradients("flash4", Activations(keep, 0, compiled))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-3)
    assert (calls.count("forward"), calls.count("backward")) == (computed, blocks), (keep, compiled, calls)

network, _ = toy_with_adapter()
network.eval().requires_grad_(False)
with torch.no_grad():
    wanted = network(**toy_inputs(), return_dict=False)[0]
    kernels.attention.use_backend(network, "flash4")
    kernels.compile_blocks(network, lambda error: exit(str(error)))
    interface.calls.clear()
    memory = SegmentMemory()
    for _ in range(2):
        found = network(**toy_inputs(), memory=memory, return_dict=False)[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
assert interface.calls == ["forward"] * 4 * blocks, "attention to the text too, in both passes"

query, key, value = torch.randn(3, 2, 9, 3, 8)
attend = log_sum_operator(kernels.attention.FLASH_4, "cuda")
parts = [attend(query, key[:, part], value[:, part], 0.5) for part in (slice(0, 2), slice(2, 9))]
torch.testing.assert_close(merged(*zip(*parts)), attend(query, key, value, 0.5)[0])
"""


@pytest.mark.slow  # blocks are compiled, for training too
def test_it_computes_trains_and_compiles(tmp_path: Path) -> None:
    cute = tmp_path / "flash_attn" / "cute"
    cute.mkdir(parents=True)
    (cute / "__init__.py").write_text("from flash_attn.cute.interface import flash_attn_func\n")
    (cute / "interface.py").write_text(INTERFACE)
    # a process of its own, since a backend cannot be taken out of diffusers' dispatcher again
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]

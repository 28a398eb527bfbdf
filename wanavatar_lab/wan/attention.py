"""Backends of self-attention beside PyTorch's own, and the fastest one for the GPU at hand.

A backend is installed with its package or not there; `sage` rounds to 8 bits, so that it is never chosen by itself. The
others are timed once for each GPU, release and size of heads, over the tokens of a small clip, and the times are kept;
for training with their backward passes.
"""

import importlib.metadata
import importlib.util
import json
import statistics
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)
from torch import Tensor

from wanavatar_lab.errors import RequestError
from wanavatar_lab.files import whole_file
from wanavatar_lab.requests.request import must_be

FLASH_4 = "wanavatar_flash_4"
FLASH_4_OPERATOR = "wanavatar::flash_attention_4"
# by the value of a request's `attention`: diffusers' name, and the package that it needs
BACKENDS: dict[str, tuple[str, str | None]] = {
    "sdpa": ("native", None),
    "cudnn": ("_native_cudnn", None),
    "flash3": ("_flash_3", "flash_attn_interface"),
    "flash4": (FLASH_4, "flash_attn.cute"),
    "sage": ("sage", "sageattention"),
}
EXACT = ("sdpa", "cudnn", "flash3", "flash4")
_FLASH = ("flash3", "flash4")
_TOKENS = 16_384  # enough to fill a GPU, few enough that all backends take less than a second
# the largest error of bfloat16 sums in another order, beside the output; FlashAttention 4 was at 9e-3 from cuDNN's
_ERROR = 3e-2
# what a kept time depends on
_PACKAGES = ("torch", "diffusers", "flash-attn-4", "flash-attn-3", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def available(device: str) -> list[str]:
    """The backends that are installed and compute on a device, in the order of `BACKENDS`."""
    return [name for name, why_not in lacks(device).items() if not why_not]


def lacks(device: str) -> dict[str, str]:
    """By backend why it does not compute on a device; an empty text where it does."""
    if torch.device(device).type != "cuda":
        return {name: "" if name == "sdpa" else f"{device} does not compute with it" for name in BACKENDS}
    found = {}
    for name, (backend, package) in BACKENDS.items():
        found[name] = ""
        try:
            # the parent of a dotted name may be missing
            if package is not None and importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError
        except ModuleNotFoundError:
            found[name] = f"{package} is not installed"
            continue
        try:
            if name == "flash4":
                register_flash_4()
            _check_attention_backend_requirements(AttentionBackendName(backend))
        except (ImportError, RuntimeError) as error:  # a part of it is missing, or it is of another release
            found[name] = f"{package or name} cannot be used: {error}"
    return found


def choose(
    asked: str, device: str, heads: int, head_dim: int, dtype: torch.dtype, kept: Path, *, gradients: bool = False
) -> tuple[str, str]:
    """The backend of a run, and why it is that one.

    Args:
        asked: a name in `BACKENDS`, or auto.
        device: cpu, cuda or cuda:<n>.
        heads, head_dim, dtype: of the network.
        kept: the file of times.
        gradients: whether the backward pass counts too.

    Raises:
        RequestError: what is asked for is not installed.
    """
    lacking = lacks(device)
    found = [name for name, why_not in lacking.items() if not why_not]
    if asked != "auto":
        if why_not := lacking[asked]:
            raise RequestError([("attention", f"{must_be('auto or one of ' + ', '.join(found), asked)}: {why_not}")])
        return asked, "as asked"
    candidates = [name for name in found if name in EXACT]
    if len(candidates) == 1:
        return candidates[0], "there is no other"
    times = kept_times(device, candidates, heads, head_dim, dtype, kept, gradients)
    fastest = min(times, key=lambda name: times[name])
    why = "fastest of " + ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in times.items())
    broken = [why_not for name, why_not in lacking.items() if name in EXACT and "cannot be used" in why_not]
    return fastest, "; ".join([why, *broken])


def kept_times(
    device: str,
    candidates: list[str],
    heads: int,
    head_dim: int,
    dtype: torch.dtype,
    kept: Path,
    gradients: bool = False,
) -> dict[str, float]:
    """Seconds of one self-attention by backend, from a file, or measured and kept there."""
    releases = []
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            releases.append(f"{package} {importlib.metadata.version(package)}")
    shape = f"{heads}x{head_dim} {dtype}" + (" with gradients" if gradients else "")
    key = ", ".join([torch.cuda.get_device_name(device), shape, *releases, *candidates])
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            known = {}
    except (OSError, ValueError):  # there is none yet, or it is damaged: it is only a cache
        known = {}
    if not isinstance(known.get(key), dict) or "sdpa" not in known[key]:
        known[key] = measure(device, candidates, heads, head_dim, dtype, gradients=gradients)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept, durable=False) as temporary:
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    times: dict[str, float] = known[key]
    return times


def measure(
    device: str,
    candidates: list[str],
    heads: int,
    head_dim: int,
    dtype: torch.dtype,
    tokens: int = _TOKENS,
    *,
    gradients: bool = False,
) -> dict[str, float]:
    """Seconds of one self-attention, and of its backward pass if asked, by backend; one that is wrong is left out."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, tokens, heads, head_dim)
    query, key, value, grad = (torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(4))
    inputs = [states.requires_grad_(gradients) for states in (query, key, value)]

    def call(name: str) -> list[Tensor]:
        with torch.set_grad_enabled(gradients):
            made: Tensor = dispatch_attention_fn(query, key, value, backend=BACKENDS[name][0])
            return [made, *(torch.autograd.grad(made, inputs, grad) if gradients else ())]

    wanted = [each.float() for each in call("sdpa")]
    times = {}
    for name in candidates:
        # whatever an optional kernel raises here it would raise in a run, where sdpa can do without it
        with suppress(Exception):
            pairs = zip(call(name), wanted, strict=True)
            if all((found.float() - true).norm() <= _ERROR * true.norm() for found, true in pairs):
                times[name] = _seconds(partial(call, name))
    return times


def _seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(1 + repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[1:])


def use_backend(network: Any, name: str) -> None:
    """Compute self-attention of a Wan network by a backend in `BACKENDS`, or all attention of FLUX.2's.

    By FlashAttention, Wan's attention to the text too. Other attention keeps its own: it is little work, and not every
    backend supports so few keys.

    Raises:
        ImportError: its package is not installed.
    """
    chosen = dispatched(name)
    if isinstance(network, Flux2Transformer2DModel):  # text and picture are one sequence in every block
        for block in (*network.transformer_blocks, *network.single_transformer_blocks):
            block.attn.set_attention_backend(chosen)
        return
    for block in network.blocks:
        block.attn1.set_attention_backend(chosen)
        # cuDNN, which PyTorch takes, reaches a quarter of the GPU's rate for many queries of few keys
        block.attn2.set_attention_backend(BACKENDS[name if name in _FLASH else "sdpa"][0])


def dispatched(name: str) -> str:
    """The name in diffusers' dispatcher of one in `BACKENDS`, which is registered there if need be; others stay.

    Raises:
        ImportError: its package is not installed.
    """
    if name == "flash4":
        register_flash_4()
    return BACKENDS.get(name, (name, None))[0]


def register_flash_4() -> None:
    """Give diffusers' dispatcher FlashAttention 4 of the package `flash-attn-4`; it has it only from the Hub.

    Raises:
        ImportError: the package is not installed.
    """
    if FLASH_4 in AttentionBackendName._value2member_map_:
        return
    from flash_attn.cute import flash_attn_func  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from flash_attn.cute.interface import _flash_attn_bwd  # type: ignore[import-not-found, import-untyped, unused-ignore]

    # operators of their own are nodes of a compiled graph
    @torch.library.custom_op(FLASH_4_OPERATOR, mutates_args=())
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        out, log_sum = flash_attn_func(query, key, value, softmax_scale=scale, return_lse=True)
        return out, log_sum

    @forward.register_fake
    def _(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        batch, length, heads, _ = query.shape
        out = query.new_empty(batch, length, heads, value.shape[3])
        return out, query.new_empty(batch, heads, length, dtype=torch.float32)

    @torch.library.custom_op(f"{FLASH_4_OPERATOR}_backward", mutates_args=())
    def backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sum: Tensor, scale: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_query, of_key, of_value = _flash_attn_bwd(
            query, key, value, out, grad.contiguous(), log_sum, softmax_scale=scale
        )
        return of_query, of_key, of_value

    @backward.register_fake
    def _(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sum: Tensor, scale: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:3], *output)
        ctx.scale = inputs[3]

    def gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward(grad, *ctx.saved_tensors, ctx.scale), None)

    forward.register_autograd(gradients, setup_context=keep)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        out: Tensor = forward(query, key, value, scale)[0]
        return out

    register_backend(FLASH_4, attend)


def log_sum_operator(backend: str, device_type: str) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """An attention that also gives the logarithm of each query's sum of exponentials; None where there is none.

    From the two, attention over parts of the keys is put together. The operator takes query, key and value [B, L, H, D]
    and the scale, and returns the output and the logarithms [B, H, L] in float32.

    Args:
        backend: its name in diffusers' dispatcher, where it is registered.
        device_type: cpu or cuda.
    """
    if backend == FLASH_4:
        operator: Callable[..., tuple[Tensor, Tensor]] = torch.ops.wanavatar.flash_attention_4
        return operator
    return _native_on_cpu if (backend, device_type) == ("native", "cpu") else None


def _native_on_cpu(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    by_head = (states.transpose(1, 2) for states in (query, key, value))
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*by_head, scale=scale)
    return out.transpose(1, 2), log_sum


def register_backend(name: str, attend: Callable[..., Tensor]) -> None:
    """Give diffusers' dispatcher another backend, whose names are the members of an enumeration."""
    member = str.__new__(AttentionBackendName, name)
    member._name_, member._value_ = name.upper(), name
    AttentionBackendName._member_names_.append(name.upper())
    AttentionBackendName._member_map_[name.upper()] = member
    AttentionBackendName._value2member_map_[name] = member
    _AttentionBackendRegistry.register(member)(attend)

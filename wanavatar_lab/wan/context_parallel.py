"""A denoising network whose sequence, or whose two passes of guidance, several processes share.

A sequence is cut by the plan that networks of diffusers have (`_cp_plan`), and each process computes its part. Neither
tokens nor heads have to divide by the number of processes. Self-attention is shared in one of two ways:

- ring attention (https://huggingface.co/papers/2310.01889), where the backend gives the sums that it divides by: each
  process attends from its own tokens to its own keys and values first, while those of the others arrive. Each sends to
  all others, instead of passing on what it got, since the GPUs of a machine reach each other at the same rate.
- DeepSpeed-Ulysses (https://huggingface.co/papers/2309.14509) with any other backend: the parts are exchanged for
  heads, each process attends from all tokens in its share of the heads, and the result is exchanged back. All wait for
  both exchanges.

diffusers' own exchange passes a process group through the graph, which cannot be compiled, and asks the other processes
for their lengths in every layer; here an exchange is inside an operator, one node of a compiled graph, and the lengths
are known from the plan.

Guidance takes a pass for the prompt and one for the negative prompt. Two processes compute one each, and exchange the
results once per step.
"""

import inspect
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.first_block_cache import FBCHeadBlockHook
from diffusers.hooks.hooks import BaseState, StateManager
from diffusers.models._modeling_parallel import ContextParallelInput
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

from wanavatar_lab.runs.ranks import Layout, Ranks
from wanavatar_lab.wan.attention import log_sum_operator, register_backend

_SPLIT, _GATHER, _GUIDANCE = "wanavatar_split", "wanavatar_gather", "wanavatar_guidance"
_PREFIX = "wanavatar_shared_"  # of a backend that shares what another one computes
_COUNTED = ("hidden_states", "encoder_hidden_states", 0)  # of a plan, what becomes tokens of self-attention
_GROUPS: dict[str, Any] = {}  # process groups by a name, since an operator takes no other object
_patience = timedelta(0)  # of `join`, since groups that are made later would wait for torch's half an hour


@dataclass
class SharedSequence:
    """What the networks of one run know of the processes that share their sequence.

    Attributes:
        group: its name in this module.
        rank, world: of this process in it.
        lengths: tokens of each process in the pass that runs.
        gathered: those of them that are put together at its end; text is left out before.
    """

    group: str
    rank: int
    world: int
    lengths: list[int] = field(default_factory=list)
    gathered: list[int] = field(default_factory=list)


def join(ranks: Ranks, store: Any, device: str, timeout: float, backend: str | None = None) -> None:
    """Meet the other processes; every one calls this once before it shares a run.

    Args:
        ranks: this process.
        store: of torch.distributed, where they find each other.
        device: where this process computes: cpu, cuda or cuda:<n>.
        timeout: seconds that they wait for each other from then on.
        backend: of torch.distributed; None is NCCL for GPUs, a GPU for each process, and gloo for CPUs.
    """
    # all are on this machine
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", os.environ["GLOO_SOCKET_IFNAME"])
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # multicast needs rights that containers rarely have
    # an exchange beside a kernel that fills the GPU would begin when that ends
    os.environ.setdefault("TORCH_NCCL_HIGH_PRIORITY", "1")
    global _patience
    on_gpu, _patience = device != "cpu", timedelta(seconds=timeout)
    if on_gpu:
        torch.cuda.set_device(device)
    backend = backend or ("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=_patience)


def leave() -> None:
    """Part from the other processes, some of which may be gone."""
    _GROUPS.clear()
    if dist.is_initialized():
        if "nccl" in dist.get_backend_config():
            dist.distributed_c10d._abort_process_group()  # without waiting for what can never end
        else:
            dist.destroy_process_group()


def share(networks: Sequence[Any], ranks: Ranks, layout: Layout) -> None:
    """Let networks of one pipeline be computed by all processes; every process calls this with the same arguments.

    Args:
        networks: of diffusers, with a `_cp_plan`, on their device, with their attention backend chosen.
        ranks: this process, which has joined the others.
        layout: its product is `ranks.world`.
    """
    shared, guided = f"sequence {layout}", f"guidance {layout}"
    if shared not in _GROUPS:
        world, size = ranks.world, layout.sequence
        for name, members in (
            (shared, [list(range(first, first + size)) for first in range(0, world, size)]),
            (guided, [list(range(first, world, size)) for first in range(size)]),
        ):
            _GROUPS[name], _ = dist.new_subgroups_by_enumeration(members, _patience)
    for network in networks:
        if layout.sequence > 1:
            _share_sequence(network, SharedSequence(shared, ranks.rank % layout.sequence, layout.sequence))
        if layout.guidance > 1:
            index, first = divmod(ranks.rank, layout.sequence)
            hook = _GuidanceHook(_GROUPS[guided], index, (first, first + layout.sequence))
            HookRegistry.check_if_exists_or_initialize(network).register_hook(hook, _GUIDANCE)


def unshare(networks: Sequence[Any]) -> None:
    """Let networks be computed by this process alone again."""
    for network in networks:
        for module in network.modules():
            if hasattr(module, "_diffusers_hook"):
                for name in (_SPLIT, _GATHER, _GUIDANCE):
                    module._diffusers_hook.remove_hook(name, recurse=False)
        network._parallel_config = None
        for processor in _processors(network):
            processor._parallel_config = None
            backend = getattr(processor._attention_backend, "value", None)
            if backend is not None and backend.startswith(_PREFIX):
                processor._attention_backend = AttentionBackendName(backend.removeprefix(_PREFIX))


def _share_sequence(network: Any, shared: SharedSequence) -> None:
    for name, plan in network._cp_plan.items():
        module = network.get_submodule(name)
        registry = HookRegistry.check_if_exists_or_initialize(module)
        if isinstance(plan, dict):
            registry.register_hook(_SplitHook(plan, shared), _SPLIT)
        else:
            registry.register_hook(_GatherHook(plan.gather_dim, shared), _GATHER)
    network._parallel_config = shared
    for processor in _processors(network):
        processor._parallel_config = shared
        processor._attention_backend = _shared_backend(processor._attention_backend)


def _processors(network: nn.Module) -> list[Any]:
    found = (getattr(module, "processor", None) for module in network.modules())
    return [processor for processor in found if hasattr(processor, "_parallel_config")]


class _SplitHook(ModelHook):
    """Cuts what a plan names of a module's inputs or outputs, and keeps this process's part.

    Plain indexing, since it may lie inside a compiled block.
    """

    def __init__(self, plan: dict[str | int, ContextParallelInput], shared: SharedSequence) -> None:
        super().__init__()
        self._plan, self._shared = plan, shared
        self._places: dict[str, int] = {}

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self._places = {name: place for place, name in enumerate(inspect.signature(module.forward).parameters)}
        return module

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = list(args)
        totals: dict[str | int, int] = {}
        for name, cut in self._plan.items():
            if isinstance(name, int):
                continue
            place = self._places[name]
            whole = kwargs[name] if name in kwargs else values[place] if place < len(values) else None
            if whole is None or whole.dim() != cut.expected_dims:
                continue
            if name in _COUNTED:
                totals[name] = whole.shape[cut.split_dim]
            part = self._part(whole, cut.split_dim)
            if name in kwargs:
                kwargs[name] = part
            else:
                values[place] = part
        if totals:
            self._count(totals)
        return tuple(values), kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        outputs = [output] if isinstance(output, Tensor) else list(output)
        for index, cut in self._plan.items():
            if isinstance(index, int):
                if isinstance(output, Tensor):  # the tokens themselves; a tuple has tables of positions
                    self._count({index: outputs[index].shape[cut.split_dim]})
                outputs[index] = self._part(outputs[index], cut.split_dim)
        return outputs[0] if isinstance(output, Tensor) else tuple(outputs)

    def _part(self, whole: Tensor, dim: int) -> Tensor:
        return whole.tensor_split(self._shared.world, dim=dim)[self._shared.rank]

    def _count(self, totals: dict[str | int, int]) -> None:
        shared = self._shared
        shares = {
            name: [_share_of(total, rank, shared.world) for rank in range(shared.world)]
            for name, total in totals.items()
        }
        shared.lengths = [sum(lengths) for lengths in zip(*shares.values(), strict=True)]
        shared.gathered = next(lengths for name, lengths in shares.items() if name != "encoder_hidden_states")


def gathered(part: Tensor, sizes: Sequence[int], dim: int, group: Any = None) -> Tensor:
    """The parts of all processes, put together; all of them call it.

    Args:
        part: the own one.
        sizes: of each process's, along `dim`.
        dim: along which they follow each other.
        group: the processes; None is all that have joined.
    """
    # gloo gathers parts of one size only
    part = part.movedim(dim, 0)
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    whole = part.new_empty(len(sizes) * len(padded), *part.shape[1:])
    dist.all_gather_into_tensor(whole, padded, group=group)
    parts = zip(whole.split(len(padded)), sizes, strict=True)
    return torch.cat([each[:size] for each, size in parts]).movedim(0, dim)


class _GatherHook(ModelHook):
    """Puts the parts of a module's output together."""

    def __init__(self, dim: int, shared: SharedSequence) -> None:
        super().__init__()
        self._dim, self._shared = dim, shared

    def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
        return gathered(output, self._shared.gathered, self._dim, _GROUPS[self._shared.group])


class _GuidanceHook(ModelHook):
    """Computes one of the two passes of guidance, and gets the other one from the process that computes it.

    A pipeline calls its network for the prompt and then for the negative prompt. Where the first call is another
    process's, it returns a tensor that the second call fills: nobody reads it before.

    Args:
        group: the processes that compute the passes, one each, that of the prompt first.
        index: of the pass that this process computes.
        sources: the ranks that compute the first pass and the second.
    """

    _is_stateful = True

    def __init__(self, group: Any, index: int, sources: tuple[int, int]) -> None:
        super().__init__()
        self._group, self._index, self._sources = group, index, sources
        self.contexts = StateManager(BaseState)  # diffusers looks for it among the attributes, to say which pass runs
        self._guided = torch.empty(0)

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """The network's output as a tuple of one tensor."""
        first_call = self.contexts.context.name == "cond"
        if first_call == (self._index == 0):
            sample = self.fn_ref.original_forward(*args, **kwargs)[0].contiguous()
        else:
            latents, dtype = kwargs["hidden_states"], module.proj_out.weight.dtype
            dtype = latents.dtype if dtype.itemsize == 1 else dtype  # stored in 8 bits, and computed in more
            sample = latents.new_empty(len(latents), module.config.out_channels, *latents.shape[2:], dtype=dtype)
        if first_call:
            self._guided = sample
            return (sample,)
        own = self._guided if self._index == 0 else sample
        other = sample if self._index == 0 else self._guided
        if own.dtype != other.dtype:
            raise TypeError(f"The passes of guidance are {own.dtype} and {other.dtype}; both have to be of one dtype.")
        for source, passed in zip(self._sources, (self._guided, sample), strict=True):
            dist.broadcast(passed, source, group=self._group)
        self._guided = torch.empty(0)
        return (sample,)

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forget the pass of an unfinished step."""
        self._guided = torch.empty(0)
        self.contexts.reset()
        return module


def agree_on_first_block(network: nn.Module) -> None:
    """Let a First Block Cache that is enabled on a shared network decide by the tokens of all processes."""
    shared = getattr(network, "_parallel_config", None)
    for module in network.modules():
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            if isinstance(hook, FBCHeadBlockHook) and isinstance(shared, SharedSequence):
                hook._should_compute_remaining_blocks = _together(hook, shared)


def _together(hook: FBCHeadBlockHook, shared: SharedSequence) -> Any:
    def changed_enough(residual: Tensor) -> bool:
        before = hook.state_manager.get_state().head_block_residual
        if before is None:
            return True
        sums = torch.stack([(residual - before).abs().sum(dtype=torch.float64), before.abs().sum(dtype=torch.float64)])
        dist.all_reduce(sums, group=_GROUPS[shared.group])
        return bool(sums[0] / sums[1] > hook.threshold)

    return torch.compiler.disable(changed_enough)


def _shared_backend(inner: Any) -> AttentionBackendName:
    """The attention backend by which processes share what `inner` computes; None is PyTorch's own."""
    inner = AttentionBackendName("native" if inner is None else inner)
    name = _PREFIX + inner.value
    if name not in AttentionBackendName._value2member_map_:

        def attend(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            scale: float | None = None,
            _parallel_config: SharedSequence | None = None,
        ) -> Tensor:
            shared = _parallel_config
            if shared is None:  # a cross-attention, whose context every process has
                return dispatch_attention_fn(query, key, value, scale=scale, backend=inner)
            heads, place = query.shape[2], (shared.group, shared.rank, shared.lengths)
            if log_sum_operator(inner.value, query.device.type):
                return merged(*ring_attention(query, key, value, scale, inner.value, *place))
            query, key, value = tokens_for_heads(query, key, value, *place)
            if query.shape[2]:  # there may be fewer heads than processes
                query = dispatch_attention_fn(query, key, value, scale=scale, backend=inner)
            return heads_for_tokens(query, heads, *place)

        register_backend(name, attend)
    return AttentionBackendName(name)


@torch.library.custom_op("wanavatar::ring_attention", mutates_args=())
def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    backend: str,
    group: str,
    rank: int,
    lengths: list[int],
) -> tuple[list[Tensor], list[Tensor]]:
    """The attention from the own tokens to those of each process; all processes call it.

    Args:
        query, key, value: [B, lengths[rank], H, D], of the own tokens.
        scale: of the scores; None is 1 / sqrt(D).
        backend: with a `log_sum_operator`.
        group: name of the processes' group.
        rank: of this process in it.
        lengths: tokens of each process.

    Returns:
        Outputs [B, lengths[rank], H, D] and the logarithms of their sums [B, H, lengths[rank]], those of each process.
    """
    attend = log_sum_operator(backend, query.device.type)
    assert attend is not None
    key, value = key.contiguous(), value.contiguous()
    world, arriving = len(lengths), []
    for turn in range(1, world):  # in each, every process sends to one and receives from one
        target, source = (rank + turn) % world, (rank - turn) % world
        pair = [own.new_empty(own.shape[0], lengths[source], *own.shape[2:]) for own in (key, value)]
        sends = [dist.P2POp(dist.isend, own, None, _GROUPS[group], tag, target) for tag, own in enumerate((key, value))]
        receives = [dist.P2POp(dist.irecv, place, None, _GROUPS[group], tag, source) for tag, place in enumerate(pair)]
        operations = [operation for operation in (*sends, *receives) if operation.tensor.numel()]
        arriving.append((pair, dist.batch_isend_irecv(operations) if operations else []))
    outputs, log_sums = [], []
    for pair, works in [([key, value], []), *arriving]:
        for work in works:
            work.wait()
        if query.shape[1] and pair[0].shape[1]:
            output, log_sum = attend(query, *pair, scale)
        else:  # there may be fewer tokens than processes
            output, log_sum = torch.zeros_like(query), query.new_full(_by_head(query), -math.inf, dtype=torch.float32)
        outputs.append(output.contiguous())  # the strides that the fake kernel below promises
        log_sums.append(log_sum.contiguous())
    return outputs, log_sums


@ring_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    backend: str,
    group: str,
    rank: int,
    lengths: list[int],
) -> tuple[list[Tensor], list[Tensor]]:
    outputs = [query.new_empty(query.shape) for _ in lengths]
    return outputs, [query.new_empty(_by_head(query), dtype=torch.float32) for _ in lengths]


def _by_head(states: Tensor) -> tuple[int, int, int]:
    batch, length, heads, _ = states.shape
    return batch, heads, length


def merged(outputs: Sequence[Tensor], log_sums: Sequence[Tensor]) -> Tensor:
    """One attention [B, L, H, D] of those to parts of the keys, with the logarithms of their sums [B, H, L]."""
    shares = torch.stack(list(log_sums)).softmax(0).transpose(2, 3)[..., None]
    total = outputs[0].float() * shares[0]
    for output, share in zip(outputs[1:], shares[1:], strict=True):
        total = total + output.float() * share
    return total.type_as(outputs[0])


# One operator for all three: of several that do not depend on each other, a compiler may call another one first in each
# process, and they would exchange queries for values.
@torch.library.custom_op("wanavatar::tokens_for_heads", mutates_args=())
def tokens_for_heads(
    query: Tensor, key: Tensor, value: Tensor, group: str, rank: int, lengths: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each [B, lengths[rank], H, D] of the own tokens -> [B, sum(lengths), share of H, D]; all processes call it."""
    batch, _, heads, dim = query.shape
    shares = [_share_of(heads, other, len(lengths)) for other in range(len(lengths))]
    made, exchanges = [], []
    for tag, states in enumerate((query, key, value)):
        whole = states.new_empty(batch, sum(lengths), shares[rank], dim)
        made.append(whole)
        exchanges.append(_Exchange(states.split(shares, dim=2), whole.split(lengths, dim=1), group, rank, tag))
    for exchange in exchanges:
        exchange.finish()
    return made[0], made[1], made[2]


@tokens_for_heads.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, group: str, rank: int, lengths: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (query.shape[0], sum(lengths), _share_of(query.shape[2], rank, len(lengths)), query.shape[3])
    return query.new_empty(shape), key.new_empty(shape), value.new_empty(shape)


@torch.library.custom_op("wanavatar::heads_for_tokens", mutates_args=())
def heads_for_tokens(states: Tensor, heads: int, group: str, rank: int, lengths: list[int]) -> Tensor:
    """[B, sum(lengths), own share of H, D] -> [B, lengths[rank], H, D]; the way back, `heads` is H."""
    shares = [_share_of(heads, other, len(lengths)) for other in range(len(lengths))]
    whole = states.new_empty(states.shape[0], lengths[rank], heads, states.shape[3])
    _Exchange(states.split(lengths, dim=1), whole.split(shares, dim=2), group, rank).finish()
    return whole


@heads_for_tokens.register_fake
def _(states: Tensor, heads: int, group: str, rank: int, lengths: list[int]) -> Tensor:
    return states.new_empty(states.shape[0], lengths[rank], heads, states.shape[3])


class _Exchange:
    """Parts of a tensor on their way to other processes, and theirs to this one, while the next tensor is prepared.

    An all-to-all of NCCL copies the own part too, by the few multiprocessors that feed the link.

    Args:
        sent, received: a part for each process; the own one is copied.
        group: name of the processes' group.
        rank: of this process in it.
        tag: another one for each exchange that is under way.
    """

    def __init__(self, sent: Sequence[Tensor], received: Sequence[Tensor], group: str, rank: int, tag: int = 0) -> None:
        operations = list[dist.P2POp]()
        self._arriving = list[tuple[Tensor, Tensor]]()
        for other, (part, place) in enumerate(zip(sent, received, strict=True)):
            if other != rank and part.numel():
                if not part.is_contiguous():
                    part = _copy(part.new_empty(part.shape), part)
                operations.append(dist.P2POp(dist.isend, part, None, _GROUPS[group], tag, other))
            if other != rank and place.numel():
                buffer = place if place.is_contiguous() else place.new_empty(place.shape)
                operations.append(dist.P2POp(dist.irecv, buffer, None, _GROUPS[group], tag, other))
                self._arriving.append((place, buffer))
        self._works = dist.batch_isend_irecv(operations) if operations else []
        self._operations = operations  # they keep what is sent in memory
        _copy(received[rank], sent[rank])

    def finish(self) -> None:
        """Let what is computed next have what arrives."""
        for work in self._works:
            work.wait()
        for place, buffer in self._arriving:
            if buffer is not place:
                _copy(place, buffer)
        self._operations.clear()


def _copy(place: Tensor, part: Tensor) -> Tensor:
    """`place.copy_(part)`, by 16 bytes at a time: PyTorch copies rows with gaps between them number by number."""
    if place.shape[-1] * place.element_size() % 16 == 0 and place.stride(-1) == part.stride(-1) == 1:
        place.view(torch.complex128).copy_(part.view(torch.complex128))
    else:
        place.copy_(part)
    return place


def _share_of(total: int, rank: int, world: int) -> int:
    """How many of `total` the process of a rank has, as `torch.tensor_split` cuts them."""
    size, longer = divmod(total, world)
    return size + (rank < longer)

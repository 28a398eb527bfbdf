"""Adapters in a network: low-rank updates as PEFT adapters, updates of full rank added to the weights themselves.

A network keeps its adapters from run to run. Their weights can change at any time without loading or compiling.

PEFT's layer computes each adapter's update, scales it and adds it, each in a pass of its own over the activations of
all tokens. `AdaptedLinear` computes the update first and lets the matrix product of the base layer add it (`addmm`),
which hides the memory traffic behind arithmetic. The sum is also rounded once less.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from wanavatar_lab.lora.key_names import plain_parameters
from wanavatar_lab.lora.match import Update
from wanavatar_lab.wan import float8


class Adapters:
    """The adapters of one network; get them by `adapters_of`.

    Attributes:
        weights: of the active adapters, by key.
    """

    def __init__(self, network: nn.Module) -> None:
        # weak, since the table of all adapters would keep the network alive by it
        self._reference = ref(network)
        self._diffs: dict[str, dict[str, torch.Tensor]] = {}  # by adapter, then by parameter
        self._originals: dict[str, torch.Tensor] = {}  # on the CPU, of parameters that are changed at present
        self.weights: dict[str, float] = {}

    def loaded(self) -> set[str]:
        """The keys of the adapters in the network, active or not."""
        return set(self._diffs)

    def load(self, key: str, update: Update) -> None:
        """Load an update into the network, with weight 0.

        Args:
            key: of letters, digits and underscores; not yet loaded.
            update: matched with this network.
        """
        diffs = {name: diff.detach().clone() for name, diff in update.diffs.items()}
        if not update.pairs:
            self._diffs[key] = diffs
            return
        network, weights, state = self._network, plain_parameters(self._network), dict[str, Tensor]()
        for module, pair in update.pairs.items():
            dtype = weights[f"{module}.weight"].dtype
            if not dtype.is_floating_point or dtype.itemsize < 2:  # stored in 8 bits, and computed in more
                dtype = network.dtype
            # copies: the file behind a mapped tensor may be replaced while the adapter is in use
            state[f"{module}.lora_A.weight"] = pair.down.to(dtype, copy=True).contiguous()
            state[f"{module}.lora_B.weight"] = pair.up.to(dtype, copy=True).contiguous()
        with warnings.catch_warnings():
            # several adapters are intended
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            network.load_lora_adapter(
                dict(state), prefix=None, adapter_name=key, metadata=_config(update), low_cpu_mem_usage=True
            )
        for name, exact in state.items():
            module, matrix, _ = name.rsplit(".", 2)
            weight = getattr(network.get_submodule(module), matrix)[key].weight
            if weight.dtype != exact.dtype:
                # PEFT has rounded it to the 8 bits of the base layer
                weight.data = exact.to(weight.device)
        for layer in self._layers():
            if key in layer.scaling:
                # a number would be a constant of a compiled graph; a tensor on the CPU works with any device
                layer.scaling[key] = torch.zeros(())
                adapt(layer)
        # not before: what ran out of memory on the way must not be taken for loaded by a later run
        self._diffs[key] = diffs
        self._activate(list(self.weights))
        self._refresh_offload()

    def unload(self, keys: Collection[str]) -> None:
        """Remove adapters from the network; after the last one every layer is as it was before the first."""
        self.set_weights({key: weight for key, weight in self.weights.items() if key not in keys})
        for key in keys:
            self._diffs.pop(key)
        low_rank = [key for key in keys if key in getattr(self._network, "peft_config", {})]
        if low_rank and len(low_rank) == len(self._network.peft_config):
            self._network.unload_lora()
        elif low_rank:
            self._network.delete_adapters(low_rank)
            self._activate(list(self.weights))

    def set_weights(self, weights: Mapping[str, float]) -> bool:
        """Set the weights of all adapters; one that is not named has weight 0.

        An adapter of weight 0 is inactive and costs nothing. In a compiled network it stays active with factor 0, since
        another set of active adapters would be another graph.

        Args:
            weights: by key.

        Returns:
            Whether any weight has changed, so that what was computed with the old ones is out of date.
        """
        if not any(getattr(module, "_compiled_call_impl", None) is not None for module in self._network.modules()):
            weights = {key: weight for key, weight in weights.items() if weight != 0}
        weights = dict(sorted(weights.items()))
        if weights == self.weights:
            return False
        if weights.keys() != self.weights.keys():
            self._activate(list(weights))
        for layer in self._layers():
            for key, weight in weights.items():
                if key in layer.scaling:
                    layer.scaling[key].fill_(weight * layer.lora_alpha[key] / layer.r[key])
        self.weights = weights
        self._set_diffs()
        return True

    @property
    def _network(self) -> Any:
        network = self._reference()
        if network is None:
            raise ReferenceError("The network of these adapters no longer exists; call adapters_of with another.")
        return network

    def _layers(self) -> Iterator[LoraLayer]:
        return (module for module in self._network.modules() if isinstance(module, LoraLayer))

    def _activate(self, keys: list[str]) -> None:
        for layer in self._layers():
            layer.set_adapter(keys, inference_mode=True)

    @torch.no_grad()
    def _set_diffs(self) -> None:
        """Set each parameter that has differences to its original plus all of them, weighted."""
        active = {name for key in self.weights for name in self._diffs[key]}
        changing = active | self._originals.keys()
        if not changing:
            return
        parameters = plain_parameters(self._network)
        rounded = {
            f"{name.removesuffix('.base_layer')}.weight": layer
            for name, layer in float8.quantized(self._network).items()
        }
        for device in {parameters[name].device for name in changing}:
            if device.type == "cuda":  # the copy of an offloaded layer to the GPU may still be under way
                torch.cuda.synchronize(device)
        for name in changing:
            layer = rounded.get(name)
            # of a layer in float8 the exact weight changes, and is rounded again
            parameter = parameters[name] if layer is None else layer.exact
            # from the original each time: adding and subtracting again would not give the same numbers
            original = self._originals.setdefault(name, parameter.detach().to("cpu", copy=True))
            value = original.float()
            for key, weight in self.weights.items():
                if name in self._diffs[key]:
                    value = value + weight * self._diffs[key][name].float()
            parameter.copy_(value if name in active else original)
            if layer is not None:
                layer.round_weight()
            if name not in active:
                del self._originals[name]
        self._refresh_offload()

    def _refresh_offload(self) -> None:
        # diffusers' group offloading has copies of the weights, taken when it was enabled
        _maybe_remove_and_reapply_group_offloading(self._network)


_ADAPTERS: WeakKeyDictionary[nn.Module, Adapters] = WeakKeyDictionary()


def adapters_of(network: nn.Module) -> Adapters:
    """The adapters of a network, the same object at every call."""
    if network not in _ADAPTERS:
        _ADAPTERS[network] = Adapters(network)
    return _ADAPTERS[network]


class AdaptedLinear(lora.Linear):
    """PEFT's `lora.Linear` with a faster forward pass; `adapt` makes one of a layer of PEFT."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        keys = [key for key in self.active_adapters if key in self.lora_A]
        if args or kwargs or not keys or not self._is_plain(x, keys):
            return super().forward(x, *args, **kwargs)
        base, rows = self.base_layer, x.flatten(0, -2)
        in_float8 = isinstance(base, float8.Float8Linear)
        # a product in float8 adds no matrix, so that the updates are added to it
        total: Tensor | None = base(rows) if in_float8 else None
        for key in keys:
            # scaled between the matrices, where there are only `rank` columns
            inner, up = self.lora_A[key](rows) * self.scaling[key], self.lora_B[key].weight.t()
            if total is not None:
                total.addmm_(inner, up)
            else:
                total = inner @ up if base.bias is None else torch.addmm(base.bias, inner, up)
        assert total is not None
        return (total if in_float8 else total.addmm_(rows, base.weight.t())).unflatten(0, x.shape[:-1])

    def _is_plain(self, x: Tensor, keys: list[str]) -> bool:
        """Whether the base layer is one matrix on this device, and each adapter two of them, of the same dtype."""
        base = self.base_layer
        if self.disable_adapters or self.merged or x.ndim < 2 or type(base) not in (nn.Linear, float8.Float8Linear):
            return False
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return False
        if any(key in self.lora_variant or self.lora_bias[key] for key in keys):
            return False
        # hooks that onload or upcast the weights run when the layer is called
        if hasattr(base, "_diffusers_hook") or hasattr(base, "_hf_hook"):
            return False
        if base._forward_pre_hooks or base._forward_hooks:
            return False
        weights = [self.lora_A[key].weight for key in keys] + [self.lora_B[key].weight for key in keys]
        if type(base) is nn.Linear:
            weights.append(base.weight)
        return all(weight.dtype == x.dtype and weight.device == x.device for weight in weights)


def adapt(layer: nn.Module) -> None:
    """Make an `AdaptedLinear` of PEFT's `lora.Linear`, in place; other layers are not changed."""
    if type(layer) is lora.Linear:
        layer.__class__ = AdaptedLinear


def _config(update: Update) -> dict[str, Any]:
    """The arguments of PEFT's `LoraConfig` for an update whose rank and alpha may differ by layer."""
    (rank, _), *_ = Counter(pair.rank for pair in update.pairs.values()).most_common(1)
    # anchored, since PEFT would also take "blocks.0.proj_out" for "proj_out"
    patterns = {module: "^" + module.replace(".", r"\.") for module in update.pairs}
    return {
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(update.pairs),
        "rank_pattern": {patterns[module]: pair.rank for module, pair in update.pairs.items()},
        "alpha_pattern": {patterns[module]: pair.scale * pair.rank for module, pair in update.pairs.items()},
    }

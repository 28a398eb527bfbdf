"""Updates in a network: as PEFT adapters where they are of low rank, on the weights themselves where they are whole.

A network keeps its adapters from run to run. Each has a weight, which can change at any time without loading or
compiling anything anew.

A linear layer with adapters that costs little more than the layer alone.

PEFT's layer writes each adapter's update, scales it, and adds it, in passes of their own over as much memory as all
tokens take. Here the update comes first, and the layer's own product is added to it by the product itself, which is
busy with arithmetic meanwhile. The sum is also rounded once less.
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


class AdaptedLinear(lora.Linear):
    """PEFT's `lora.Linear`, which it also is to PEFT; made of one by `adapt`."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        keys = [key for key in self.active_adapters if key in self.lora_A]
        if args or kwargs or not keys or not self._can_add(x, keys):
            return super().forward(x, *args, **kwargs)
        base, rows = self.base_layer, x.flatten(0, -2)
        total: Tensor | None = None
        for key in keys:
            # the rank is small, and so is what is scaled
            inner, up = self.lora_A[key](rows) * self.scaling[key], self.lora_B[key].weight.t()
            if total is not None:
                total.addmm_(inner, up)
            else:
                total = inner @ up if base.bias is None else torch.addmm(base.bias, inner, up)
        assert total is not None
        return total.addmm_(rows, base.weight.t()).unflatten(0, x.shape[:-1])

    def _can_add(self, x: Tensor, keys: list[str]) -> bool:
        """Whether the layer below is nothing but a matrix that lies here, and the adapters nothing but two."""
        base = self.base_layer
        if self.disable_adapters or self.merged or x.ndim < 2:
            return False
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return False
        if any(key in self.lora_variant or self.lora_bias[key] for key in keys):
            return False
        if type(base) is not nn.Linear or _is_hooked(base):
            return False
        weights = [base.weight, *(self.lora_A[key].weight for key in keys), *(self.lora_B[key].weight for key in keys)]
        return all(weight.dtype == x.dtype and weight.device == x.device for weight in weights)


def adapt(layer: nn.Module) -> None:
    """Let a layer of PEFT compute as `AdaptedLinear`; others stay as they are."""
    if type(layer) is lora.Linear:
        layer.__class__ = AdaptedLinear


def _is_hooked(layer: nn.Module) -> bool:
    # what moves weights to and fro, or widens them, acts when the layer is called
    return (
        hasattr(layer, "_diffusers_hook")
        or hasattr(layer, "_hf_hook")
        or bool(layer._forward_pre_hooks or layer._forward_hooks)
    )


_REGEX_DOT = r"\."


class Adapters:
    """The adapters of one network; get them by `adapters_of`.

    Attributes:
        weights: of the adapters that count now.
    """

    def __init__(self, network: nn.Module) -> None:
        # weak, since the table of all adapters would keep the network alive by it
        self._reference = ref(network)
        self._diffs: dict[str, dict[str, torch.Tensor]] = {}  # by adapter, then by parameter
        self._originals: dict[str, torch.Tensor] = {}  # of parameters that differ now
        self.weights: dict[str, float] = {}

    @property
    def _network(self) -> Any:
        network = self._reference()
        if network is None:
            raise ReferenceError("The network of these adapters is gone; ask adapters_of for those of another.")
        return network

    def loaded(self) -> set[str]:
        """The keys of the adapters in the network, whether they count or not."""
        return set(self._diffs)

    def load(self, key: str, update: Update) -> None:
        """Put an update into the network, where it does not count until `set_weights` says so.

        Args:
            key: of letters, digits and underscores; not yet used here.
            update: matched with this network.
        """
        self._diffs[key] = {name: diff.detach().clone() for name, diff in update.diffs.items()}
        if not update.pairs:
            return
        state, config = dict(self._state(update)), _config(update)
        with warnings.catch_warnings():
            # several adapters are what is wanted here
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            self._network.load_lora_adapter(
                dict(state), prefix=None, adapter_name=key, metadata=config, low_cpu_mem_usage=True
            )
        for name, exact in state.items():
            module, matrix, _ = name.rsplit(".", 2)
            weight = getattr(self._network.get_submodule(module), matrix)[key].weight
            if weight.dtype != exact.dtype:
                # PEFT has rounded it to the 8 bits of the layer below
                weight.data = exact.to(weight.device)
        for layer in self._layers():
            if key in layer.scaling:
                # a number would be part of a compiled graph; on the CPU it is there for a weight on any device
                layer.scaling[key] = torch.zeros(())
                adapt(layer)
        self._activate(list(self.weights))
        self._follow_offload()

    def unload(self, keys: Collection[str]) -> None:
        """Take adapters out of the network; with the last one every layer is as it was before the first."""
        self.set_weights({key: weight for key, weight in self.weights.items() if key not in keys})
        for key in keys:
            self._diffs.pop(key)
        mine = [key for key in keys if key in getattr(self._network, "peft_config", {})]
        if mine and len(mine) == len(self._network.peft_config):
            self._network.unload_lora()
        elif mine:
            self._network.delete_adapters(mine)
            self._activate(list(self.weights))

    def set_weights(self, weights: Mapping[str, float]) -> bool:
        """Set the weights of all adapters; what is not named does not count.

        An adapter of weight 0 is out of the computation. In a compiled network it stays in it, with factor 0: another
        set of active adapters would be another graph.

        Args:
            weights: by key.

        Returns:
            Whether anything is different now, so that what was computed with the old weights no longer holds.
        """
        if not self._is_compiled():
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
        self._set_differences()
        return True

    def _layers(self) -> Iterator[LoraLayer]:
        return (module for module in self._network.modules() if isinstance(module, LoraLayer))

    def _activate(self, keys: list[str]) -> None:
        for layer in self._layers():
            layer.set_adapter(keys, inference_mode=True)

    @torch.no_grad()
    def _set_differences(self) -> None:
        """Let the weights themselves be the originals plus every weighted difference."""
        counted = {name for key in self.weights for name in self._diffs[key]}
        touched = counted | self._originals.keys()
        if not touched:
            return
        parameters = plain_parameters(self._network)
        for device in {parameters[name].device for name in touched}:
            if device.type == "cuda":  # a layer that is offloaded may still be on its way there
                torch.cuda.synchronize(device)
        for name in touched:
            parameter = parameters[name]
            # from the original each time: adding and taking away again would not give the same numbers
            original = self._originals.setdefault(name, parameter.detach().to("cpu", copy=True))
            value = original.float()
            for key, weight in self.weights.items():
                if name in self._diffs[key]:
                    value = value + weight * self._diffs[key][name].float()
            parameter.copy_(value if name in counted else original)
            if name not in counted:
                del self._originals[name]
        self._follow_offload()

    def _follow_offload(self) -> None:
        # layers that are offloaded one by one have copies of their weights beside them
        _maybe_remove_and_reapply_group_offloading(self._network)

    def _is_compiled(self) -> bool:
        return any(getattr(module, "_compiled_call_impl", None) is not None for module in self._network.modules())

    def _state(self, update: Update) -> Iterator[tuple[str, torch.Tensor]]:
        weights = plain_parameters(self._network)
        for module, pair in update.pairs.items():
            dtype = weights[f"{module}.weight"].dtype
            if not dtype.is_floating_point or dtype.itemsize < 2:  # stored in 8 bits, and widened while it computes
                dtype = self._network.dtype
            # copies: the file behind a mapped tensor may be replaced while the adapter is in use
            yield f"{module}.lora_A.weight", pair.down.to(dtype, copy=True).contiguous()
            yield f"{module}.lora_B.weight", pair.up.to(dtype, copy=True).contiguous()


_ADAPTERS: WeakKeyDictionary[nn.Module, Adapters] = WeakKeyDictionary()


def adapters_of(network: nn.Module) -> Adapters:
    """The adapters of a network, the same object at every call."""
    if network not in _ADAPTERS:
        _ADAPTERS[network] = Adapters(network)
    return _ADAPTERS[network]


def _config(update: Update) -> dict[str, Any]:
    """The arguments of PEFT's `LoraConfig` for an update whose rank and alpha may differ by layer."""
    (rank, _), *_ = Counter(pair.rank for pair in update.pairs.values()).most_common(1)
    # anchored, since PEFT would also take "blocks.0.proj_out" for "proj_out"
    patterns = {module: "^" + module.replace(".", _REGEX_DOT) for module in update.pairs}
    return {
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(update.pairs),
        "rank_pattern": {patterns[module]: pair.rank for module, pair in update.pairs.items()},
        "alpha_pattern": {patterns[module]: pair.scale * pair.rank for module, pair in update.pairs.items()},
    }

"""The worker's cache of loaded models: of the stage that ran last, and of earlier ones while main memory has room."""

import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from wanavatar_lab.memory import free_host_bytes
from wanavatar_lab.memory.components import bytes_to_load
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import Request
from wanavatar_lab.settings import read_settings

# The share of free main memory for cached models and those that are loaded next. A stage on the GPU needs little main
# memory itself; on the CPU it is also where activations are, which for a video are larger than the models.
SHARES = {"cpu": 0.25, "cuda": 0.8}


class ModelCache:
    """Models are loaded once and kept: those that ran last on the device, earlier ones in main memory.

    Models can be kept in main memory if they have two methods: `offload_to_host()`, which leaves the GPU so that the
    stage's next run brings them back, and `host_bytes()`, the main memory that they take meanwhile. Others are released
    when another stage runs.

    Attributes:
        device: where stages compute: cpu, cuda or cuda:<n>.
        name: the models on the device, as stage/profile; None if there are none.
        waiting: the models that are kept in main memory, by stage/profile, least recently used first.
    """

    def __init__(self, device: str, free_bytes: Callable[[], int] = free_host_bytes) -> None:
        """`free_bytes` returns the free main memory in bytes."""
        self.device = device
        self.name: str | None = None
        self._models: Any = None
        self.waiting: dict[str, Any] = {}
        self._free_bytes = free_bytes

    def models(self, request: Request, module: ModuleType) -> Any:
        """The models for `request`, from main memory or loaded now.

        Earlier models leave the device before others are loaded, and stay usable if loading fails.

        Raises:
            WeightsError: a file is damaged.
            Exception: whatever the stage raises when it loads.
        """
        name = _name(request)
        if name != self.name:
            self._move_to_main_memory()
            if name in self.waiting:
                models = self.waiting.pop(name)
            else:
                profile = PROFILES[request.profile]
                # a custom stage whose models are not among the profile's files states their size itself
                if (own := getattr(module, "bytes_to_load", None)) is not None:
                    needed = int(own())
                else:
                    needed = bytes_to_load(profile, request.stage, read_settings().weights_dir, self.device)
                self._make_room(needed)
                models = module.load(profile, self.device)
            self.name, self._models = name, models
        return self._models

    def host_free(self, request: Request) -> int | None:
        """Main memory that the models of a request may take, in bytes; None if they are loaded."""
        name = _name(request)
        return None if name == self.name or name in self.waiting else self._free_bytes() + sum(self._held().values())

    def forget(self) -> None:
        """Release the models that ran last, which may be in any state after the GPU's memory ran out."""
        self.name, self._models = None, None
        _collect()

    def release(self) -> None:
        """Release all models, and the memory that torch caches."""
        self.waiting.clear()
        self.forget()

    def _move_to_main_memory(self) -> None:
        name, models = self.name, self._models
        # released if they fail to leave the device, so that they are not taken for usable
        self.name, self._models = None, None
        methods = ("offload_to_host", "host_bytes")
        if name is not None and all(callable(getattr(models, method, None)) for method in methods):
            models.offload_to_host()
            self.waiting[name] = models
            self._make_room(0)
        del models
        _collect()

    def _make_room(self, needed: int) -> None:
        """Release models, least recently used first, until the others and `needed` bytes fit into their share."""
        held = self._held()
        share = SHARES[self.device.partition(":")[0]]
        allowed = share * (self._free_bytes() + sum(held.values()))
        for name in list(held):
            if sum(held.values()) + needed <= allowed:
                return
            del held[name], self.waiting[name]
            _collect()

    def _held(self) -> dict[str, int]:
        return {name: models.host_bytes() for name, models in self.waiting.items()}


def _name(request: Request) -> str:
    return f"{request.stage}/{request.profile}"


def _collect() -> None:
    # pipelines and their hooks refer to each other, so that only the garbage collector frees them
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

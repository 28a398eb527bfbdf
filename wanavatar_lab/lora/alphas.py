"""The scale that a file means: alpha / rank, wherever its maker noted alpha.

A tensor `<module>.alpha` counts first, then what PEFT or diffusers noted for that very module, then the one alpha of
the whole file. Where nothing is noted the scale is 1.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.keys import squash

_ADAPTER_METADATA = "lora_adapter_metadata"  # JSON of the adapter's config, as diffusers saves it
_KOHYA_ALPHA = "ss_network_alpha"


@dataclass(frozen=True)
class NotedAlphas:
    """What a file's metadata says of alpha.

    Attributes:
        alpha: of the whole file, or None.
        by_module: of single modules, as patterns of their names.
        rank_stabilised: the scale is alpha / √rank (rsLoRA, https://huggingface.co/papers/2312.03732).
    """

    alpha: float | None = None
    by_module: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def scale(self, module: str, rank: int, alpha: float | None) -> float:
        """The scale of a module's update.

        Args:
            module: its name in the file, as `parse_key` gives it.
            rank: of its matrices.
            alpha: of its own alpha tensor, or None.
        """
        if alpha is None:
            named = (value for name, value in self.by_module.items() if _is_named(module, name))
            alpha = next(named, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def noted_alphas(metadata: Mapping[str, str], where: str, low_noise: bool = False) -> NotedAlphas:
    """Read them.

    Args:
        metadata: of the safetensors file.
        where: what to call the file in an error.
        low_noise: read those of the low-noise expert, of a file that holds both experts' updates.

    Raises:
        WeightsError: the metadata is damaged, so that the scale is not known.
    """
    try:
        if _ADAPTER_METADATA in metadata:
            return _of_adapter(json.loads(metadata[_ADAPTER_METADATA]), low_noise)
        noted = metadata.get(_KOHYA_ALPHA, "None")
        return NotedAlphas(None if noted in ("None", "") else float(noted))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{where} notes its alpha in a way that cannot be read ({error}). Download it again."
        ) from error


def _of_adapter(config: Mapping[str, Any], low_noise: bool) -> NotedAlphas:
    # diffusers puts the network's name in front, PEFT does not
    plain = {
        name.removeprefix("transformer_2.").removeprefix("transformer."): value
        for name, value in config.items()
        if name.startswith("transformer_2.") == low_noise
    }
    alpha = plain.get("lora_alpha")
    patterns = {str(name): float(value) for name, value in (plain.get("alpha_pattern") or {}).items()}
    return NotedAlphas(None if alpha is None else float(alpha), patterns, bool(plain.get("use_rslora")))


def _is_named(module: str, pattern: str) -> bool:
    plain = squash(re.sub(r"[\\^$]", "", pattern))
    return module == plain or module.endswith(f"_{plain}")

"""LoRA files that reach modules which only S2V has, for `load_lora_weights`.

diffusers knows what the reference calls the layers that all Wan networks have, and refuses a file with any other. Here
such a file comes to our names; the rest is diffusers' work.
"""

from collections.abc import Iterable, Mapping

import torch

from .vocabulary import our_name

_PREFIX = "diffusion_model."
_OWN = tuple(
    f"{_PREFIX}{module}." for module in ("audio_injector", "casual_audio_encoder", "cond_encoder", "frame_packer")
)
_DOWN, _UP = (".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight")


def has_own_modules(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a file reaches layers that only S2V has, by the reference's names."""
    return any(key.startswith(_OWN) for key in tensors)


def in_our_names(tensors: Mapping[str, torch.Tensor], inject_layers: Iterable[int]) -> dict[str, torch.Tensor]:
    """The same LoRA by our names behind `transformer.`, each alpha multiplied into its matrix.

    Raises:
        ValueError: a key is not of a LoRA.
    """
    layers, found = tuple(inject_layers), dict[str, torch.Tensor]()
    for key, tensor in tensors.items():
        ending = next((end for end in (*_DOWN, *_UP, ".alpha") if key.endswith(end)), None)
        if ending is None:
            raise ValueError(f"{key} is no part of a LoRA, and load_lora_weights takes nothing else.")
        if ending == ".alpha":
            continue
        module = key.removesuffix(ending)
        ours = our_name(f"{module.removeprefix(_PREFIX)}.weight", layers).removesuffix(".weight")
        if ending in _UP:
            found[f"transformer.{ours}.lora_B.weight"] = tensor
            continue
        alpha = tensors.get(f"{module}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / len(tensor)
        found[f"transformer.{ours}.lora_A.weight"] = tensor * scale
    return found

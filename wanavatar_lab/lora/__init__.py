"""LoRAs: find them, read every format that they come in, match them with a network, and set their weights per step.

    find        the LoRAs on disk, with what headers and sidecars say
    sidecar     trigger words, preview and usual weight, from the files beside a LoRA
    resolve     the LoRAs that a request names
    base_model  the model that a LoRA was trained for
    keys        keys and alphas of a LoRA file
    key_names   names of a network's weights, in diffusers' vocabulary and the reference's
    match       a file's tensors as updates of a network's weights, or an error that names what does not fit
    adapters    updates in a network, each with its weight
    apply       the LoRAs of a request in the networks of a stage, step by step

The names below import no torch, so that a command line or a web page can list LoRAs.
"""

from wanavatar_lab.lora.find import Adapter, Description, describe, find_adapters
from wanavatar_lab.lora.resolve import check_loras, trained_for_inpainting, with_usual_weights

__all__ = [
    "Adapter",
    "Description",
    "check_loras",
    "describe",
    "find_adapters",
    "trained_for_inpainting",
    "with_usual_weights",
]


def __dir__() -> list[str]:
    return __all__

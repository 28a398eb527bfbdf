"""LoRAs: find them, read every format they come in, match them with a network, weigh them step by step.

    header      names, shapes and metadata of a safetensors file
    keys        what a key of a LoRA file says: which module, and which part of an update
    alphas      the scale that a file means by its alphas
    bases       which model a LoRA was made for
    sidecar     trigger words and preview, from what lies beside the file
    find        the LoRAs there are
    choose      those that a request names
    names       what others call the modules of our networks
    match       a file's tensors as updates of a network's weights, or an error that names what does not fit
    layer       a linear layer with adapters
    adapters    the updates in a network, each with its weight
    schedule    which weight counts at which noise level
    apply       all of it, for a stage

The package's own names import no torch: a command line or a web page lists LoRAs without it.
"""

from wanavatar_lab.lora.find import Adapter, Description, describe, find_adapters
from wanavatar_lab.lora.resolve import check_loras

__all__ = ["Adapter", "Description", "check_loras", "describe", "find_adapters"]

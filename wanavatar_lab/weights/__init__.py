"""Weights: what is needed, what is on disk, how to download it, and whether it is as published.

    wanavatar-lab weights list | download NAME... | verify [NAME...] | where [NAME...]

`WEIGHTS` is the table. `look` lists what is on disk, `download` fetches what is missing or corrupt, `verify` compares
hashes. Nothing here imports torch, and huggingface_hub is imported only when it is used.
"""

from wanavatar_lab.weights.download import Report, Step, download, verify
from wanavatar_lab.weights.folders import Found, look
from wanavatar_lab.weights.table import (
    WEIGHTS,
    Layout,
    Link,
    Weights,
    amount,
    append_download_command,
    find_weights,
    licence_page,
    missing_weights,
    weights_at,
    weights_of_lora,
)

__all__ = [
    "WEIGHTS",
    "Found",
    "Layout",
    "Link",
    "Report",
    "Step",
    "Weights",
    "amount",
    "append_download_command",
    "download",
    "find_weights",
    "licence_page",
    "look",
    "missing_weights",
    "verify",
    "weights_at",
    "weights_of_lora",
]


def __dir__() -> list[str]:
    return __all__

"""What is needed, where it lies, how to get it, and whether it is whole.

    wanavatar-lab weights list | download NAME... | verify [NAME...] | where [NAME...]

`WEIGHTS` is the table. `look` says what lies there, `download` fetches what is missing or damaged, `verify` compares
hashes. Nothing here imports torch, and what talks to the hub is imported when it does.
"""

from wanavatar_lab.weights.download import Report, Step, download, verify
from wanavatar_lab.weights.folders import Found, look
from wanavatar_lab.weights.table import WEIGHTS, Layout, Link, Weights, amount, find_weights, not_there, says_how_to_get

__all__ = [
    "WEIGHTS",
    "Found",
    "Layout",
    "Link",
    "Report",
    "Step",
    "Weights",
    "amount",
    "download",
    "find_weights",
    "look",
    "not_there",
    "says_how_to_get",
    "verify",
]

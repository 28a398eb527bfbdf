"""What the reference calls the weights of a Wan network, and what diffusers calls them.

One set of tables, `key_names.toml`, for checkpoints and for LoRA files.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path

_TABLES: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# as pairs (diffusers' name, the reference's): within a block, within an attention, and outside of blocks
BLOCK = tuple(_TABLES["block"].items())
ATTENTION = tuple(_TABLES["attention"].items())
OUTSIDE = tuple(_TABLES["outside"].items())
# the reference's name → transformers', within a block of the text encoder
UMT5_BLOCK = {theirs: ours for ours, theirs in _TABLES["umt5_block"].items()}


def to_diffusers(name: str, table: Iterable[tuple[str, str]]) -> str:
    """A name of the reference with its beginning replaced by diffusers'; one that is not in the table stays."""
    return _replaced(name, ((theirs, ours) for ours, theirs in table))


def to_reference(name: str, table: Iterable[tuple[str, str]]) -> str:
    """A name of diffusers with its beginning replaced by the reference's; one that is not in the table stays."""
    return _replaced(name, table)


def _replaced(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        # whole parts only: "norm2" is no beginning of "norm20"
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name

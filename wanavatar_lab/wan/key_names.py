"""What the reference calls the weights of a Wan network, and what diffusers calls them.

One table for checkpoints and for LoRA files, as pairs (diffusers' name, the reference's).
"""

from collections.abc import Iterable

# at the beginning of a name within a block
BLOCK = (
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    # the reference counts the norms in the order norm1, norm3, norm2; only the middle one has weights
    ("norm2", "norm3"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("scale_shift_table", "modulation"),
)
# at the beginning of a name within an attention; those with `_img` are of Wan2.1-I2V's attention to the picture
ATTENTION = (
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "o"),
    ("add_k_proj", "k_img"),
    ("add_v_proj", "v_img"),
    ("norm_added_k", "norm_k_img"),
)
# at the beginning of a name outside of the blocks
OUTSIDE = (
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("proj_out", "head.head"),
    ("scale_shift_table", "head.modulation"),
)


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

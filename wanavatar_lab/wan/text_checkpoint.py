"""Names and config of the reference's `models_t5_umt5-xxl-enc-bf16.pth` as transformers' `UMT5EncoderModel`."""

import re
from collections.abc import Mapping

from transformers import UMT5Config

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.wan.key_names import UMT5_BLOCK

TEXT_LENGTH = 512  # tokens that a Wan network takes: longer texts are cut, shorter ones padded with zeros

_OUTER = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)\.weight$")


def text_encoder_name(name: str) -> str:
    """The name in `UMT5EncoderModel` of a tensor named as in the reference; an unknown name comes back as it is."""
    if (match := _BLOCK.match(name)) and match[2] in UMT5_BLOCK:
        return f"encoder.block.{match[1]}.{UMT5_BLOCK[match[2]]}.weight"
    return _OUTER.get(name, name)


def text_encoder_config(shapes: Mapping[str, tuple[int, ...]], where: str) -> UMT5Config:
    """The config of a UMT5 encoder, read off the shapes of the tensors in the reference's layout.

    Args:
        shapes: name → shape.
        where: what to call the file in an error.

    Raises:
        WeightsError: the tensors are not those of a UMT5 encoder with a position table in each block.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise WeightsError(f"{where} lacks {name}; it is no UMT5 encoder in the reference's layout.")
        return shapes[name]

    vocab_size, d_model = shape("token_embedding.weight")
    buckets, num_heads = shape("blocks.0.pos_embedding.embedding.weight")
    inner = shape("blocks.0.attn.q.weight")[0]
    if inner % num_heads:
        raise WeightsError(f"{where} has attention of width {inner}, which {num_heads} heads do not divide.")
    return UMT5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=inner // num_heads,
        d_ff=shape("blocks.0.ffn.fc1.weight")[0],
        num_layers=1 + max(int(match[1]) for name in shapes if (match := _BLOCK.match(name))),
        num_heads=num_heads,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
        tie_word_embeddings=True,
    )

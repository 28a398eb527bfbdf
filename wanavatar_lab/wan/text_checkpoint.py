"""The reference's `models_t5_umt5-xxl-enc-bf16.pth` as transformers' `UMT5EncoderModel`."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import UMT5Config, UMT5EncoderModel

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.wan.checkpoint_files import compare_names, fill, model_shapes, read_state_dict, stored_names

TEXT_LENGTH = 512  # tokens that a Wan network takes: longer texts are cut, shorter ones padded with zeros

_OUTER = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)\.weight$")
_IN_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",  # the branch through the activation
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def text_encoder_name(name: str) -> str:
    """The name in `UMT5EncoderModel` of a tensor named as in the reference; an unknown name comes back as it is."""
    if (match := _BLOCK.match(name)) and match[2] in _IN_BLOCK:
        return f"encoder.block.{match[1]}.{_IN_BLOCK[match[2]]}.weight"
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


def read_text_encoder(
    file: Path, torch_dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> UMT5EncoderModel:
    """Read a text encoder file in the published layout (`models_t5_umt5-xxl-enc-bf16.pth`), of that size or smaller.

    Args:
        file: what `torch.save` wrote of the reference's `state_dict`.
        torch_dtype: dtype of the weights.
        device: where they go.

    Returns:
        the encoder in evaluation mode, its weights frozen.

    Raises:
        WeightsError: the file is missing, damaged or holds more than tensors; or a tensor is missing, left over or of
            another shape.
    """
    tensors = read_state_dict(file)
    config = text_encoder_config({name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(file))
    config.dtype = torch_dtype
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    stored = stored_names(tensors, text_encoder_name, str(file))
    renamed = {ours: tensors[theirs] for ours, theirs in stored.items()}
    compare_names({name: tuple(tensor.shape) for name, tensor in renamed.items()}, model_shapes(encoder), str(file))
    # transformers keeps these in float32 when the rest is float16, whose range they exceed
    in_float32 = UMT5EncoderModel._keep_in_fp32_modules or () if torch_dtype == torch.float16 else ()
    fill(encoder, renamed.items(), torch_dtype, device, in_float32)
    encoder.tie_weights()
    return encoder.eval()

"""`models_t5_umt5-xxl-enc-bf16.pth` as UMT5EncoderModel: every published name, and the same text embeddings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import UMT5Config, UMT5EncoderModel

from tests.s2v.published import GOLDEN, published_shapes
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.wan.checkpoint_files import compare_names, model_shapes
from wanavatar_lab.wan.load import load_text_encoder
from wanavatar_lab.wan.text_checkpoint import text_encoder_config, text_encoder_name

TOY = UMT5Config(vocab_size=60, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
# the reference gates as fc2(fc1(x) · gelu(gate(x))), transformers as wo(gelu(wi_0(x)) · wi_1(x))
REFERENCE = {
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.0.SelfAttention": "attn",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}


def reference_name(name: str) -> str:
    for ours, theirs in REFERENCE.items():
        name = name.replace(ours, theirs)
    name = name.replace("encoder.block.", "blocks.").replace("encoder.final_layer_norm", "norm")
    return name.replace("shared.", "token_embedding.")


def toy_encoder() -> UMT5EncoderModel:
    torch.manual_seed(0)
    encoder = UMT5EncoderModel(TOY)
    for name, weight in encoder.named_parameters():
        # norms start at one, where a mix-up would not show
        torch.nn.init.normal_(weight, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return encoder.eval()


def stored(encoder: UMT5EncoderModel) -> dict[str, torch.Tensor]:
    return {reference_name(name): tensor.detach() for name, tensor in encoder.named_parameters()}


def embed(encoder: UMT5EncoderModel) -> torch.Tensor:
    ids = torch.arange(2 * 30).reshape(2, 30) % TOY.vocab_size
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    with torch.no_grad():
        states: torch.Tensor = encoder(ids, attention_mask=mask).last_hidden_state
    return states


def test_every_published_tensor_has_its_place() -> None:
    shapes = published_shapes("umt5_xxl_encoder")
    assert len(shapes) == 242
    config = text_encoder_config(shapes, "models_t5_umt5-xxl-enc-bf16.pth")
    assert (config.vocab_size, config.d_model, config.d_ff, config.d_kv) == (256384, 4096, 10240, 64)
    assert (config.num_heads, config.num_layers, config.relative_attention_num_buckets) == (64, 24, 32)
    assert (config.feed_forward_proj, config.dense_act_fn, config.layer_norm_epsilon) == (
        "gated-gelu",
        "gelu_new",
        1e-6,
    )
    assert config.relative_attention_max_distance == 128
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    renamed = {text_encoder_name(name): shape for name, shape in shapes.items()}
    assert len(renamed) == 242
    compare_names(renamed, model_shapes(encoder), "models_t5_umt5-xxl-enc-bf16.pth")


def test_a_file_of_the_reference_gives_the_embeddings_of_the_reference() -> None:
    # t5.pth is the state_dict of the reference's own encoder at toy size; 150 tokens reach every bucket of positions
    encoder = load_text_encoder(GOLDEN / "reference_parts" / "t5.pth", torch_dtype=torch.float32)
    io = load_file(GOLDEN / "reference_parts" / "io.safetensors")
    with torch.no_grad():
        states = encoder(io["ids"], attention_mask=io["mask"]).last_hidden_state
    kept = io["mask"].bool()
    assert torch.linalg.norm(states[kept] - io["text"][kept]) <= 1e-5 * torch.linalg.norm(io["text"][kept])


def test_a_stored_encoder_embeds_as_before(tmp_path: Path) -> None:
    encoder = toy_encoder()
    torch.save(stored(encoder), tmp_path / "t5.pth")
    loaded = load_text_encoder(tmp_path / "t5.pth", torch_dtype=torch.float32)
    assert torch.equal(embed(loaded), embed(encoder))
    assert loaded.encoder.embed_tokens.weight is loaded.shared.weight
    assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())

    loaded.save_pretrained(tmp_path / "text_encoder")
    again = UMT5EncoderModel.from_pretrained(tmp_path / "text_encoder", dtype=torch.float32)
    assert torch.equal(embed(again), embed(encoder))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_are_those_that_transformers_gives(tmp_path: Path, dtype: torch.dtype) -> None:
    encoder = toy_encoder()
    torch.save(stored(encoder), tmp_path / "t5.pth")
    encoder.save_pretrained(tmp_path / "text_encoder")
    loaded = load_text_encoder(tmp_path / "t5.pth", torch_dtype=dtype)
    theirs = dict(UMT5EncoderModel.from_pretrained(tmp_path / "text_encoder", dtype=dtype).named_parameters())
    assert loaded.dtype == dtype
    for name, weight in loaded.named_parameters():
        assert weight.dtype == theirs[name].dtype, name
        assert torch.equal(weight, theirs[name]), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop("blocks.1.attn.k.weight"),
            r"1 tensor missing: encoder\.block\.1\.layer\.0\.SelfAttention\.k\.",
        ),
        (lambda t: t.update({"pos_embedding.embedding.weight": torch.ones(32, 4)}), "left over: pos_embedding"),
        (
            lambda t: t.update({"blocks.1.ffn.fc2.weight": torch.ones(24, 41)}),
            r"wo\.weight is \[24, 41\], need \[24, 40\]",
        ),
        (lambda t: t.pop("token_embedding.weight"), r"lacks token_embedding\.weight; it is no UMT5 encoder"),
        (lambda t: t.update({"blocks.0.attn.q.weight": torch.ones(30, 24)}), "width 30, which 4 heads do not divide"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    tensors = stored(toy_encoder())
    change(tensors)
    torch.save(tensors, tmp_path / "t5.pth")
    with pytest.raises(WeightsError, match=said):
        load_text_encoder(tmp_path / "t5.pth")

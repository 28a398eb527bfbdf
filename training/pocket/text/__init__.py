"""The toy world's text encoder: a tokenizer trained on its captions, and a small UMT5 that the video models share."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from training.pocket.world.attributes import sample_attributes
from training.pocket.world.captions import caption
from training.pocket.world.motion import sample_actions

VOCABULARY = 1024
SPECIAL = ("<pad>", "</s>", "<unk>")  # T5's own order
# a tokenizer with its text encoder
Words = tuple[PreTrainedTokenizerFast, UMT5EncoderModel]
CONFIG = UMT5Config(
    vocab_size=VOCABULARY,
    d_model=128,
    d_kv=32,
    d_ff=256,
    num_layers=3,
    num_heads=4,
    dropout_rate=0.0,
    tie_word_embeddings=True,
)


def captions(count: int, seed: int) -> list[str]:
    """Captions of `count` avatars; every second one also describes actions."""
    return captions_with_actions(count, seed)[0]


def captions_with_actions(count: int, seed: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Captions of `count` avatars, and the actions that each names."""
    attributes = sample_attributes(count, seed)
    actions = [names if i % 2 else () for i, names in enumerate(sample_actions(count, seed))]
    texts = [caption(attributes, i, seed, actions=actions[i], brief=i % 4 == 3) for i in range(count)]
    return texts, actions


def train_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """Train byte-pair encoding on captions; unknown words fall back to letters and bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions(20_000, seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def build_text_encoder(seed: int = 0) -> UMT5EncoderModel:
    """The toy UMT5 at initialisation."""
    torch.manual_seed(seed)
    return UMT5EncoderModel(CONFIG)


def embed(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, length: int = 64
) -> torch.Tensor:
    """Embeddings [B, length, d_model] as the pipelines compute them: zeros at padding."""
    return embed_tokens(*tokens_of(texts, tokenizer, length), encoder)


def tokens_of(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, length: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask (1 where not padding), [B, length] each."""
    tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def embed_tokens(tokens: torch.Tensor, mask: torch.Tensor, encoder: UMT5EncoderModel) -> torch.Tensor:
    """Embeddings [B, length, d_model] from the output of `tokens_of`."""
    mask = mask.to(encoder.device)
    states = encoder(tokens.to(encoder.device), mask).last_hidden_state
    return states * mask[..., None].to(states.dtype)


def load_words(folder: Path, device: torch.device | str = "cpu") -> Words:
    """Load the tokenizer and the frozen text encoder from a folder that has both."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    return tokenizer, encoder.to(device).eval().requires_grad_(False)

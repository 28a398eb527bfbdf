"""The words of the toy world: a tokenizer learnt from its captions, and a small UMT5 that the video models share."""

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from training.pocket.world.attributes import sample_attributes
from training.pocket.world.captions import caption
from training.pocket.world.motion import sample_actions

VOCABULARY = 1024
SPECIAL = ("<pad>", "</s>", "<unk>")  # T5's own order
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
    """Captions of `count` avatars, half of them of clips in which something is done."""
    attributes = sample_attributes(count, seed)
    actions = sample_actions(count, seed)
    return [caption(attributes, i, seed, actions=actions[i] if i % 2 else (), brief=i % 4 == 3) for i in range(count)]


def train_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """Byte-pair encoding learnt from captions; a word that it does not know falls into letters and bytes."""
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
    """The toy UMT5 before training."""
    torch.manual_seed(seed)
    return UMT5EncoderModel(CONFIG)


def embed(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, length: int = 64
) -> torch.Tensor:
    """Embeddings [B, length, d_model] as the pipelines make them: zeros where a text has ended."""
    tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    mask = tokens.attention_mask.to(encoder.device)
    states = encoder(tokens.input_ids.to(encoder.device), mask).last_hidden_state
    return states * mask[..., None].to(states.dtype)

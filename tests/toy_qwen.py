"""A language model of Qwen2.5's classes with some thousand weights, in a folder as the published one is."""

from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

NAME = "Qwen2.5-7B-Instruct"
START, END = "<|im_start|>", "<|im_end|>"
# as Qwen2.5's, without tools
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def random_model(folder: Path, seed: int = 0) -> Path:
    """Write one that says what its random weights make of the conversation."""
    torch.manual_seed(seed)
    words = tokenizer()
    return _save(folder, words, _model(words, width=16))


def reciting_model(folder: Path, sentence: str) -> Path:
    """Write a model that answers every prompt with `sentence`, whose words all differ.

    Its layers add nothing, and its output layer leads from each word to the next.
    """
    first, *others = sentence.split(" ")
    said = [first, *(f" {word}" for word in others)] if first else []
    words = tokenizer(*said)
    chain = [words.encode("\n")[0], *words.convert_tokens_to_ids([*said, END])]  # the line of the assistant ends so
    model = _model(words, width=len(chain) + -len(chain) % 4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        for place, (word, following) in enumerate(pairwise(chain)):
            model.model.embed_tokens.weight[word, place] = 1
            model.lm_head.weight[following, place] = 20  # so that sampling draws no other
    return _save(folder, words, model)


def tokenizer(*words: str) -> Qwen2Tokenizer:
    """One token for each byte, and for each of `words`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, START, END])}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=[], eos_token=END, pad_token=END, unk_token=END)
    made.add_special_tokens({"additional_special_tokens": [START]})
    made.add_tokens([AddedToken(word, normalized=False) for word in words])
    made.chat_template = CHAT
    return made


def _model(words: Qwen2Tokenizer, width: int) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.5,
        eos_token_id=words.convert_tokens_to_ids(END),
        bos_token_id=None,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config).eval()


def _save(folder: Path, words: Qwen2Tokenizer, model: Qwen2ForCausalLM) -> Path:
    # the published values, but for a penalty on repetition, which greedy search would use too
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8, top_k=20)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder

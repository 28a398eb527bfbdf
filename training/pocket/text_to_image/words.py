"""The tokenizer: Qwen's class and pre-tokenization, with a vocabulary trained on prompts.

It is a byte-level BPE, so that nothing is unknown: unseen words fall back to letters.
"""

import json
from collections.abc import Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from training.pocket.text_to_image.prompts import prompt
from training.pocket.world.attributes import sample_attributes

VOCABULARY = 1024
PAD = "<|endoftext|>"
SPECIAL = (PAD, "<|im_start|>", "<|im_end|>", "<think>", "</think>")
# Qwen3's chat template; the pipeline renders it with thinking disabled
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# words of users' prompts that the toy world's prompts lack
_EVERYDAY = """
user assistant he she they his her their it this that is are was has have wears wear looks looking shows showing
please draw make create show me image drawing illustration character person people face head portrait painting photo
young old adult child kid teenager baby friend mother father doctor teacher student king queen
big small tall thin fat long short bright light dark deep pale colourful colorful beautiful pretty cute handsome cool
nice friendly serious sad angry surprised happy laughing shy proud calm eyes mouth nose ears lips eyebrows teeth chin
coat jacket scarf tie cap crown necklace ring sunglasses uniform jeans blouse top clothes shoes
gold golden silver grey gray blonde ginger violet turquoise navy beige cyan magenta maroon lime
forest beach city street room sky sea mountain garden house window night day sun moon star snow rain summer winter
one two three some many very more most with without and or but not no of in on at by from to for the a an
style realistic anime cartoon comic sketch watercolor digital art detailed quality background foreground sitting
standing smiling wearing
"""


def train_tokenizer(seed: int = 0, prompts: int = 20_000) -> Qwen2Tokenizer:
    """Train byte-pair encoding on `prompts` prompts and some everyday words."""
    learner = Tokenizer(models.BPE())
    empty = Qwen2Tokenizer()
    learner.normalizer = empty.backend_tokenizer.normalizer
    learner.pre_tokenizer = empty.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(_texts(seed, prompts), trainer)
    return build_tokenizer(learner)


def build_tokenizer(learner: Tokenizer) -> Qwen2Tokenizer:
    """Wrap a byte-level BPE as the pipeline's tokenizer class; special tokens follow the vocabulary."""
    vocabulary: dict[str, int] = learner.get_vocab()
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    words = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    words |= {token: len(words) + i for i, token in enumerate(SPECIAL)}
    tokenizer = Qwen2Tokenizer(
        vocab=words,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token=PAD,
        unk_token=PAD,
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=512,
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def in_chat(tokenizer: Qwen2Tokenizer, prompt: str) -> str:
    """Render a prompt with the chat template, as the pipeline does before tokenization."""
    words = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(words, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return text


def _texts(seed: int, count: int) -> Iterator[str]:
    attributes = sample_attributes(count, seed)
    for i in range(count):
        yield prompt(attributes, i, seed)
    words = _EVERYDAY.split()
    for _ in range(max(1, count // 100)):  # often enough that each word becomes one token
        yield " " + " ".join(words)
        yield "assistant"  # at the start of a line, as in the chat template

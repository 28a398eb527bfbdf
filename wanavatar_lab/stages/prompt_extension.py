"""Prompt extension: a language model writes a longer prompt from a short one. It changes no request by itself.

    wanavatar-lab extend-prompt speech-to-video "a woman talks"

The reference's command line has the same step (`--use_prompt_extend`, wan/utils/prompt_extend.py of Wan2.2, commit
42bf4cf), and its README recommends it for more detail. The model is Qwen2.5-7B-Instruct; what it is told is in
`prompt_extension.toml`. Widgets import this module, so torch is imported only where the model runs.
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError, RequestError, WeightsError, is_out_of_memory
from wanavatar_lab.memory.machine import this_machine
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.fields import LONGEST_PROMPT
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.weights import WEIGHTS, amount, append_download_command, look, missing_weights

MODEL = WEIGHTS["Qwen2.5-7B-Instruct"]
STAGES = ("text_to_image", "image_to_video", "speech_to_video")
LANGUAGES = ("en", "zh")  # the languages of Wan's captions

# Tokens of the language model. UMT5, whose vocabulary is of a hundred languages, has more tokens for the same text, and
# a Wan network reads 512 of those.
MOST_TOKENS = 384
# beside the weights on a device: keys and values of 2,000 tokens (28 layers of 2 x 512 numbers of 2 bytes), logits, the
# CUDA context; an estimate
WORKSPACE_BYTES = 1_500_000_000

_TOLD: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_HAN, _KANA_OR_HANGUL = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
_QUOTES = (('"', '"'), ("“", "”"), ("「", "」"), ("'", "'"))


def extend_prompt(
    prompt: str,
    stage: str,
    weights_dir: Path | str,
    device: str = "cpu",
    *,
    language: str | None = None,
    seed: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """A longer prompt that says the same, at most as long as the stage's networks read.

    Args:
        prompt: what the user wrote.
        stage: one of `STAGES`; each adds something else.
        weights_dir: has the language model.
        device: cpu, cuda or cuda:<n>. Where the GPU has too little free memory the CPU computes, much slower.
        language: one of `LANGUAGES`; that of the prompt's script if None.
        seed: of the sampling, with the values that the model's publisher advises; None takes the likeliest word each
            time. The same seed gives the same text on the same device.
        say: called with each thing that went otherwise than one expects.

    Raises:
        RequestError: an argument is not allowed.
        WeightsError: the language model is missing or cannot be read.
        LabError: there is too little memory, or the model wrote nothing that can be used.
    """
    check_arguments(prompt, stage, language)
    folder = model_folder(weights_dir)
    device = _choose_device(device, sum(file.stat().st_size for file in folder.glob("model*.safetensors")), say)
    try:
        with append_download_command(folder):
            tokenizer, model = _load(folder, device)
        reply, ended = _reply(tokenizer, model, messages(prompt, stage, language or language_of(prompt)), prompt, seed)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise LabError(
            f"Memory ran out while {MODEL.name} extended the prompt. End other programs, or set WANAVATAR_DEVICE=cpu."
        ) from error
    text = _shorten(_plain(reply), ended, _text_encoder_tokens(stage, weights_dir), say)
    if not text:
        how = "another" if seed is not None else "a"
        raise LabError(f"{MODEL.name} wrote nothing for this prompt. Try again with {how} seed, or change the prompt.")
    return text


def check_arguments(prompt: str, stage: str, language: str | None = None) -> None:
    """Refuse what cannot be extended, before anything is loaded.

    Raises:
        RequestError: each argument that is not allowed.
    """
    problems = []
    if stage not in STAGES:
        problems.append(("stage", must_be(f"one of {', '.join(STAGES)}", stage)))
    if not prompt.strip() or len(prompt) > LONGEST_PROMPT:
        problems.append(("prompt", must_be(f"text of 1 to {LONGEST_PROMPT} characters", prompt)))
    if language not in (None, *LANGUAGES):
        problems.append(("language", must_be(f"one of {', '.join(LANGUAGES)}", language)))
    if problems:
        raise RequestError(problems)


def model_folder(weights_dir: Path | str) -> Path:
    """Where the language model is.

    Raises:
        WeightsError: it is missing or incomplete; with the command that downloads it.
    """
    found = look(MODEL, weights_dir)
    if found.state == "absent":
        raise missing_weights("prompt extension", found.path)
    if found.missing:
        with append_download_command(found.path):
            raise WeightsError(f"{found.path} lacks {', '.join(found.missing)}.")
    return found.path


def language_of(prompt: str) -> str:
    """zh for a text that is mostly Chinese; en for all others, since Wan's captions are in these two languages."""
    if _KANA_OR_HANGUL.search(prompt):  # Japanese and Korean texts have Han characters too
        return "en"
    return "zh" if len(_HAN.findall(prompt)) > len(_LATIN_WORD.findall(prompt)) else "en"


def messages(prompt: str, stage: str, language: str) -> list[dict[str, str]]:
    """The conversation that the language model continues."""
    told = _TOLD[language]
    rules = told["rules"].strip().format(additions=told[stage].strip())
    return [{"role": "system", "content": rules}, {"role": "user", "content": prompt.strip()}]


def _choose_device(device: str, weights: int, say: Callable[[str], None]) -> str:
    """The device that has room for weights of so many bytes."""
    machine, need = this_machine(device, most=1), weights + WORKSPACE_BYTES
    if machine.gpus:
        if machine.gpus[0].free >= need:
            return device
        say(
            f"The GPU has {amount(machine.gpus[0].free)} free and {MODEL.name} needs {amount(need)}, so the CPU "
            "extends the prompt, which takes minutes."
        )
    if machine.host_free is not None and machine.host_free < need:
        raise LabError(
            f"{MODEL.name} needs {amount(need)} of memory, and {amount(machine.host_free)} of main memory are free. "
            "End other programs, or write the prompt by hand."
        )
    return "cpu"


def _load(folder: Path, device: str) -> tuple[Any, Any]:
    """Tokenizer and model; of the folder's files none is executed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from wanavatar_lab.wan.load import load_model, load_part

    tokenizer = load_part(AutoTokenizer.from_pretrained, folder, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise WeightsError(f"{folder} has no chat template, so it is no model that follows instructions.")
    dtype = getattr(torch, PROFILES["full"].dtype(device))
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "device_map": device}
    return tokenizer, load_model(AutoModelForCausalLM, folder, dtype, **options).eval()


def _reply(
    tokenizer: Any, model: Any, conversation: Sequence[dict[str, str]], prompt: str, seed: int | None
) -> tuple[str, bool]:
    """What the model answers, and whether it came to an end by itself.

    Raises:
        RequestError: the prompt alone is as long as an answer can be.
    """
    import torch

    if (length := len(tokenizer(prompt).input_ids)) >= MOST_TOKENS:
        raise RequestError([("prompt", f"has {length} tokens; only a prompt below {MOST_TOKENS} can be extended")])
    inputs = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    # sampling values of the publisher, who has them in generation_config.json, mean nothing to greedy search
    sampling = (
        {"do_sample": True} if seed is not None else dict(do_sample=False, temperature=None, top_p=None, top_k=None)
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        written = model.generate(
            **inputs,
            max_new_tokens=MOST_TOKENS,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            **sampling,
        )[0, inputs["input_ids"].shape[1] :]
    ended = len(written) < MOST_TOKENS or int(written[-1]) == tokenizer.eos_token_id
    return tokenizer.decode(written, skip_special_tokens=True), ended


def _plain(reply: str) -> str:
    """The reply as one line that a terminal can show, without quotation marks around all of it."""
    text = "".join(filter(str.isprintable, " ".join(reply.split())))
    for first, last in _QUOTES:
        inside = text[1:-1]
        if len(text) > 1 and text[0] == first and text[-1] == last and first not in inside and last not in inside:
            return inside.strip()
    return text


def _shorten(text: str, ended: bool, count: Callable[[str], int] | None, say: Callable[[str], None]) -> str:
    """Without the sentence that has no end, and without those at the end that the stage would not read.

    Raises:
        LabError: the first sentence alone is too long.
    """
    from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

    ends = [*(match.start() for match in _SENTENCE_ENDS.finditer(text)), len(text)]
    if not ended and len(ends) > 1:
        ends.pop()
    while count is not None and (tokens := count(text[: ends[-1]])) > TEXT_LENGTH:
        if len(ends) == 1:
            raise LabError(
                f"{MODEL.name} wrote one sentence of {tokens} tokens, and the stage reads {TEXT_LENGTH}. Give another "
                "seed."
            )
        ends.pop()
    if ends[-1] < len(text):
        say(f"The end is left out, since it would be too long: {text[ends[-1] :].strip()}")
    return text[: ends[-1]]


def _text_encoder_tokens(stage: str, weights_dir: Path | str) -> Callable[[str], int] | None:
    """What counts a text's tokens as the Wan network of a stage does; None where its tokenizer is not installed.

    FLUX.2-klein reads 512 tokens of Qwen3, which has the language model's vocabulary, so `MOST_TOKENS` fits it.
    """
    from wanavatar_lab.wan.load import PUBLISHED_PLACES, load_tokenizer

    folder = PROFILES["full"].weights(stage, weights_dir)
    if stage != "text_to_image":
        for place in (folder / "tokenizer", folder / PUBLISHED_PLACES["tokenizer"]):
            if place.is_dir():
                tokenizer = load_tokenizer(place)
                return lambda text: len(tokenizer(text, verbose=False).input_ids)
    return None

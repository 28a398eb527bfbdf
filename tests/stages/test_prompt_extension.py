"""Prompt extension from files on disk to a text, by a toy language model of the published classes and layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import toy_qwen, toys
from wanavatar_lab.errors import LabError, RequestError, WeightsError
from wanavatar_lab.memory.machine import Gpu, Machine
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.stages import prompt_extension
from wanavatar_lab.stages.prompt_extension import (
    LANGUAGES,
    MOST_TOKENS,
    STAGES,
    extend_prompt,
    language_of,
    messages,
)

SENTENCE = "The woman looks into a lens, and nods."


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder whose language model has random weights."""
    weights = tmp_path_factory.mktemp("weights")
    toy_qwen.random_model(weights / toy_qwen.NAME)
    return weights


@pytest.fixture
def reciting(tmp_path: Path) -> Path:
    """A weights folder whose language model says `SENTENCE`."""
    toy_qwen.reciting_model(tmp_path / toy_qwen.NAME, SENTENCE)
    return tmp_path


def likeliest(folder: Path, conversation: str) -> str:
    """What a model continues a text with, word by word, by its outputs alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    written: list[int] = []
    inputs, cache = tokenizer(conversation, return_tensors="pt").input_ids, None
    while len(written) < MOST_TOKENS:
        with torch.inference_mode():
            out = model(inputs, past_key_values=cache, use_cache=True)
        inputs, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
        if inputs.item() == tokenizer.eos_token_id:
            break
        written.append(int(inputs.item()))
    return str(tokenizer.decode(written, skip_special_tokens=True))


@pytest.mark.parametrize(("prompt", "stage"), [("a woman talks", "speech_to_video"), ("她在笑", "text_to_image")])
def test_the_text_is_what_the_weights_say_of_the_rules_and_the_prompt(drawn: Path, prompt: str, stage: str) -> None:
    rules, said = messages(prompt, stage, language_of(prompt))
    assert (rules["role"], said) == ("system", {"role": "user", "content": prompt})
    conversation = (
        f"<|im_start|>system\n{rules['content']}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    expected = likeliest(drawn / toy_qwen.NAME, conversation)
    text = extend_prompt(f" {prompt}\n", stage, drawn)
    assert len(text) > 10 and text == "".join(filter(str.isprintable, " ".join(expected.split())))


def test_a_seed_gives_its_text_again_and_leaves_other_draws_alone(drawn: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    texts = [extend_prompt("a woman talks", "speech_to_video", drawn, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_each_stage_and_language_is_told_something_else() -> None:
    assert set(STAGES) == {name for name, request in STAGE_REQUESTS.items() if "prompt" in request.model_fields}
    told = {(stage, code): messages("x", stage, code)[0]["content"] for stage in STAGES for code in LANGUAGES}
    assert len(set(told.values())) == 6 and not any("{" in text for text in told.values())
    for code, words in (("en", ("expression", "looks at the camera")), ("zh", ("表情", "对着镜头说话"))):
        assert all(word in told["speech_to_video", code] for word in words)
    for stage in ("image_to_video", "speech_to_video"):  # a picture says how everything looks
        assert "invent no face" in told[stage, "en"] and "不要编造长相" in told[stage, "zh"]


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("a woman talks", "en"),
        ("一个女人对着镜头说话", "zh"),
        ("她穿着 Wan T 恤微笑", "zh"),
        ("a woman holds up a sign that says 福", "en"),
        ("여자가 웃는다", "en"),
        ("女性が笑う", "en"),
        ("42", "en"),
    ],
)
def test_the_language_is_that_of_the_script(prompt: str, language: str) -> None:
    assert language_of(prompt) == language


@pytest.mark.parametrize("said", [SENTENCE, f'"{SENTENCE}"', f"“{SENTENCE}”"])
def test_quotation_marks_around_all_of_it_go(tmp_path: Path, said: str) -> None:
    toy_qwen.reciting_model(tmp_path / toy_qwen.NAME, said)
    assert extend_prompt("a woman", "speech_to_video", tmp_path) == SENTENCE


def test_a_text_without_end_ends_at_a_sentence_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_extension, "MOST_TOKENS", 24)
    sentences = [f"a{i} b{i} c{i} d{i} e{i}." for i in range(6)]
    toy_qwen.reciting_model(tmp_path / toy_qwen.NAME, " ".join(sentences))
    notes: list[str] = []
    text = extend_prompt("a woman", "speech_to_video", tmp_path, say=notes.append)
    assert text == " ".join(sentences[:4])
    assert notes == ["The end is left out, since it would be too long: a4 b4 c4 d4"]


@pytest.mark.parametrize("place", ["google/umt5-xxl", "tokenizer"])
def test_no_text_is_longer_than_the_text_encoder_reads(tmp_path: Path, place: str) -> None:
    sentences = [f"a{i},b{i},c{i},d{i}." for i in range(70)]  # a token of the language model, 8 of the text encoder
    toy_qwen.reciting_model(tmp_path / toy_qwen.NAME, " ".join(sentences))
    tokenizer = toys.text_encoder()[1]
    tokenizer.save_pretrained(tmp_path / "Wan2.2-S2V-14B" / place)
    notes: list[str] = []
    text = extend_prompt("a woman", "speech_to_video", tmp_path, say=notes.append)
    assert text == " ".join(sentences[:63]) and len(tokenizer(text).input_ids) == 505
    assert len(notes) == 1 and notes[0].endswith(" ".join(sentences[63:]))
    assert extend_prompt("a woman", "image_to_video", tmp_path) == " ".join(sentences)  # whose tokenizer is not there


# --- errors


@pytest.mark.parametrize(
    ("prompt", "stage", "language", "message"),
    [
        (" \n", "speech_to_video", None, "prompt: must be text of 1 to 10000 characters (got ' \\n')"),
        ("x", "upscale", None, "stage: must be one of text_to_image, image_to_video, speech_to_video (got 'upscale')"),
        ("x", "speech_to_video", "ko", "language: must be one of en, zh (got 'ko')"),
        ("x" * 384, "speech_to_video", None, "prompt: has 384 tokens; only a prompt below 384 can be extended"),
    ],
)
def test_what_cannot_be_extended_is_refused(
    drawn: Path, prompt: str, stage: str, language: str | None, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        extend_prompt(prompt, stage, drawn, language=language)
    assert str(caught.value) == message


def rewrite(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def bring_code(folder: Path) -> None:
    (folder / "own.py").write_text("open('code_was_run', 'w')")
    rewrite(folder, "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (shutil.rmtree, f"The weights of prompt extension are not at .*{toy_qwen.NAME}"),
    "no config": (lambda folder: (folder / "generation_config.json").unlink(), "lacks generation_config.json"),
    "pickled": (pickle_weights, r"lacks model\*\.safetensors"),
    "cut short": (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
    "tensor missing": (drop_a_tensor, r"model\.norm\.weight"),
    "code": (bring_code, "cannot be read"),
    "no chat": (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_cannot_be_used_is_named_with_the_download(
    reciting: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reciting)
    change, message = DAMAGES[damage]
    change(reciting / toy_qwen.NAME)
    with pytest.raises(WeightsError, match=message) as caught:
        extend_prompt("a woman", "speech_to_video", reciting)
    assert f"`wanavatar-lab weights download {toy_qwen.NAME}` gets what is missing (15.2 GB in all)" in str(
        caught.value
    )
    assert not (reciting / "code_was_run").exists()


@pytest.mark.parametrize(("seed", "advice"), [(None, "with a seed"), (3, "with another seed")])
def test_an_empty_answer_is_an_error(tmp_path: Path, seed: int | None, advice: str) -> None:
    toy_qwen.reciting_model(tmp_path / toy_qwen.NAME, "")
    with pytest.raises(LabError, match=f"wrote nothing for this prompt.*{advice}"):
        extend_prompt("a woman", "speech_to_video", tmp_path, seed=seed)


def test_without_room_on_the_gpu_the_cpu_computes_and_says_so(reciting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Machine((Gpu("toy", 24 * 10**9, 10**9),), host_free=2 * 10**9)
    monkeypatch.setattr(prompt_extension, "this_machine", lambda device, most: full)
    notes: list[str] = []
    assert extend_prompt("a woman", "speech_to_video", reciting, "cuda", say=notes.append) == SENTENCE
    assert notes[0].startswith("The GPU has 1.0 GB free and Qwen2.5-7B-Instruct needs 1.5 GB, so the CPU")
    monkeypatch.setattr(prompt_extension, "this_machine", lambda device, most: Machine((), host_free=10**9))
    with pytest.raises(LabError, match=r"needs 1\.5 GB of memory, and 1\.0 GB of main memory are free"):
        extend_prompt("a woman", "speech_to_video", reciting)

"""The toy text_to_image learns through the pipeline's own words, numbers and steps, and comes to a picture."""

import json
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import Flux2KleinPipeline
from transformers import AutoTokenizer, Qwen2Tokenizer

from tests import toy_flux
from training.pocket.text_to_image import distil, evaluate, networks, pictures, train, train_judge, train_vae, words
from training.pocket.text_to_image.embedding import (
    LENGTH,
    between,
    embed,
    lengthened,
    noise_levels,
    patched,
    picture_ids,
    text_ids,
)
from training.pocket.text_to_image.features import FEATURE_WEIGHT, counted, feature_patches
from training.pocket.text_to_image.judge import HEADS, NOT_SEEN, AttributeJudge, labels_of
from training.pocket.text_to_image.pictures import SHORT, Examples, Pictures, Prompts, at_ease, encode
from training.pocket.text_to_image.prompts import prompt
from training.pocket.text_to_image.reading import wishes
from training.pocket.world.attributes import CHOICES, sample_attributes
from training.pocket.world.captions import SAYABLE, caption, visible
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.truth import truth
from wanavatar_lab import jobs, media
from wanavatar_lab.requests import TextToImage

CPU = torch.device("cpu")
SIZES = [(128, 128), (160, 96), (96, 160)]
TINY_TRANSFORMER: dict[str, Any] = {
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "joint_attention_dim": 48,
}
TINY_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return words.train_tokenizer(prompts=200)


@pytest.fixture(scope="module")
def pipeline() -> Flux2KleinPipeline:
    pipeline = toy_flux.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    # as a trained VAE has them
    torch.nn.init.normal_(pipeline.vae.bn.running_mean, generator=torch.Generator().manual_seed(0))
    torch.nn.init.uniform_(pipeline.vae.bn.running_var, 0.5, 2.0, generator=torch.Generator().manual_seed(1))
    return pipeline


def tokens_of(tokenizer: Qwen2Tokenizer, prompts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    texts = [words.in_chat(tokenizer, prompt) for prompt in prompts]
    cut = tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
    return cut.input_ids, cut.attention_mask.sum(dim=1)


def test_a_prompt_is_true_of_its_avatar_and_is_read_as_it_was_meant() -> None:
    attributes = sample_attributes(400, seed=3)
    read = 0
    for i in range(len(attributes)):
        for text in (prompt(attributes, i, 5), caption(attributes, i, 5, must=SAYABLE)):
            for name, allowed in wishes(text).items():
                assert attributes.word(name, i) in allowed, (text, name)
                read += 1
    assert read > 400 * 10


def test_everything_that_a_caption_says_is_read() -> None:
    attributes = sample_attributes(200, seed=4, split="held_out")
    said = {"background": "background_colour"}
    for i in range(len(attributes)):
        text = caption(attributes, i, 6, must=SAYABLE)
        expected = {said.get(name, name) for name in visible(attributes, i)} | {"person"}
        assert expected <= wishes(text).keys(), text


@pytest.mark.parametrize(
    ("text", "name", "allowed"),
    [
        ("a woman with red hair and round glasses, green background", "hair_colour", {"red"}),
        ("a woman with red hair and round glasses, green background", "background_colour", {"green"}),
        ("Portrait of an OLD man with a goatee", "person", {"old man"}),
        ("a girl with long blond hair", "hair", {"long straight", "long wavy"}),
        ("man, glasses", "glasses", {"round", "square", "cat-eye"}),
        ("a lady in a dark green coat on a dark blue background", "background_colour", {"dark blue"}),
    ],
)
def test_words_of_ones_own_are_read_too(text: str, name: str, allowed: set[str]) -> None:
    assert wishes(text)[name] == allowed


def test_prompts_reach_every_word_that_can_be_asked_for() -> None:
    attributes = sample_attributes(3000, seed=8)
    reached: dict[str, set[str]] = {name: set() for name in HEADS}
    for i in range(len(attributes)):
        for name, allowed in wishes(prompt(attributes, i, 9)).items():
            reached[name] |= allowed if len(allowed) == 1 else set()
    # what is not worn, or is as usual, is not said
    unsaid = {"none", "plain", "natural", "neutral"}
    lacking = {name: set(CHOICES[name]) - reached[name] - unsaid for name in HEADS}
    assert not any(lacking.values()), lacking


def test_nothing_is_unknown_to_the_tokenizer(tokenizer: Qwen2Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("a woman with red hair", "", "Ein Drache über 漢字 한국어 😀\n\ttabs"):
        chat = words.in_chat(again, text)
        ids = again(chat).input_ids
        assert again.decode(ids) == chat
        assert ids == tokenizer(chat).input_ids
        assert ids[0] == again.convert_tokens_to_ids("<|im_start|>")
    assert again.padding_side == "right"
    assert again.model_max_length == LENGTH


def test_another_process_writes_the_same_prompts(tokenizer: Qwen2Tokenizer) -> None:
    prompts = Prompts.write(50, tokenizer, seed=1, each=2)
    assert prompts.tokens.shape == (50, 2, SHORT)
    there = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(prompts.tokens, Prompts.write(50, there, seed=1, each=2).tokens)
    pads = torch.arange(SHORT) >= prompts.lengths[..., None]
    assert torch.equal(prompts.tokens == tokenizer.pad_token_id, pads)


def test_embeddings_are_the_pipelines(tokenizer: Qwen2Tokenizer) -> None:
    encoder = networks.build_text_encoder(tokenizer, hidden_size=16, intermediate_size=16).eval()
    prompts = ["a woman with red hair and round glasses", ""]
    with torch.no_grad():
        expected = Flux2KleinPipeline._get_qwen3_prompt_embeds(encoder, tokenizer, prompts)
        tokens, lengths = tokens_of(tokenizer, prompts, SHORT)
        whole = embed(encoder, lengthened(tokens, LENGTH, tokenizer.pad_token_id), lengths)
        short = embed(encoder, tokens, lengths)
    assert torch.allclose(whole, expected, atol=1e-5)
    # a prompt does not change with the number of pads behind it
    assert torch.allclose(short, expected[:, :SHORT], atol=1e-4)


def test_noise_levels_and_places_are_the_pipelines(pipeline: Flux2KleinPipeline) -> None:
    pipeline(prompt="a man", height=64, width=48, num_inference_steps=4, guidance_scale=1.0)
    assert noise_levels(4, 8 * 6) == pytest.approx(pipeline.scheduler.sigmas.tolist())
    assert between((1.0, 0.5, 0.0), (2, 1)) == [1.0, 0.75, 0.5, 0.0]
    assert set(noise_levels(4, 256)) < set(between(noise_levels(4, 256), distil.SMALL_STEPS))
    grid = torch.zeros(1, 16, 8, 6)
    assert torch.equal(picture_ids(8, 6, CPU), Flux2KleinPipeline._prepare_latent_ids(grid)[0].float())
    assert torch.equal(text_ids(5, CPU), Flux2KleinPipeline._prepare_text_ids(torch.zeros(1, 5, 3))[0].float())
    latents = torch.randn(2, 4, 16, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(patched(latents), Flux2KleinPipeline._patchify_latents(latents))


def test_latents_are_those_that_the_pipeline_encodes(pipeline: Flux2KleinPipeline) -> None:
    pictures = Pictures.draw(2, (64, 48), CPU, seed=1)
    expected = pipeline._encode_vae_image(pictures.pixels.float() / 127.5 - 1, torch.Generator())
    assert torch.allclose(encode(pipeline.vae, pictures.pixels), expected, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_teacher_in_four_steps_walks_as_the_pipeline_does(guidance: float) -> None:
    pipeline = toy_flux.pipeline(distilled=False)
    pipeline.set_progress_bar_config(disable=True)
    tokens, lengths = tokens_of(pipeline.tokenizer, ["a boy", ""], LENGTH)
    prompts = Prompts(tokens[:1, None], lengths[:1, None])
    ways = distil.Ways.walk(
        pipeline.transformer,
        pipeline.text_encoder,
        prompts,
        (tokens[1], lengths[1]),
        (8, 6),
        guidance,
        seed=5,
        batch=1,
        small_steps=(1, 1, 1, 1),
    )
    noise = torch.randn(1, 48, 16, generator=torch.Generator().manual_seed(5))
    seen: list[torch.Tensor] = []

    def on_step(_: object, __: int, ___: object, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(tensors["latents"])
        return {}

    pipeline(
        prompt="a boy",
        height=64,
        width=48,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=noise.transpose(1, 2).reshape(1, 16, 8, 6),
        callback_on_step_end=on_step,
    )
    assert torch.allclose(ways.states[0].float(), torch.cat([noise, *seen]), atol=2e-2, rtol=1e-2)  # kept in bfloat16


@pytest.mark.parametrize("size", SIZES)
def test_features_are_marked_where_the_landmarks_are(size: tuple[int, int]) -> None:
    rows, columns = size[0] // 8, size[1] // 8
    attributes, pose = sample_attributes(16, seed=21), at_ease(16, seed=21)
    marked = feature_patches(sheet_of(attributes, pose), size).view(16, rows, columns)
    landmarks = truth(attributes, pose, size).landmarks
    for name in ("mouth_corners", "lips_outer", "left_iris", "right_brow"):
        for i, points in enumerate(landmarks[name][:, 0]):
            assert all(marked[i, int(y) // 8, int(x) // 8] for x, y in points.tolist()), (name, i)
    assert 0.05 < marked.float().mean() < 0.2
    assert not marked[:, [0, -1]].any(), "nor above the head, nor at the clothes"


@pytest.mark.parametrize("size", SIZES)
def test_what_is_forgotten_easily_lies_in_marked_patches(size: tuple[int, int]) -> None:
    pose = at_ease(12, seed=22)
    plain = sample_attributes(12, seed=22).having(
        hair="bald", hat="none", beard="none", lipstick="natural", freckles="none", earrings="none"
    )
    marked = feature_patches(sheet_of(plain, pose), size)
    before = render(plain, pose, size)
    changes = [("lipstick", "red"), ("freckles", "freckles"), ("earrings", "studs"), ("earrings", "hoops")]
    for name, word in [*changes, ("earrings", "drops")]:
        changed = (render(plain.having(**{name: word}), pose, size) - before).abs().sum(dim=(1, 2))
        changed = F.avg_pool2d(changed, 8).flatten(1)
        assert (changed * marked).sum() > 0.95 * changed.sum(), (name, word)


def test_features_stay_with_their_pictures(pipeline: Flux2KleinPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pose = at_ease(6, seed=23).having(x=torch.linspace(-0.6, 0.6, 6)[:, None])
    monkeypatch.setattr(pictures, "at_ease", lambda count, seed: pose)
    drawn = Pictures.draw(6, (80, 48), CPU, seed=3)
    assert torch.equal(drawn.features, feature_patches(sheet_of(drawn.attributes, pose), (80, 48)))
    examples = Examples.draw(6, (80, 48), pipeline.vae, pipeline.tokenizer, seed=3)
    assert examples.grid == (10, 6)
    latents, features, *_ = examples.batch(20, torch.Generator().manual_seed(0))
    assert features.shape == latents.shape[:2]
    for one, marks in zip(latents, features, strict=True):
        row = int((examples.latents.float() - one).abs().sum(dim=(1, 2)).argmin())
        assert torch.equal(examples.features[row].float(), marks)


def one_wrong(patch: int) -> torch.Tensor:
    """Latents of two pictures in 4x4 patches, [2, 16, 32], 0 but for one patch of the first."""
    latents = torch.zeros(2, 16, 32)
    latents[0, patch] = 1.0
    return latents


def test_an_error_at_a_feature_counts_more_and_the_scale_stays(tokenizer: Qwen2Tokenizer) -> None:
    # untrained, it sees no flow anywhere: its error is the square of what is asked of it
    both = train.Networks(
        networks.build_text_encoder(tokenizer, **TINY_TEXT), networks.build_transformer(**TINY_TRANSFORMER)
    )
    tokens, lengths = tokens_of(tokenizer, ["a boy", "a girl"], SHORT)
    batch = {"tokens": tokens, "lengths": lengths, "noise": torch.zeros(2, 16, 32), "level": torch.ones(2)}
    marked = torch.zeros(2, 16)
    marked[0, [5, 6]] = 1.0

    @torch.no_grad()
    def losses(latents: torch.Tensor, features: torch.Tensor) -> dict[str, float]:
        told = train.prompted_loss(both, {**batch, "latents": latents, "features": features}, (4, 4))
        return {name: float(value) for name, value in told.items()}

    at_head = counted((4, 4), CPU)
    one = {patch: losses(one_wrong(patch), marked) for patch in (0, 5)}
    more = float((1 + FEATURE_WEIGHT) * at_head[5] / at_head[0])
    assert one[5]["loss"] / one[0]["loss"] == pytest.approx(more)
    assert one[5]["noisiest"] / one[0]["noisiest"] == pytest.approx(float(at_head[5] / at_head[0]))
    assert one[5]["noisiest"] == pytest.approx(losses(one_wrong(5), 0 * marked)["loss"])
    everywhere = losses(torch.ones(2, 16, 32), marked)
    assert everywhere["loss"] == pytest.approx(1.0)
    assert everywhere["noisiest"] == pytest.approx(1.0)


def test_distilled_steps_are_weighted_where_features_usually_are(tokenizer: Qwen2Tokenizer) -> None:
    encoder = networks.build_text_encoder(tokenizer, **TINY_TEXT)
    student = networks.build_transformer(**TINY_TRANSFORMER)
    tokens, lengths = tokens_of(tokenizer, ["a boy", "a girl"], SHORT)
    level = torch.full((2,), noise_levels(4, 16)[3])
    batch = {"begin": torch.zeros(2, 16, 32), "level": level, "tokens": tokens, "lengths": lengths}

    @torch.no_grad()
    def losses(wanted: torch.Tensor) -> dict[str, float]:
        told = distil.step_loss(student, encoder, {**batch, "wanted": wanted}, (4, 4))
        return {name: float(value) for name, value in told.items()}

    face, corner, everywhere = losses(one_wrong(5)), losses(one_wrong(0)), losses(torch.ones(2, 16, 32))
    assert face["loss"] / corner["loss"] > 4 * face["last_step"] / corner["last_step"]
    assert everywhere["loss"] == pytest.approx(1.0)
    assert everywhere["last_step"] == pytest.approx(1.0)


def test_what_the_judge_is_asked_can_be_seen() -> None:
    attributes = sample_attributes(300, seed=11)
    labels = labels_of(attributes)
    for i in range(len(attributes)):
        for name in set(visible(attributes, i)) & set(HEADS):
            assert labels[i, HEADS.index(name)] == CHOICES[name].index(attributes.word(name, i))
    bald = attributes.having(hair="bald", beard="none")
    assert (labels_of(bald)[:, HEADS.index("hair_colour")] == NOT_SEEN).all()


def test_obeyed_words_and_prompts_are_counted() -> None:
    asked = [wishes("a woman with red hair"), wishes("a man with red hair, blue background")]
    seen = [{"person": "woman", "hair_colour": "red"}, {"person": "man", "hair_colour": "red"}]
    seen[1]["background_colour"] = "green"
    figures = evaluate.count(asked, seen)
    assert figures["words_obeyed"] == 0.8
    assert figures["prompts_obeyed"] == 0.5
    assert figures["attribute_words_obeyed"] == 1.0
    assert figures["below_nine_in_ten"] == {"background_colour": 0.0}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tokenizer: Qwen2Tokenizer) -> Iterator[None]:
    vae: dict[str, Any] = {
        "block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "norm_num_groups": 4,
    }
    monkeypatch.setattr(train_vae, "build_vae", partial(networks.build_vae, **vae))
    monkeypatch.setattr(train, "build_transformer", partial(networks.build_transformer, **TINY_TRANSFORMER))
    monkeypatch.setattr(train, "build_text_encoder", partial(networks.build_text_encoder, **TINY_TEXT))
    monkeypatch.setattr(train, "train_tokenizer", lambda: tokenizer)
    yield


@pytest.mark.slow
def test_from_nothing_to_a_picture(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, flow, weights = tmp_path / "vae", tmp_path / "flow", tmp_path / "weights"
    out = weights / "pocket" / "text_to_image"
    small = ["--pixels", "32", "--device", "cpu"]
    train_vae.main(
        ["--run", f"{tmp_path}/1", "--out", f"{vae}", "--pictures", "32", "--steps", "20", "--batch", "4", *small]
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 20
    few = ["--batch", "8", "--writers", "0", *small]
    learning = ["--pictures", "64", "--steps", "60", "--every", "10", "--learning-rate", "2e-2", "--no-compile"]
    train.main(["--run", f"{tmp_path}/2", "--vae", f"{vae}", "--out", f"{flow}", *learning, *few])
    losses = [float(line.split()[5]) for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0], "the loss falls"
    ways = ["--ways", "12", "--steps", "5"]
    distil.main(["--run", f"{tmp_path}/3", "--pipeline", f"{flow}", "--out", f"{out}", *ways, *few])
    with pytest.raises(SystemExit, match="distilled already"):
        distil.main(["--run", f"{tmp_path}/4", "--pipeline", f"{out}", "--out", f"{out}", *ways, *few])
    for file in out.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load(file).values()} <= {torch.bfloat16, torch.int64}
    for file in (*flow.rglob("*.json"), *out.rglob("*.json")):
        assert str(tmp_path) not in file.read_text(), f"{file} says where it was made"
        assert "_name_or_path" not in json.loads(file.read_text())

    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    run = jobs.run_here(TextToImage(profile="pocket", prompt="a woman", seed=1, upscale=False))
    assert run.status().state == "succeeded", run.status().error
    assert media.read_picture(run.path(run.status().artifacts[0])).size == (128, 128)


def test_the_judge_learns_and_a_prompt_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "judge.safetensors"
    arguments = ["--run", f"{tmp_path}/1", "--out", f"{file}", "--pictures", "48", "--batch", "16", "--steps", "8"]
    train_judge.main([*arguments, "--device", "cpu"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(HEADS) < set(told)
    made = toy_flux.pocket_weights(tmp_path) / "pocket" / "text_to_image"
    sheet = tmp_path / "sheet.png"
    few = ["--prompts", "3", "--steps", "1", "--width", "64", "--height", "64", "--device", "cpu"]
    evaluate.main(["--pipeline", f"{made}", "--judge", f"{file}", "--picture", f"{sheet}", *few])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["prompts"] == 3
    assert 0 <= figures["words_obeyed"] <= 1
    assert media.read_picture(sheet).size == (640, 64)
    judge = AttributeJudge.load(file)
    pictures = Pictures.draw(3, (64, 64), CPU, seed=1).pixels
    assert judge.read(pictures) == judge.read(pictures)


def test_pictures_are_at_ease() -> None:
    pose = at_ease(200, seed=2)
    assert (pose["blink"] == 0).all()
    assert (pose["open"] == 0).all()
    assert 0 < float(pose["yaw"].abs().max()) < 0.25
    again = Pictures.draw(4, (32, 32), CPU, seed=9)
    assert np.array_equal(again.pixels, Pictures.draw(4, (32, 32), CPU, seed=9).pixels)


def load(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)

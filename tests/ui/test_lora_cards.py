"""Cards of LoRAs: those that fit, their weights, their words."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lora.files import save, tiny
from tests.ui import made_runs
from tests.ui.looking import alerts, everything, named, text
from wanavatar_lab.requests import ImageToVideo, LoraChoice, TextToImage
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.player import Player

WAN = "diffusion_model.blocks.0.self_attn.q"
FLUX2 = "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"
WIDTH = 5120  # of the published model for video


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    return tmp_path


def add(weights: Path, name: str, **notes: Any) -> Path:
    path = save(weights / "loras/mov/character" / f"{name}.safetensors", tiny(WAN, inputs=WIDTH, rank=1))
    path.with_suffix(".json").write_text(json.dumps(notes))
    return path


def form(**values: Any) -> Form:
    made = Form(ImageToVideo, profile="full", image="a.png", **values)
    made.expand()
    return made


def loras(made: Form) -> list[Any]:
    value: list[Any] = made.controls["loras"].value
    return value


def test_without_any_it_says_where_to_put_files(weights: Path) -> None:
    made = form()
    assert f"Put .safetensors files into {weights / 'loras' / 'mov'}" in text(made)
    add(weights, "ann")
    named(made, "Refresh LoRAs").click()
    assert "Put .safetensors files" not in text(made)
    assert named(made, "Use ann").value is False
    assert loras(made) == []


def test_a_card_is_switched_on_and_weighed(weights: Path) -> None:
    add(weights, "ann", description="a person")
    made = form()
    named(made, "Use ann").value = True
    high = named(made, "ann: High-noise weight")
    assert (high.tooltip, high.value) == ("-5 to 5", 1.0)
    high.value = 0.75
    assert loras(made) == [{"name": "ann", "high_weight": 0.75, "low_weight": 1.0}]
    assert "a person" in text(made)
    request = made._request()
    assert isinstance(request, ImageToVideo)
    assert request.loras == (LoraChoice(name="ann", high_weight=0.75, low_weight=1.0),)
    language.code = "ko"
    assert named(made, "ann 사용").value is True and high.description == "ann: 고노이즈 가중치"


def test_a_card_begins_with_the_usual_weight_and_says_what_a_program_says(weights: Path) -> None:
    add(weights, "ann", usual_weight=0.5)
    add(weights, "bob", usual_weight=1.75)
    made = form(loras=["bob:0.25"])
    assert named(made, "Use bob").value is True
    named(made, "Use ann").value = True
    assert loras(made) == [
        {"name": "ann", "high_weight": 0.5, "low_weight": 0.5},
        {"name": "bob", "high_weight": 0.25, "low_weight": 0.25},
    ]
    made.set(loras=["ann:-2.5", "bob"])
    assert loras(made) == [
        {"name": "ann", "high_weight": -2.5, "low_weight": -2.5},
        {"name": "bob", "high_weight": 1.75, "low_weight": 1.75},
    ]


def test_trigger_words_go_into_the_prompt_once(weights: Path) -> None:
    add(weights, "ann", trigger_words=["ohwx woman", "film grain"])
    (weights / "loras/mov/character/ann.png").write_bytes(b"-")
    made = form(prompt="she nods, ")
    assert "Preview: ann.png" in text(made)
    button = named(made, "Add “ohwx woman” to the prompt")
    button.click()
    button.click()
    named(made, "Add “film grain” to the prompt").click()
    assert made.values()["prompt"] == "she nods, ohwx woman, film grain"


def test_the_preview_is_a_picture_where_the_page_can_show_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(weights))
    made_runs.picture(add(weights, "ann").with_suffix(".png"), side=32)
    add(weights, "bob").with_suffix(".png").write_bytes(b"no picture")
    made = form()
    shown = [widget for card in made.controls["loras"].cards for widget in everything(card)]
    assert [widget.paths for widget in shown if isinstance(widget, Player)] == [["loras/mov/character/ann.png"]]
    assert "bob.png" in alerts(made)
    assert "rank 1" in text(made)


def test_only_those_that_fit_the_models_are_shown(weights: Path) -> None:
    add(weights, "ann")
    save(weights / "loras/mov/small.safetensors", tiny(WAN, inputs=64, rank=1))
    save(weights / "loras/img/freckles.safetensors", tiny(FLUX2, inputs=4096, rank=1))
    made = form()
    assert [card.found.name for card in made.controls["loras"].cards] == ["ann"]
    made.set(profile="pocket")
    assert made.controls["loras"].cards == ()
    pictures = Form(TextToImage, profile="full", prompt="a cat")
    pictures.expand()
    named(pictures, "Use freckles").value = True
    named(pictures, "freckles: Weight").value = 1.25
    assert loras(pictures) == [{"name": "freckles", "weight": 1.25}]


def test_what_a_program_asks_for_is_kept_as_it_is(weights: Path) -> None:
    add(weights, "ann")
    made = form(loras=["ann:1.8:0.2", "gone:0.5"])
    assert loras(made) == [
        {"name": "ann", "high_weight": 1.8, "low_weight": 0.2},
        {"name": "gone", "high_weight": 0.5, "low_weight": 0.5},
    ]
    assert alerts(made).count("No LoRA with this name for this model.") == 1
    named(made, "Use gone").value = False
    assert [each["name"] for each in loras(made)] == ["ann"]


def test_a_folder_that_cannot_be_read_is_said(weights: Path) -> None:
    add(weights, "ann")
    (weights / "pocket/image_to_video/transformer").mkdir(parents=True)
    (weights / "pocket/image_to_video/transformer/config.json").write_text("{")
    assert "config.json is damaged" in alerts(form())

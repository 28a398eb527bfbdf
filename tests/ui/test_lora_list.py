"""The list of LoRAs: what it says of each, what is found, and where one is used."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.lora.files import save, tiny
from tests.ui import made_runs
from tests.ui.looking import text
from wanavatar_lab.lora import Adapter, Description, describe
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.listing import PAGE
from wanavatar_lab.ui.lora_list import LoraList

WAN = "diffusion_model.blocks.0.self_attn.q"
FLUX2 = "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    return tmp_path / "weights"


def add(weights: Path, name: str, folder: str = "mov/character", **notes: Any) -> Path:
    module, width = (FLUX2, 4096) if folder == "img" else (WAN, 5120)
    path = save(weights / "loras" / folder / f"{name}.safetensors", tiny(module, inputs=width, rank=4))
    if notes:
        path.with_suffix(".json").write_text(json.dumps(notes))
    return path


def names(loras: LoraList) -> list[str]:
    return [entry["name"] for entry in loras.entries]


def hear(loras: LoraList, **content: Any) -> None:
    loras.receive(content)


def test_it_says_what_each_is_and_where_it_fits(weights: Path) -> None:
    path = add(weights, "ann", trigger_words=["ohwx woman"], description="a person", url="https://example.org/ann")
    made_runs.picture(path.with_suffix(".png"), side=32)
    loras = LoraList()
    (entry,) = loras.entries
    assert (entry["name"], entry["kind"], entry["rank"], entry["base"]) == ("ann", "character", "4", "Wan-14B")
    assert (entry["words"], entry["description"]) == (["ohwx woman"], "a person")
    assert entry["bytes"] == path.stat().st_size and entry["link"] == "https://example.org/ann"
    assert entry["picture"] == "weights/loras/mov/character/ann.png"
    assert [each["place"] for each in entry["places"]] == ["image_to_video/full", "speech_to_video/full"]
    assert entry["places"][1]["label"] == "Speech to video, Full"
    language.code = "ko"
    assert loras.entries[0]["places"][1]["label"] == "음성으로 영상 만들기, 전체(full)"
    assert loras.words["look"] == "새로 고침"


def test_kinds_and_words_are_found(weights: Path) -> None:
    add(weights, "ann", trigger_words=["red hair"])
    add(weights, "zoom", "mov/camera")
    add(weights, "freckles", "img")
    loras = LoraList()
    assert names(loras) == ["freckles", "zoom", "ann"]
    assert loras.kinds == ["img", "camera", "character"]
    loras.kind = "camera"
    assert names(loras) == ["zoom"]
    loras.kind, loras.query = "", "HAIR red"
    assert names(loras) == ["ann"]
    loras.query = "nobody"
    assert (names(loras), loras.total) == ([], 0)


def test_what_comes_changes_and_goes_is_seen(weights: Path) -> None:
    loras = LoraList()
    assert (loras.entries, loras.folder) == ([], str(weights / "loras"))
    path = add(weights, "ann")
    loras.refresh()
    assert names(loras) == ["ann"] and loras.entries[0]["words"] == []
    path.with_suffix(".txt").write_text("ohwx")
    loras.refresh()
    assert loras.entries[0]["words"] == ["ohwx"]
    path.with_suffix(".txt").write_text("sks")  # where it lies, which no folder tells
    hear(loras, kind="look")
    assert loras.entries[0]["words"] == ["sks"]
    path.unlink()
    loras.refresh()
    assert names(loras) == []


def test_a_file_is_read_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(weights, "ann")
    add(weights, "zoom", "mov/camera")
    loras = LoraList()
    read: list[str] = []

    def note(those: Sequence[Adapter], folder: Path) -> list[Description]:
        read.extend(one.name for one in those)
        return describe(those, folder)

    monkeypatch.setattr("wanavatar_lab.ui.lora_cards.describe", note)
    loras.refresh()
    assert read == []
    path = add(weights, "zoom", "mov/camera")
    os.utime(path, (1, 1))
    loras.refresh()
    assert read == ["zoom"]


def test_many_are_shown_page_by_page(weights: Path) -> None:
    for number in range(PAGE + 3):
        add(weights, f"lora{number:02}")
    loras = LoraList()
    assert (len(loras.entries), loras.total) == (PAGE, PAGE + 3)
    loras.limit = 2 * PAGE
    assert len(loras.entries) == PAGE + 3


def test_what_is_damaged_is_said(weights: Path) -> None:
    add(weights, "ann").write_bytes(b"no weights")
    (entry,) = LoraList().entries
    assert "ann.safetensors" in entry["problem"] and entry["places"] == []
    (weights / "pocket/image_to_video/transformer").mkdir(parents=True)
    (weights / "pocket/image_to_video/transformer/config.json").write_text("{")
    assert "config.json is damaged" in LoraList().notice


def test_keys_for_the_image_branch_are_counted(weights: Path) -> None:
    path = add(weights, "walk")
    save(path, load_file(path) | tiny("diffusion_model.blocks.0.cross_attn.v_img", "diffusion_model.img_emb.proj.1"))
    (entry,) = LoraList().entries
    said = "4 keys left out, for the image branch of Wan2.1-I2V: 2 v_img, 2 img_emb"
    assert entry["left_out"] == said and entry["problem"] == "" and entry["places"]
    form = Form(ImageToVideo, profile="full", image="a.png")
    form.expand()
    assert said in text(form)


def test_one_is_used_in_a_form_beside_others(weights: Path) -> None:
    add(weights, "ann", usual_weight=0.5)
    add(weights, "zoom", "mov/camera")
    form = Form(ImageToVideo, profile="pocket", image="a.png")
    loras = LoraList()
    before = loras.usable
    loras.on_use(lambda name, stage, profile: form.use_lora(name, profile))
    assert (before, loras.usable) == (False, True)
    for name in ("ann", "zoom", "ann"):
        hear(loras, kind="use", name=name, place="image_to_video/full")
    assert form.profile == "full" and form.expanded
    weighed = {each["name"]: each["high_weight"] for each in form.controls["loras"].value}
    assert weighed == {"zoom": 1.0, "ann": 0.5}
    assert {entry["name"]: entry["usual"] for entry in loras.entries} == {"zoom": "", "ann": "0.5"}
    assert loras.notice == ""

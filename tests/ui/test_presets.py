"""Presets and earlier prompts: values that are put into a form, and the file of a person's own."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ui import made_runs
from tests.ui.looking import everything, named
from wanavatar_lab.errors import LabError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, Request, SpeechToVideo, TextToImage, Upscale, presets
from wanavatar_lab.requests.presets import own_presets, rename_preset, save_preset, shipped_presets, shipped_values
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.form import Form, read_values
from wanavatar_lab.ui.form_memory import plain
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.presets import Presets
from wanavatar_lab.ui.prompt_history import PromptHistory
from wanavatar_lab.weights import weights_of_lora


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    return tmp_path / "config" / "wanavatar-lab" / "presets"


@pytest.mark.parametrize(
    ("stage", "profile", "key"),
    [
        (stage, profile, key)
        for stage in presets.SHIPPED
        for profile in PROFILES
        for key in shipped_presets(stage, profile)
    ],
)
def test_what_ships_is_allowed_and_is_what_the_form_shows(stage: str, profile: str, key: str) -> None:
    values = shipped_values(stage, key, profile)
    kind = STAGE_REQUESTS[stage]
    read = read_values(kind, {"profile": profile, **values})
    assert plain({name: read[name] for name in values}) == values
    form = Form(kind, profile=profile)
    Presets(form).apply(key)
    assert values and {name: form.values()[name] for name in values} == values
    assert set(form.problems()) <= {"profile"}  # whose weights are not installed
    assert set(form.touched) <= {"profile", *values}


@pytest.mark.parametrize("stage", ["image_to_video", "speech_to_video"])
def test_four_steps_says_what_it_is_for_and_how_its_lora_is_downloaded(stage: str) -> None:
    form = Form(STAGE_REQUESTS[stage], profile="full")
    menu = Presets(form)
    assert "four_steps" in menu.shipped and "motion" in menu.words["four_steps_for"]
    menu.receive({"kind": "apply", "name": "four_steps"})
    values = form.values()
    weights = weights_of_lora(values["loras"][0]["name"])
    assert weights is not None
    command = f"wanavatar-lab weights download {weights.name}"
    assert command in menu.notice
    menu.receive({"kind": "look"})  # the menu opens to show it
    assert command in menu.notice
    (card,) = [card for card in form.controls["loras"].cards if card.use.value]
    assert command in card.found.problem
    assert (values["num_inference_steps"], values["guidance_scale"]) == (4, 1.0)
    assert (values["sample_solver"], values["flow_shift"]) == ("euler", 5.0)
    # pocket has no distilled LoRA
    form.set(profile="pocket")
    menu.receive({"kind": "look"})
    assert "four_steps" not in menu.shipped
    menu.receive({"kind": "apply", "name": "four_steps"})
    assert menu.notice == "There is no preset 'four_steps' any more."


def test_a_draft_does_less_than_the_default() -> None:
    for stage in ("text_to_image", "image_to_video", "speech_to_video"):
        for profile in PROFILES:
            form = Form(STAGE_REQUESTS[stage], profile=profile)
            before = form.values()["num_inference_steps"]
            Presets(form).apply("draft")
            assert form.values()["num_inference_steps"] < before


def test_saved_applied_renamed_deleted_and_brought_back(config: Path) -> None:
    form = Form(SpeechToVideo, image="a.png", prompt="she sings", num_inference_steps=5, loras=["ann:0.5"])
    menu = Presets(form)
    menu.receive({"kind": "save", "name": "  Ann   sings "})
    assert menu.own == ["Ann sings"] and menu.notice == ""
    kept = json.loads((config / "speech_to_video.json").read_text())
    assert kept["Ann sings"]["num_inference_steps"] == 5 and kept["Ann sings"]["loras"][0]["name"] == "ann"

    other = Form(SpeechToVideo, audio="b.wav", audio_start=1.5, num_inference_steps=9, flow_shift=4.0, seed=3)
    second = Presets(other)  # as of another page
    second.receive({"kind": "look"})
    assert second.own == ["Ann sings"]
    second.receive({"kind": "apply", "name": "Ann sings", "own": True})
    shown = other.values()
    assert (shown["image"], shown["prompt"], shown["num_inference_steps"]) == ("a.png", "she sings", 5)
    assert (shown["audio"], shown["audio_start"]) == ("b.wav", 1.5)  # what is taken in stays where it names none
    assert (shown["flow_shift"], shown["seed"]) == (None, -1)  # settings that it does not name are the defaults again
    assert [each["name"] for each in shown["loras"]] == ["ann"]

    menu.receive({"kind": "rename", "name": "Ann sings", "to": "앤 노래"})
    assert menu.own == ["앤 노래"]
    menu.receive({"kind": "delete", "name": "앤 노래"})
    assert (menu.own, menu.gone) == ([], "앤 노래")
    menu.receive({"kind": "undo"})
    assert (menu.own, menu.gone) == (["앤 노래"], "")
    assert own_presets("speech_to_video")["앤 노래"] == kept["Ann sings"]
    assert sorted(path.name for path in config.iterdir()) == ["speech_to_video.json", "speech_to_video.lock"]


def test_what_cannot_be_done_says_why() -> None:
    menu = Presets(Form(Upscale))
    for name in ("a", "b"):
        menu.receive({"kind": "save", "name": name})
    menu.receive({"kind": "rename", "name": "a", "to": "b"})
    assert menu.notice == "There is a preset 'b' already; choose another name."
    language.code = "ko"
    menu.receive({"kind": "save", "name": "x" * 61})
    assert menu.notice == "프리셋 이름은 1~60자여야 합니다(현재 61자)."
    menu.receive({"kind": "delete", "name": "c"})
    assert menu.notice == "'c' 프리셋은 이미 삭제되었습니다."
    assert menu.own == ["a", "b"]


def test_a_damaged_file_is_named_and_left_as_it_is(config: Path) -> None:
    config.mkdir(parents=True)
    file = config / "upscale.json"
    for text in ("{", "[1]", '{"a": 1}'):
        file.write_text(text)
        menu = Presets(Form(Upscale))
        menu.receive({"kind": "save", "name": "b"})
        assert str(file) in menu.notice and file.read_text() == text


def test_a_value_of_another_release_is_named_and_the_others_come() -> None:
    save_preset("text_to_image", "old", {"prompt": "a cat", "num_inference_steps": 5000, "gone": 1})
    form = Form(TextToImage)
    Presets(form).apply("old", own=True)
    assert form.values()["prompt"] == "a cat"
    assert form.problems() == {"num_inference_steps": "must be an integer from 1 to 12 (got 5000)"}


@pytest.mark.parametrize("kind", [TextToImage, Upscale])
def test_a_profile_that_there_is_not_is_named_at_its_field(kind: type[Request]) -> None:
    save_preset(kind.stage, "old", {"profile": "huge", "seed": 7, "tile": 128})
    form = Form(kind)
    Presets(form).apply("old", own=True)
    assert form.values().get("seed", form.values().get("tile")) in (7, 128)
    refused = {"profile": "must be one of 'full', 'pocket' (got 'huge')"}
    assert (form.profile, form.problems()) == ("pocket", refused)
    language.code = "ko"  # which says it again
    assert form.problems() == refused
    form.controls["profile"].change("pocket")
    assert not form.problems()


@settings(max_examples=20)
@given(st.dictionaries(st.text(min_size=1, max_size=60).filter(str.strip), st.integers(), max_size=4))
def test_any_name_is_kept(tmp_path_factory: pytest.TempPathFactory, names: dict[str, int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        saved: dict[str, Any] = {}
        for name, value in names.items():
            save_preset("upscale", name, {"tile": value})
            saved[presets._named(name)] = {"tile": value}
        assert own_presets("upscale") == saved


def save_many(first: int) -> None:
    for number in range(first, first + 10):
        save_preset("upscale", str(number), {"tile": number})


def test_two_pages_lose_nothing_of_each_other() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(save_many, [0, 10])
    assert sorted(map(int, own_presets("upscale"))) == [*range(20)]


def test_without_a_home_nothing_is_kept_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name)
    with pytest.raises(LabError, match="set HOME or XDG_CONFIG_HOME"):
        rename_preset("upscale", "a", "b")


def test_earlier_prompts_are_searched_and_a_replaced_one_is_not_lost() -> None:
    for number, prompt in enumerate(["a red cat", "a dog", "a cat, a very long text " * 40, "a dog"]):
        made_runs.ended_run(TextToImage(prompt=prompt), ago=100 - number)
    Run.create(Upscale(image="a.png"))
    form = Form(TextToImage, prompt="just written")
    (history,) = [each for each in everything(form) if isinstance(each, PromptHistory)]
    history.receive({"kind": "look", "query": ""})
    assert [prompt[:10] for prompt in history.prompts] == ["a dog", "a cat, a v", "a red cat"]
    history.receive({"kind": "look", "query": "CAT"})
    assert [prompt[:10] for prompt in history.prompts] == ["a cat, a v", "a red cat"]
    history.receive({"kind": "use", "index": 0})
    assert named(form, "Prompt").value == "a cat, a very long text " * 40 and "prompt" in form.touched
    history.receive({"kind": "look", "query": ""})
    assert history.prompts[0] == "just written"
    history.receive({"kind": "use", "index": 0})
    assert named(form, "Prompt").value == "just written"
    history.receive({"kind": "use", "index": 99})
    assert named(form, "Prompt").value == "just written"

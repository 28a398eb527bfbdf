"""Every word that people read is there in every language."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pytest

from tests.ui.looking import everything
from tests.ui.made_runs import picture
from wanavatar_lab.requests import LANGUAGES, STAGE_REQUESTS, fields_of
from wanavatar_lab.ui.batch import Batch
from wanavatar_lab.ui.evaluation import EvaluationPanel
from wanavatar_lab.ui.gallery_panel import GalleryPanel
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.page import Page
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.pipeline import Pipeline
from wanavatar_lab.ui.player import Player
from wanavatar_lab.ui.queue_view import QueueView
from wanavatar_lab.ui.sweep import ContactSheet

ROOT = Path(__file__).resolve().parents[2]
TABLES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/ui/words/*.json"))
SCRIPTS = {"ko": re.compile("[가-힣]"), "zh": re.compile("[一-鿿]")}
NAMES = re.compile(r"\b(LoRAs?|Python|CLI|Papermill|REST|UniPC|DPM|Euler)\b")  # the same everywhere
LETTER = re.compile(r"[A-Za-z]{2}")


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w*\}", text))


def test_there_are_tables() -> None:
    assert len(TABLES) >= 20


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_every_language(table: str) -> None:
    for key, words in json.loads((ROOT / table).read_text(encoding="utf-8")).items():
        assert list(words) == list(LANGUAGES), key
        assert all(text.strip() for text in words.values()), key
        assert len({tuple(placeholders(text)) for text in words.values()}) == 1, key
        for code, script in SCRIPTS.items():
            plain = NAMES.sub("", re.sub(r"\{\w*\}", "", words[code]))
            assert script.search(plain) or not LETTER.search(plain), f"{key} is not in {code}: {words[code]}"


def texts_in(code: str) -> Iterator[str]:
    """Every text of a language, those of requests too."""
    for table in [*TABLES, "wanavatar_lab/requests/words.json"]:
        yield from (words[code] for words in json.loads((ROOT / table).read_text(encoding="utf-8")).values())


def test_chinese_has_the_marks_of_chinese() -> None:
    for text in texts_in("zh"):
        assert not re.search("[一-鿿}] *[,;:()!?](?![^{]*})|[,;:()!?] *[一-鿿]", text.replace("{unit}", "单位")), text


def test_korean_is_right_whatever_stands_in_a_text() -> None:
    """A noun follows a value, such as "{path} 파일이", since the particle depends on how the value ends."""
    assert not [text for text in texts_in("ko") if re.search(r"을\(를\)|은\(는\)|이\(가\)|와\(과\)|\(으\)로", text)]


# a thing has one name, which is the one that the field uses, and none that a dictionary gives
@pytest.mark.parametrize(
    ("code", "no"),
    [
        ("zh", "随机种子"),
        ("zh", "口袋"),
        ("zh", "说话视频"),
        ("zh", "已折叠"),
        ("zh", "尚无"),
        ("ko", "(접힘)"),
        ("ko", "한눈에"),
        ("ko", "내려받"),  # 다운로드
        ("ko", "동기화"),  # 싱크, of lips and sound
        ("ko", "미리보기"),
        ("ko", "기본 모델"),  # 베이스 모델: a default is 기본
        ("ko", "실행 취소"),  # 되돌리기: a run is 실행, and its cancelling another thing
        ("zh", "引导强度"),
        ("zh", "您"),
    ],
)
def test_a_thing_has_one_name(code: str, no: str) -> None:
    assert not [text for text in texts_in(code) if no in text]


def test_both_names_of_a_profile_stand_in_its_choice_and_its_help() -> None:
    view = fields_of(STAGE_REQUESTS["upscale"])["profile"]
    names = {"ko": ("전체(full)", "포켓(pocket)"), "zh": ("完整（full）", "精简（pocket）")}
    for code, of_profiles in names.items():
        choice = [words[code] for words in view.options.values()]
        assert all(name in text for name, text in zip(of_profiles, choice, strict=True))
        assert all(name in view.help[code] for name in of_profiles)


def visible(widget: Any) -> Iterator[str]:
    """What a widget and all within it say to people, but for what they wrote and chose themselves."""
    for each in everything(widget):
        texts = [getattr(each, "description", ""), *getattr(each, "titles", ()), *getattr(each, "words", {}).values()]
        texts += [each.value] if isinstance(each, widgets.HTML) else []
        texts += [option[0] for option in each.options] if isinstance(each, widgets.Dropdown) else []
        yield from (re.sub(r"<[^>]*>", " ", text) for text in texts)


@pytest.mark.parametrize("code", SCRIPTS)
def test_nothing_on_the_page_stays_in_english(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    panels = [Panel(kind) for kind in STAGE_REQUESTS.values()]
    shown = [
        Page(),
        GalleryPanel(),
        EvaluationPanel(),
        Pipeline(),
        QueueView(),
        Batch(()),
        ContactSheet(["1"], ["2"]),
        Player(picture(tmp_path / "a.png")),
        *panels,
    ]
    language.code = code
    texts = [text for widget in shown for text in visible(widget)]
    assert len(texts) > 300
    for text in texts:
        plain = NAMES.sub("", re.sub(r"\{\w*\}|\w+\.(png|wav)", "", text))
        assert SCRIPTS[code].search(plain) or not LETTER.search(plain), text

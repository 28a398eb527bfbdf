"""What the page gets of a run and of a LoRA in the gallery, and the words on their cards."""

from pathlib import Path
from typing import Any

from wanavatar_lab.requests import STAGE_REQUESTS, Words
from wanavatar_lab.ui.catalogue import Catalogue, Entry
from wanavatar_lab.ui.comparing import COMPARED
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.lora_shelf import Shelved
from wanavatar_lab.ui.receiving import KINDS
from wanavatar_lab.ui.urls import can_show, server_path

LORA = "lora"  # what their kind is, and how their ids begin: they lie with the weights and are no runs

WORDS: dict[str, Words] = {
    "one_lora": {"en": "LoRA", "ko": "LoRA", "zh": "LoRA"},
    "nothing": {"en": "no result", "ko": "결과 없음", "zh": "无结果"},
    "file": {"en": "no preview", "ko": "미리 보기 없음", "zh": "无预览"},
    "use": {"en": "Use as input", "ko": "입력으로 사용", "zh": "用作输入"},
    "again": {"en": "Run again", "ko": "다시 실행", "zh": "再次运行"},
    "change": {"en": "Change and run", "ko": "바꿔서 실행", "zh": "修改后运行"},
    "copy": {"en": "Copy as", "ko": "다음으로 복사", "zh": "复制为"},
    "python": {"en": "Python", "ko": "Python", "zh": "Python"},
    "command": {"en": "Command line", "ko": "명령줄", "zh": "命令行"},
    "papermill": {"en": "Papermill", "ko": "Papermill", "zh": "Papermill"},
    "delete": {"en": "Delete", "ko": "삭제", "zh": "删除"},
    "family": {"en": "Made from {parents}, used in {children}", "ko": "원본 {parents}개, 사용한 곳 {children}개",
               "zh": "来源 {parents}，被用于 {children}"},
    "more_actions": {"en": "More", "ko": "더보기", "zh": "更多"},
    "queued": {"en": "waiting", "ko": "대기 중", "zh": "排队中"},
    "running": {"en": "running", "ko": "실행 중", "zh": "运行中"},
    "succeeded": {"en": "done", "ko": "완료", "zh": "完成"},
    "failed": {"en": "failed", "ko": "실패", "zh": "失败"},
    "cancelled": {"en": "cancelled", "ko": "취소됨", "zh": "已取消"},
    "damaged": {"en": "damaged", "ko": "손상됨", "zh": "已损坏"},
}  # fmt: skip


def run_card(entry: Entry, catalogue: Catalogue) -> dict[str, Any]:
    """A run of a catalogue."""
    stage = STAGE_REQUESTS.get(entry.stage)
    picture = _picture(catalogue.file(entry))
    compares = picture["kind"] if picture is not None and picture["kind"] in COMPARED else ""
    return {
        "id": entry.id,
        "stage": language.of(stage.labels) if stage else entry.stage,
        "state": entry.state,
        "title": entry.title,
        "time": entry.submitted_at,
        "picture": picture,
        "usable": entry.main is not None,
        "ended": entry.ended,
        "known": stage is not None and entry.state != "damaged",
        "parents": len(catalogue.parents(entry.id)),
        "children": len(catalogue.children(entry.id)),
        "compares": compares,
        "source": _source(entry, compares, catalogue) if compares else "",
    }


def lora_card(shelved: Shelved, *, usable: bool) -> dict[str, Any]:
    """A LoRA; `usable` where someone takes it up."""
    found = shelved.found
    facts = [found.name, found.base, *found.trigger_words]
    return {
        "id": f"{LORA}:{shelved.id}",
        "stage": language.of(WORDS["one_lora"]),
        "state": "damaged" if found.problem else "succeeded",
        "title": found.problem or " · ".join(facts),
        "time": shelved.modified,
        "picture": _picture(Path(found.preview) if found.preview else None),
        "usable": bool(found.fits and usable),
        "ended": False,  # what lies with the weights is not deleted here
        "known": False,
        "parents": 0,
        "children": 0,
        "compares": "",
        "source": "",
    }


def _picture(path: Path | None) -> dict[str, str] | None:
    """A file as the page shows it; None where it cannot."""
    kind = KINDS.get(path.suffix.lower()) if path is not None else None
    return {"path": server_path(path), "kind": kind} if path is not None and kind and can_show(path) else None


def _source(entry: Entry, kind: str, catalogue: Catalogue) -> str:
    """The run whose file of the same kind this one took; "" where there is none."""
    for parent in map(catalogue.entry, catalogue.parents(entry.id)):
        made = _picture(catalogue.file(parent)) if parent is not None else None
        if parent is not None and made is not None and made["kind"] == kind:
            return parent.id
    return ""

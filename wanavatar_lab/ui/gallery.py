"""All runs and LoRAs, newest first: look at one, find one again, use it, run it again, copy it as text, delete it.

    gallery = Gallery()
    gallery.on_use(lambda path, kind: panel.form.take(path))
    gallery.on_again(lambda request: jobs.submit(request))
    gallery.on_change(lambda request: panel.form.fill(request))
    gallery.on_lora(lambda name, stage, profile: take_up(panels[stage].form, name, profile))

The page gets as many runs as it shows, not all; searching is done here.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import traitlets

from wanavatar_lab import trash
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Request, Words
from wanavatar_lab.runs import Run
from wanavatar_lab.status import Artifact
from wanavatar_lab.ui.catalogue import Catalogue, Entry
from wanavatar_lab.ui.copying import as_command, as_papermill, as_python
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.lora_shelf import LoraShelf, Shelved
from wanavatar_lab.ui.receiving import KINDS
from wanavatar_lab.ui.tasks import loop_runs, start
from wanavatar_lab.ui.urls import can_show, server_path
from wanavatar_lab.ui.widget import LabWidget, script, styles

PAGE = 24  # runs that are shown at first, and more at each click
REFRESH_SECONDS = 2.0
LORA = "lora"  # what their kind is, and how their ids begin: they lie with the weights and are no runs
_COPIES: dict[str, Callable[[Request, int | None], str]] = {
    "python": as_python,
    "command": as_command,
    "papermill": as_papermill,
}

WORDS: dict[str, Words] = {
    "gallery": {"en": "Gallery", "ko": "갤러리", "zh": "作品库"},
    "search": {"en": "Search prompts", "ko": "프롬프트 검색", "zh": "搜索提示词"},
    "show": {"en": "Show", "ko": "보기", "zh": "显示"},
    "all": {"en": "everything", "ko": "전체", "zh": "全部"},
    "kind_picture": {"en": "pictures", "ko": "이미지", "zh": "图片"},
    "kind_video": {"en": "clips", "ko": "영상", "zh": "视频"},
    "kind_talking": {"en": "talking clips", "ko": "말하는 영상", "zh": "说话视频"},
    "kind_audio": {"en": "sound", "ko": "소리", "zh": "声音"},
    "kind_lora": {"en": "LoRAs", "ko": "LoRA", "zh": "LoRA"},
    "one_lora": {"en": "LoRA", "ko": "LoRA", "zh": "LoRA"},
    "kind_weights": {"en": "weights", "ko": "가중치", "zh": "权重"},
    "count": {"en": "{shown} of {total}", "ko": "{total}개 중 {shown}개", "zh": "{shown} / {total}"},
    "empty": {"en": "No runs here.", "ko": "실행이 없습니다.", "zh": "这里没有运行。"},
    "nothing": {"en": "no result", "ko": "결과 없음", "zh": "无结果"},
    "file": {"en": "no preview", "ko": "미리 보기 없음", "zh": "无预览"},
    "more": {"en": "Show more", "ko": "더 보기", "zh": "显示更多"},
    "use": {"en": "Use as input", "ko": "입력으로 사용", "zh": "用作输入"},
    "again": {"en": "Run again", "ko": "다시 실행", "zh": "再次运行"},
    "change": {"en": "Change and run", "ko": "바꿔서 실행", "zh": "修改后运行"},
    "copy": {"en": "Copy as", "ko": "다음으로 복사", "zh": "复制为"},
    "python": {"en": "Python", "ko": "Python", "zh": "Python"},
    "command": {"en": "Command line", "ko": "명령줄", "zh": "命令行"},
    "papermill": {"en": "Papermill", "ko": "Papermill", "zh": "Papermill"},
    "copied": {"en": "Copied to the clipboard", "ko": "클립보드에 복사했습니다", "zh": "已复制到剪贴板"},
    "by_hand": {"en": "Copy this text", "ko": "이 텍스트를 복사하세요", "zh": "请复制此文本"},
    "close": {"en": "Close", "ko": "닫기", "zh": "关闭"},
    "delete": {"en": "Delete", "ko": "삭제", "zh": "删除"},
    "deleted": {"en": "Deleted {id}", "ko": "{id} 삭제됨", "zh": "已删除 {id}"},
    "undo": {"en": "Undo", "ko": "실행 취소", "zh": "撤销"},
    "family": {"en": "Made from {parents}, used in {children}", "ko": "원본 {parents}개, 사용한 곳 {children}개",
               "zh": "来源 {parents}，被用于 {children}"},
    "relatives": {"en": "Run {id} with its sources and uses", "ko": "{id}의 원본과 사용한 곳",
                  "zh": "{id} 及其来源和用途"},
    "show_all": {"en": "Show all runs", "ko": "모두 보기", "zh": "显示全部"},
    "more_actions": {"en": "More", "ko": "더보기", "zh": "更多"},
    "queued": {"en": "waiting", "ko": "대기 중", "zh": "排队中"},
    "running": {"en": "running", "ko": "실행 중", "zh": "运行中"},
    "succeeded": {"en": "done", "ko": "완료", "zh": "完成"},
    "failed": {"en": "failed", "ko": "실패", "zh": "失败"},
    "cancelled": {"en": "cancelled", "ko": "취소됨", "zh": "已取消"},
    "damaged": {"en": "damaged", "ko": "손상됨", "zh": "已损坏"},
}  # fmt: skip


class Gallery(LabWidget):
    """The runs of the runs folder, and the LoRAs of the weights folder.

    Attributes:
        kind, query, family: what is shown, as `Catalogue.find` has them; the kind of LoRAs is `LORA`.
        entries: the first `limit` of them, as the page needs them.
        total: how many there are.
        undo: the run that was deleted last, while it can be brought back.
        notice: what went wrong last.
    """

    _esm = script("gallery")
    _css = styles("gallery")
    WORDS: ClassVar[dict[str, Words]] = WORDS

    kind = traitlets.Unicode("").tag(sync=True)
    query = traitlets.Unicode("").tag(sync=True)
    family = traitlets.Unicode("").tag(sync=True)
    limit = traitlets.Int(PAGE).tag(sync=True)
    kinds = traitlets.List(traitlets.Unicode()).tag(sync=True)
    entries: traitlets.List[Any] = traitlets.List().tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)
    undo = traitlets.Unicode("").tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)
    actions = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, runs_dir: Path | str | None = None) -> None:
        self._catalogue, self._shelf = Catalogue(runs_dir), LoraShelf()
        self._listeners: dict[str, list[Callable[..., Any]]] = {"use": [], "again": [], "change": [], LORA: []}
        self._ended = False
        super().__init__()
        self.on_msg(self._hear)
        self.observe(lambda _: self._show(), ["kind", "query", "family", "limit"])
        self.refresh()
        if loop_runs():
            start(self._keep_fresh())

    def on_use(self, listener: Callable[[Path, str], Any]) -> None:
        """Call `listener` with a file and its kind when someone wants it as an input."""
        self._listen("use", listener)

    def on_again(self, listener: Callable[[Request], Any]) -> None:
        """Call `listener` with the request of a run that is to be run again as it is."""
        self._listen("again", listener)

    def on_change(self, listener: Callable[[Request], Any]) -> None:
        """Call `listener` with the request of a run that is to be changed first."""
        self._listen("change", listener)

    def on_lora(self, listener: Callable[[str, str, str], Any]) -> None:
        """Call `listener` with a LoRA's name, and a stage and a profile that it fits, when someone wants to use it."""
        self._listen(LORA, listener)
        self._show()

    def refresh(self) -> None:
        """Read both folders again. Where an event loop runs, this happens by itself."""
        runs, loras = self._catalogue.refresh(), self._shelf.refresh()
        if runs or loras:
            self._show()

    def files(self) -> list[Path]:
        """What the runs that are found made, the file each is for, newest first."""
        found = self._catalogue.find(kind=self.kind, query=self.query, family=self.family)
        return [self._path(entry.id, entry.main) for entry in found if entry.main is not None]

    def delete(self, run_id: str) -> None:
        """Delete a run; `bring_back` undoes it.

        Raises:
            RunError: it has not ended, or is gone.
        """
        trash.discard(self._run(run_id))
        self.undo = run_id
        self.refresh()

    def bring_back(self) -> None:
        """Undo the last deletion.

        Raises:
            RunError: it cannot be undone any more.
        """
        run_id, self.undo = self.undo, ""
        trash.restore(run_id, runs_dir=self._catalogue.root)
        self.refresh()

    def close(self) -> None:
        """End the widget."""
        self._ended = True
        super().close()

    def show_words(self) -> None:
        """Put every text into the language that is shown, the stages' names too."""
        super().show_words()
        self._show()

    async def _keep_fresh(self) -> None:
        while not self._ended:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                self.refresh()
            except OSError as error:
                self.notice = str(error)  # of the disk; it may be there again at the next look

    def _listen(self, action: str, listener: Callable[..., Any]) -> None:
        self._listeners[action].append(listener)
        self.actions = [name for name, those in self._listeners.items() if those]

    def _show(self) -> None:
        found: list[Entry | Shelved] = [
            *self._catalogue.find(kind=self.kind, query=self.query, family=self.family),
            *(self._shelf.find(query=self.query) if self.kind in ("", LORA) and not self.family else ()),
        ]
        found.sort(key=_when, reverse=True)
        with self.hold_sync():
            self.kinds = list(dict.fromkeys([*self._catalogue.kinds(), *([LORA] if self._shelf.all else [])]))
            self.total = len(found)
            shown = found[: self.limit]
            self.entries = [self._card(each) if isinstance(each, Entry) else self._lora_card(each) for each in shown]

    def _card(self, entry: Entry) -> dict[str, Any]:
        stage = STAGE_REQUESTS.get(entry.stage)
        main = entry.main
        return {
            "id": entry.id,
            "stage": language.of(stage.labels) if stage else entry.stage,
            "state": entry.state,
            "title": entry.title,
            "time": entry.submitted_at,
            "picture": _picture(self._path(entry.id, main)) if main is not None else None,
            "usable": main is not None,
            "ended": entry.ended,
            "known": stage is not None and entry.state != "damaged",
            "parents": len(self._catalogue.parents(entry.id)),
            "children": len(self._catalogue.children(entry.id)),
        }

    def _lora_card(self, shelved: Shelved) -> dict[str, Any]:
        found = shelved.found
        facts = [found.name, found.base, *found.trigger_words]
        return {
            "id": f"{LORA}:{shelved.id}",
            "stage": language.of(WORDS["one_lora"]),
            "state": "damaged" if found.problem else "succeeded",
            "title": found.problem or " · ".join(facts),
            "time": shelved.modified,
            "picture": _picture(Path(found.preview)) if found.preview else None,
            "usable": bool(found.fits and self._listeners[LORA]),
            "ended": False,  # what lies with the weights is not deleted here
            "known": False,
            "parents": 0,
            "children": 0,
        }

    def _path(self, run_id: str, artifact: Artifact) -> Path:
        return Run(self._catalogue.root / run_id).path(artifact)

    def _run(self, run_id: str) -> Run:
        return Run.open(run_id, runs_dir=self._catalogue.root)

    def _hear(self, _: Any, content: dict[str, Any], __: list[memoryview]) -> None:
        run_id = str(content.get("run", ""))
        self.notice = ""
        try:
            match content.get("kind"):
                case "delete":
                    self.delete(run_id)
                case "undo":
                    self.bring_back()
                case "copy":
                    self._copy(run_id, str(content.get("how")))
                case "use" if run_id.startswith(f"{LORA}:"):
                    found = next(each.found for each in self._shelf.all if f"{LORA}:{each.id}" == run_id)
                    self._tell(LORA, found.name, *found.fits[0].split("/"))
                case "use":
                    run = self._run(run_id)
                    main = next(entry.main for entry in self._catalogue.find(family=run_id) if entry.id == run_id)
                    if main is not None:
                        self._tell("use", run.path(main), main.kind)
                case "again" | "change" as action:
                    self._tell(action, self._run(run_id).request())
        except (LabError, OSError) as error:
            self.notice = str(error)

    def _tell(self, action: str, *values: Any) -> None:
        for listener in self._listeners[action]:
            listener(*values)

    def _copy(self, run_id: str, how: str) -> None:
        run = self._run(run_id)
        text = _COPIES[how](run.request(), run.status().seed)
        if not text:
            raise LabError(f"The stage {run.stage} has no notebook, so papermill cannot run it.")
        self.send({"kind": "copy", "run": run_id, "how": how, "text": text})


def _when(each: Entry | Shelved) -> tuple[float, str]:
    return (each.submitted_at, each.id) if isinstance(each, Entry) else (each.modified, each.id)


def _picture(path: Path) -> dict[str, str] | None:
    """A file as the page shows it; None where it cannot."""
    kind = KINDS.get(path.suffix.lower())
    return {"path": server_path(path), "kind": kind} if kind is not None and can_show(path) else None

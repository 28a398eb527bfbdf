"""A card of one training run, whoever started it: start, watch, stop, and find it again.

    card = TrainingCard(config)       # shows itself, and follows a run that goes on already
    await card.run()                  # where nobody is there to press Start

A run is a process of its own (`training.launch`), so it goes on when the kernel ends. All that is shown is read from
its folder; a card that is made later, in another kernel, shows the same.
"""

import asyncio
from dataclasses import dataclass
from html import escape
from pathlib import Path

import ipywidgets as widgets

from training.config import TrainingConfig
from training.launch import LOG, Ending, Launcher, State, start, state, stop
from training.log import METRICS, read_metrics
from training.order import Order
from training.sample_clips import FOLDER
from training.samples import Samples
from training.ui.clips import sampled, side_by_side
from training.ui.curves import Line, of_kind, progress_figure
from training.ui.pictures import figure_html
from training.ui.use import Use
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import Words
from wanavatar_lab.ui import tasks
from wanavatar_lab.ui.fields.control import AS_WIDE_AS_ITS_WORDS, alert
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.look import Look

POLL_SECONDS = 1.0
LOG_LINES, LOG_BYTES = 20, 16_384
RECENT = 20  # steps whose mean pace tells how much time is left
CURVES = "Loss, change of the held-out errors against the base, and norm of the gradient, over the steps"

WORDS: dict[str, Words] = {
    "start": {"en": "Start training", "ko": "학습 시작", "zh": "开始训练"},
    "stop": {"en": "Stop", "ko": "중지", "zh": "停止"},
    "stopping": {"en": "Saving the last step…", "ko": "마지막 스텝 저장 중…", "zh": "正在保存最后一步…"},
    "absent": {"en": "Not started yet", "ko": "아직 시작하지 않음", "zh": "尚未开始"},
    "running": {"en": "Running", "ko": "실행 중", "zh": "运行中"},
    "finished": {"en": "Finished", "ko": "완료", "zh": "已完成"},
    "stopped": {"en": "Stopped: Start goes on", "ko": "중지됨. 시작하면 이어서 진행", "zh": "已停止，再次开始将继续"},
    "failed": {"en": "Failed", "ko": "실패", "zh": "失败"},
    "step": {"en": "step {step} of {steps}", "ko": "스텝 {step}/{steps}", "zh": "第 {step}/{steps} 步"},
    "pace": {"en": "{seconds} s per step", "ko": "스텝당 {seconds}초", "zh": "每步 {seconds} 秒"},
    "left": {"en": "about {minutes} min left", "ko": "약 {minutes}분 남음", "zh": "约剩 {minutes} 分钟"},
    "loss": {"en": "loss {loss}", "ko": "손실 {loss}", "zh": "损失 {loss}"},
    "progress": {"en": "Progress of the training", "ko": "학습 진행률", "zh": "训练进度"},
    "log": {"en": "Log", "ko": "로그", "zh": "日志"},
    "true": {"en": "the true clip", "ko": "실제 영상", "zh": "真实视频"},
    "after": {"en": "step {step}", "ko": "스텝 {step}", "zh": "第 {step} 步"},
}


class TrainingCard(widgets.VBox):
    """The card of one run.

    Args:
        config: what the run is told when it is started; its `run` is the folder.
        launcher, processes: as `training.launch.start` takes them.
        module: that is run; it takes `--config`.

    Attributes:
        ending: how the run stood at the last look.
        step: the last step that is noted.
        steps: how many there will be.

    Raises:
        LabError: there are no encoded samples.
    """

    def __init__(
        self,
        config: TrainingConfig,
        launcher: Launcher = "plain",
        processes: int = 1,
        module: str = "training.train",
    ) -> None:
        self.config = config
        self._how = (launcher, processes, module)
        self.ending, self.step = Ending("absent"), 0
        self._lines: list[Line] = []
        self._seen: dict[str, object] = {}
        self._stopping = False
        # read even where they do not decide it, since without them there is nothing to train on
        an_epoch = _steps_an_epoch(config, processes)
        self.steps = config.steps or config.epochs * an_epoch
        self._use = Use(config.run)
        self._start, self._stop = (widgets.Button(layout=AS_WIDE_AS_ITS_WORDS) for _ in range(2))
        self._start.add_class("wl-run")
        self._status, self._problem, self._machine, self._curves, self._log = (widgets.HTML() for _ in range(5))
        self._samples = widgets.VBox()
        shown = [self._status, self._problem, self._machine, self._curves, self._samples, self._log]
        buttons = widgets.HBox([self._start, self._stop], layout={"grid_gap": "8px"})
        super().__init__([Look(), buttons, *shown], _dom_classes=["wl-panel"])
        self._start.on_click(lambda _: tasks.start(self._pressed_start()))
        self._stop.on_click(lambda _: tasks.start(self._pressed_stop()))
        self._unfollow = language.follow(self._say)
        self.look()
        if self.ending.state == "running" and tasks.loop_runs():
            tasks.start(self.watch())

    async def run(self) -> Ending:
        """Start the run, or take up one that goes on, and wait for its end.

        Whoever stops waiting (the stop button of a notebook, a cancelled task) also stops the run, which saves its last
        step. A kernel that ends or dies does not.

        Raises:
            RunError: it failed, or was stopped from elsewhere.
        """
        if state(self.config.run).state != "running":
            self.start()
        try:
            await self.watch()
        except (KeyboardInterrupt, asyncio.CancelledError):
            if state(self.config.run).state == "running":  # it may have ended in this moment
                stop(self.config.run)
            raise
        if self.ending.state != "finished":
            raise RunError(f"The training in {self.config.run} {self.ending.state}. {self.ending.why}".strip())
        return self.ending

    def start(self) -> None:
        """Start the run, or go on with it; returns when it is on its way.

        Raises:
            LabError: it goes on already, or there cannot be so many processes.
        """
        launcher, processes, module = self._how
        start(self.config, launcher, processes, module)
        self.look()

    async def watch(self) -> None:
        """Show the run until it has ended, without blocking."""
        while True:
            # read on another thread, since a plot takes a while; shown on this one, where widgets are at home
            self._show(await asyncio.to_thread(self._read))
            if self.ending.state != "running":
                return
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> None:
        """Read the run's folder and show what has changed."""
        self._show(self._read())

    def close(self) -> None:
        """End the card; the run goes on."""
        self.__dict__.pop("_unfollow", lambda: None)()
        super().close()

    async def _pressed_start(self) -> None:
        self._problem.value = ""
        try:
            await asyncio.to_thread(self.start)
        except (LabError, OSError) as error:
            self._problem.value = alert(str(error))
            return
        await self.watch()

    async def _pressed_stop(self) -> None:
        self._problem.value, self._stopping = "", True
        self._say()
        try:
            await asyncio.to_thread(stop, self.config.run)
        except LabError as error:
            self._problem.value = alert(str(error))
        finally:
            self._stopping = False
        self.look()

    def _read(self) -> "_Seen":
        run = self.config.run
        # before all else: what a run writes at its end is there when it has ended
        ending = state(run)
        lines: list[Line] | None = [*read_metrics(run)] if self._changed(METRICS) else None
        curves = figure_html(progress_figure(lines), CURVES) if lines else None
        log = _tail(run / LOG) if self._changed(LOG) else None
        use = self._use.look() if ending.state == "running" else []
        return _Seen(ending, lines, curves, log, use, self._changed(FOLDER))

    def _show(self, seen: "_Seen") -> None:
        self.ending = seen.ending
        if seen.lines is not None:
            self._lines = seen.lines
            self.step = max((int(line["step"]) for line in seen.lines), default=0)
            self._curves.value = seen.curves or ""
        if seen.log is not None:
            title = escape(language.of(WORDS["log"]))
            self._log.value = f"<details><summary>{title}</summary><pre>{escape(seen.log)}</pre></details>"
        if seen.sampled:
            self._show_samples()
        self._machine.value = "".join(f"<div>{escape(line)}</div>" for line in seen.use)
        self._say()

    def _changed(self, name: str) -> bool:
        """Whether a file or folder of the run is another one than at the last look."""
        path = self.config.run / name
        facts = path.stat() if path.exists() else None
        now = facts and (facts.st_size, facts.st_mtime_ns)
        before = self._seen.get(name)
        self._seen[name] = now
        return now != before

    def _show_samples(self) -> None:
        pairs = []
        for each in sampled(self.config.run):
            first, last = min(each.made), max(each.made)
            before, after = (language.of(WORDS["after"]).format(step=step) for step in (first, last))
            if first == last:
                pairs.append((each.made[first], each.true, (before, language.of(WORDS["true"]))))
            else:
                pairs.append((each.made[first], each.made[last], (before, after)))
        for old in self._samples.children:
            old.close()
        self._samples.children = side_by_side(pairs)

    def _say(self) -> None:
        standing: State = self.ending.state
        running = standing == "running"
        self._start.description, self._stop.description = (language.of(WORDS[name]) for name in ("start", "stop"))
        self._start.disabled, self._stop.disabled = running, not running or self._stopping
        words = [language.of(WORDS["stopping" if self._stopping else standing])]
        bar = ""
        steps = of_kind(self._lines, "train")
        total = self.steps
        if steps:
            paces = [line["seconds"] for line in steps[-RECENT:] if "seconds" in line]
            pace = sum(paces) / len(paces) if paces else 0.0
            words.append(language.of(WORDS["step"]).format(step=self.step, steps=total))
            words.append(language.of(WORDS["pace"]).format(seconds=f"{pace:.1f}"))
            if running:
                words.append(language.of(WORDS["left"]).format(minutes=f"{pace * (total - self.step) / 60:.0f}"))
            words.append(language.of(WORDS["loss"]).format(loss=f"{steps[-1].get('loss', float('nan')):.4f}"))
        if running:
            label = escape(language.of(WORDS["progress"]), quote=True)
            known = f' max="{total}" value="{self.step}"' if steps else ""
            bar = f'<progress aria-label="{label}" style="width: 100%"{known}></progress>'
        why = alert(self.ending.why) if self.ending.why else ""
        text = escape(" · ".join(words))
        self._status.value = f'<div role="status" lang="{language.code}">{text}</div>{bar}{why}'


@dataclass(frozen=True)
class _Seen:
    """What a look has found; None is what was the same at the look before."""

    ending: Ending
    lines: list[Line] | None
    curves: str | None
    log: str | None
    use: list[str]
    sampled: bool


def _steps_an_epoch(config: TrainingConfig, processes: int) -> int:
    buckets = Samples(config.samples).buckets
    return Order(buckets, config.batch, config.accumulation, processes, config.seed).steps_an_epoch


def _tail(path: Path) -> str:
    """The last lines of a log; of a progress bar only its last state."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        said = file.read().decode(errors="replace")
    return "\n".join(line.rpartition("\r")[2] for line in said.splitlines()[-LOG_LINES:])

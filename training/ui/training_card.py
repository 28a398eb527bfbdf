"""A card of one training run, whoever started it: start, watch, stop, and find it again.

    card = TrainingCard(config)       # shows itself, and follows a run that goes on already
    await card.run()                  # where nobody is there to press Start

A run is a process of its own (`training.launch.launch`), so it goes on when the kernel ends. All that is shown is
read from its folder; a card that is made later, in another kernel, shows the same.

State, progress, time and log of a training, in the view that every run of the workbench has.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import ClassVar

import ipywidgets as widgets

from training.config.config import TrainingConfig
from training.data.batch_order import Order
from training.data.samples import Samples
from training.launch.launch import Ending, start, state, stop
from training.launch.processes import ENDED, LAUNCHED, LOG, TOLD, Launcher
from training.loop.checkpoint import checkpoints
from training.loop.run_log import METRICS, read_metrics
from training.ui.clips import SampleView
from training.ui.curves import Line, of_kind, progress_plots
from training.ui.head import Head
from training.ui.machine_use import Use
from training.ui.plots import plots_html
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import Words
from wanavatar_lab.ui import tasks
from wanavatar_lab.ui.elements import AS_WIDE_AS_ITS_WORDS, alert
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.widget import Look

RUN_WORDS = read_words(__file__, "run_card")
STATES = {"absent": "", "running": "running", "finished": "succeeded", "stopped": "cancelled", "failed": "failed"}


class RunCard(JobCard):
    """The card of one training.

    Args:
        place: what is said of where it is.
        on_stop: is called when somebody presses Stop, once until `show` has said that the run has ended.
    """

    WORDS: ClassVar[dict[str, Words]] = JobCard.WORDS | RUN_WORDS

    def __init__(self, place: str, on_stop: Callable[[], object]) -> None:
        self._on_stop = on_stop
        super().__init__()
        self.run_id = place

    def show(self, ending: Ending, step: int, steps: int, elapsed: float, left: float | None, log: str | None) -> None:
        """Show how the run stands; a log that is None is the same as before."""
        with self.hold_sync():
            self.state, self.error = STATES[ending.state], ending.why
            self.step, self.steps, self.fraction = step or None, steps, step / steps
            self.elapsed, self.eta_seconds = elapsed, left
            if log is not None:
                self.log = log
            if ending.state != "running":
                self.cancelling = False

    def cancel(self) -> None:
        """Ask for the run to end."""
        if not self.cancelling:
            self.cancelling = True
            self._on_stop()

    def show_words(self) -> None:
        """Put every text into the language that is shown."""
        with self.hold_sync():
            super().show_words()
            self.title = language.of(RUN_WORDS["title"])


POLL_SECONDS = 1.0
LOG_LINES, LOG_BYTES = 20, 16_384
RECENT = 20  # steps whose mean pace tells how much time is left

WORDS = read_words(__file__, "training_card")


class TrainingCard(widgets.VBox):
    """The card of one run.

    Args:
        config: what the run is told when it is started; its `run` is the folder.
        launcher, processes: as `training.launch.launch.start` takes them.
        module: that is run; it takes `--config`.

    Attributes:
        ending: how the run stood at the last look.
        step: the last step that is noted.
        steps: how many the run has that was started last, by whomever; before it, how many it will have.

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
        # read even where they do not decide it, since without them there is nothing to train on
        self._wanted = self.steps = _steps_of(config, processes)
        self._use = Use(config.run)
        self._start = widgets.Button(layout=AS_WIDE_AS_ITS_WORDS, _dom_classes=["wl-run"])
        self._card = RunCard(str(config.run), lambda: tasks.start(self._pressed_stop()))
        self._problem, self._numbers, self._curves = (widgets.HTML() for _ in range(3))
        self._samples = SampleView(config.run)
        parts = [self._start, self._problem, self._card, self._numbers, self._curves, self._samples]
        self._parts, self._closed = [Look(), Head(WORDS["title"], WORDS["says"]), *parts], False
        super().__init__(self._parts, _dom_classes=["wl-panel"])
        self._start.on_click(lambda _: tasks.start(self._pressed_start()))
        self._unfollow = language.follow(self._speak)
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
        self._launch()
        self.look()

    async def watch(self) -> None:
        """Show the run until it has ended, or the card is closed, without blocking."""
        while True:
            # read on another thread, since a plot takes a while; shown on this one, where widgets are at home
            self._show(await asyncio.to_thread(self._read))
            if self.ending.state != "running" or self._closed:
                return
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> None:
        """Read the run's folder and show what has changed."""
        self._show(self._read())

    def close(self) -> None:
        """End the card; the run goes on."""
        self.__dict__.pop("_unfollow", lambda: None)()
        self._closed = True
        for part in self.__dict__.pop("_parts", ()):
            part.close()
        super().close()

    def _launch(self) -> None:
        launcher, processes, module = self._how
        start(self.config, launcher, processes, module)

    async def _pressed_start(self) -> None:
        self._problem.value, self._start.disabled = "", True  # a second click would find the run on its way
        try:
            await asyncio.to_thread(self._launch)
        except (LabError, OSError) as error:
            self._problem.value = alert(str(error))
            self.look()
            return
        await self.watch()

    async def _pressed_stop(self) -> None:
        self._problem.value = ""
        try:
            await asyncio.to_thread(stop, self.config.run)
        except LabError as error:
            self._problem.value = alert(str(error))
        self.look()

    def _read(self) -> "_Seen":
        run = self.config.run
        # before all else: what a run writes at its end is there when it has ended
        ending = state(run)
        lines: list[Line] | None = [*read_metrics(run)] if self._changed(METRICS) else None
        curves = plots_html(progress_plots(lines)) if lines else None
        steps = _told_steps(run) if self._changed(TOLD) else None
        log = _tail(run / LOG) if self._changed(LOG) else None
        use = self._use.look() if ending.state == "running" else []
        return _Seen(ending, steps, lines, curves, log, use)

    def _show(self, seen: "_Seen") -> None:
        self.ending = seen.ending
        self.steps = self.steps if seen.steps is None else seen.steps
        if seen.lines is not None:
            self._lines = seen.lines
            self.step = max((int(line["step"]) for line in seen.lines), default=0)
            self._curves.value = seen.curves or ""
        running = self.ending.state == "running"
        steps = of_kind(self._lines, "train")
        paces = [line["seconds"] for line in steps[-RECENT:] if "seconds" in line]
        pace = sum(paces) / len(paces) if paces else None
        left = pace * (self.steps - self.step) if pace is not None and running else None
        self._card.show(self.ending, self.step, self.steps, _elapsed(self.config.run, running), left, seen.log)
        said = [self._facts(steps, pace), *seen.use]
        self._numbers.value = "".join(f"<div>{escape(line)}</div>" for line in said if line)
        self._samples.look()
        # there is nothing to go on with where the last step is done
        self._start.disabled = running or (self.ending.state == "finished" and self.step >= self._wanted)
        # while it runs, the button has nothing to say of the checkpoints that come
        saved = [] if running else [folder.name.rpartition("-")[2] for folder in checkpoints(self.config.run)[-1:]]
        words = language.of(WORDS["go_on"]).format(step=saved[0]) if saved else language.of(WORDS["start"])
        self._start.description = words

    def _facts(self, steps: list[Line], pace: float | None) -> str:
        if not steps:
            known = {"absent": "absent", "running": "begins"}.get(self.ending.state)
            return language.of(WORDS[known]) if known else ""
        last, said = steps[-1], []
        if self.ending.state != "running":  # while it runs, its card says so
            said.append(language.of(WORDS["step"]).format(step=self.step, steps=self.steps))
        if "loss" in last:
            said.append(language.of(WORDS["loss"]).format(loss=f"{last['loss']:.4f}"))
        if "learning_rate" in last:
            said.append(language.of(WORDS["rate"]).format(rate=f"{last['learning_rate']:.2g}"))
        if pace is not None:
            said.append(language.of(WORDS["pace"]).format(seconds=f"{pace:.2g}" if pace < 1 else f"{pace:.1f}"))
        return " · ".join(said)

    def _speak(self) -> None:
        self._seen.pop(METRICS, None)  # its plots have words
        self.look()

    def _changed(self, name: str) -> bool:
        """Whether a file of the run is another one than at the last look."""
        path = self.config.run / name
        facts = path.stat() if path.exists() else None
        now = facts and (facts.st_size, facts.st_mtime_ns)
        before = self._seen.get(name)
        self._seen[name] = now
        return now != before


@dataclass(frozen=True)
class _Seen:
    """What a look has found; None is what was the same at the look before."""

    ending: Ending
    steps: int | None
    lines: list[Line] | None
    curves: str | None
    log: str | None
    use: list[str]


def _elapsed(run: Path, running: bool) -> float:
    """Seconds since the run was started last, or from then to its end."""
    if not (run / LAUNCHED).is_file():
        return 0.0
    began: float = json.loads((run / LAUNCHED).read_text())["started"]
    if running:
        return float(int(time.time() - began))  # in whole seconds, so that a page hears of it once a second
    # who was killed has not said when it ended, but when it last said something
    last = next((run / name for name in (ENDED, LOG) if (run / name).is_file()), run / LAUNCHED)
    return max(0.0, round(last.stat().st_mtime - began, 1))


def _told_steps(run: Path) -> int | None:
    """How many steps a run was told to make; None where nobody can say any more."""
    try:
        config = TrainingConfig.model_validate_json((run / TOLD).read_text(encoding="utf-8"))
        processes = int(json.loads((run / LAUNCHED).read_text(encoding="utf-8"))["processes"])
        return config.steps or _steps_of(config, processes)
    except (LabError, OSError, ValueError, KeyError):
        return None  # of another version, or its samples are gone; it is shown all the same


def _steps_of(config: TrainingConfig, processes: int) -> int:
    buckets = Samples(config.samples).buckets
    an_epoch = Order(buckets, config.batch, config.accumulation, processes, config.seed).steps_an_epoch
    return config.steps or config.epochs * an_epoch


def _tail(path: Path) -> str:
    """The last lines of a log; of a progress bar only its last state."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        said = file.read().decode(errors="replace")
    return "\n".join(line.rpartition("\r")[2] for line in said.splitlines()[-LOG_LINES:])

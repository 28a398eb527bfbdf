"""Widget that starts, monitors and stops one training run, also one started from the command line.

    card = TrainingCard(config)       # displays itself, and follows a run that is in progress
    await card.run()                  # start and wait, if nobody is there to press Start

A run is a process of its own (`training.launch.launch`), so it outlives the kernel. The card reads everything from the
run's folder; a card that is made later, in another kernel, shows the same.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import ClassVar

import ipywidgets as widgets

from training.config import TrainingConfig
from training.data.batch_order import Order
from training.data.sample_list import entries_of
from training.launch.launch import Ending, start, state, stop
from training.launch.machine_states import read_reports
from training.launch.machines import processes_on_each, read_machines
from training.launch.processes import CONFIGS, ENDED, LAUNCHED, LOG, TOLD, Launcher
from training.loop.run_folder import METRICS, WEIGHTS, checkpoints, read_metrics, step_of
from training.ui.clips import SampleView
from training.ui.curves import Line, of_kind, progress_plots
from training.ui.machine_use import Use
from training.ui.training_panel import TrainingPanel
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.files import printable
from wanavatar_lab.requests import Words
from wanavatar_lab.ui import widget
from wanavatar_lab.ui.download import Download
from wanavatar_lab.ui.elements import AS_WIDE_AS_ITS_WORDS, alert, bare, set_options, small
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.messages import add_messages
from wanavatar_lab.ui.plots import plots_html
from wanavatar_lab.ui.record import Record, is_headless

POLL_SECONDS = 1.0  # a step takes a second or more
LOG_LINES, LOG_BYTES = 20, 16_384
RECENT = 20  # steps over which the pace is averaged for the remaining time

WORDS, RUN_WORDS = read_words(__file__, "training_card"), read_words(__file__, "run_card")
add_messages(__file__, "machines")  # what a start says
# states of `training.launch.launch.state` as `JobCard` calls them
STATES = {"not started": "", "running": "running", "finished": "succeeded", "stopped": "cancelled", "failed": "failed"}


class TrainingCard(TrainingPanel):
    """The card of one run.

    Args:
        config: settings of the next start; its `run` is the folder.
        launcher, processes: see `training.launch.launch.start`; the launcher is shown as a choice.
        module: the training program, which takes `--config`.
        machines: what the field for machines holds at first: a hostfile, or text like one; empty is this machine.

    Attributes:
        ending: state of the run at the last look.
        step: the last logged step.
        steps: steps of the run as it was last started; before the first start, as it would be started.

    Raises:
        LabError: there are no encoded samples.
    """

    def __init__(
        self,
        config: TrainingConfig,
        launcher: Launcher = "plain",
        processes: int = 1,
        module: str = "training.train",
        machines: str = "",
    ) -> None:
        self.config = config
        self._processes, self._module = processes, module
        self.ending, self.step = Ending("not started"), 0
        self._lines: list[Line] = []
        self._file_states: dict[str, object] = {}
        # the samples are read even if the config gives the steps, since without them there is nothing to train on
        self._wanted = self.steps = _steps_of(config, processes)
        self._launcher, self._machines = bare(widgets.Dropdown), bare(widgets.Text, value=machines)
        set_options(self._launcher, [(name, name) for name in ("plain", *CONFIGS)])
        self._launcher.value, self._help = launcher, bare(widgets.HTML)
        fields = [
            bare(widgets.VBox, "wl-field", children=[self._launcher]),
            bare(widgets.VBox, "wl-field", "wl-wide", children=[self._machines, self._help]),
        ]
        where = bare(widgets.VBox, "wl-fields", children=fields)
        self._machines.observe(self._count_steps, "value")
        self._count_steps()
        self._use = Use(config.run)
        self._start = widgets.Button(layout=AS_WIDE_AS_ITS_WORDS, _dom_classes=["wl-run"])
        self._card = RunCard(str(config.run), lambda: widget.start(self._pressed_stop()))
        self._problem, self._numbers, self._curves = (widgets.HTML() for _ in range(3))
        self._samples, self._closed = SampleView(config.run), False
        self._download = Download()  # of the newest checkpoint's LoRA
        parts = [where, self._start, self._problem, self._card, self._numbers, self._download]
        parts += [self._curves, self._samples]
        super().__init__(parts, (WORDS["title"], WORDS["says"]))
        self._start.on_click(lambda _: widget.start(self._pressed_start()))
        if self.ending.state == "running" and widget.loop_runs():
            widget.start(self.watch())

    async def run(self) -> Ending:
        """Start the run, or follow it if it is in progress, and wait for its end.

        Cancelling the wait (the stop button of a notebook, a cancelled task) also stops the run, which saves its last
        step; a kernel that shuts down or dies does not.

        Raises:
            RunError: it failed, or was stopped by somebody else.
        """
        if state(self.config.run).state != "running":
            self.start()
        try:
            await self.watch(_lines() if is_headless() else None)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if state(self.config.run).state == "running":  # it may have finished just now
                stop(self.config.run)
            raise
        if self.ending.state != "finished":
            raise RunError(f"The training in {self.config.run} {self.ending.state}. {self.ending.why}".strip())
        return self.ending

    def start(self) -> None:
        """Start the run, or resume it; returns once its process is launched.

        Raises:
            LabError: see `training.launch.launch.start`, and `read_machines` for the field.
        """
        self._begin()
        self.look()

    def _begin(self) -> None:
        """Start the run as the fields say."""
        machines = read_machines(self._machines.value)
        start(self.config, self._launcher.value, self._processes, self._module, machines)

    async def watch(self, say: Callable[["TrainingCard"], None] | None = None) -> None:
        """Show the run until it ends or the card is closed, without blocking; `say` is called at every look."""
        while True:
            # read in a thread, since plotting takes tenths of a second; widgets belong to this thread
            self._show(await asyncio.to_thread(self._read))
            if say is not None:
                say(self)
            if self.ending.state != "running" or self._closed:
                await self.keep()
                return
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> None:
        """Read the run's folder and show what has changed."""
        self._show(self._read())

    def close(self) -> None:
        """Close the card; the run continues."""
        self._closed = True
        super().close()

    def show_words(self) -> None:
        """Write every text in the current language, those of the plots too."""
        self._file_states.pop(METRICS, None)
        self._launcher.description, self._machines.description = WORDS.text("launcher"), WORDS.text("machines")
        self._machines.placeholder, self._help.value = WORDS.text("machines_empty"), small(WORDS.text("machines_help"))
        set_options(self._launcher, [(WORDS.text("plain"), "plain"), *((name, name) for name in CONFIGS)])
        self.look()

    def _count_steps(self, _: object = None) -> None:
        """Count the steps of the next start, which are fewer where more processes share an epoch."""
        with suppress(LabError):  # a line that is being typed; a start says what is wrong
            machines = read_machines(self._machines.value)
            processes = len(machines) * processes_on_each(machines, self._processes) if machines else self._processes
            self._wanted = _steps_of(self.config, processes)
            if self.ending.state == "not started":
                self.steps = self._wanted

    async def _pressed_start(self) -> None:
        self._problem.value, self._start.disabled = "", True  # a second click would find the run in progress
        try:
            await asyncio.to_thread(self._begin)
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
        # the state before all else: once it is final, every file is complete
        ending = state(run)
        lines: list[Line] | None = [*read_metrics(run)] if self._has_changed(METRICS) else None
        return _Seen(
            ending,
            _launched_steps(run) if self._has_changed(TOLD) else None,
            lines,
            plots_html(progress_plots(lines)) if lines else "",
            _tail(run / LOG) if self._has_changed(LOG) else None,
            [*_machines_of(run), *self._use.look()] if ending.state == "running" else [],
        )

    def _has_changed(self, name: str) -> bool:
        """Whether a file of the run differs from the last look, by size and time."""
        path = self.config.run / name
        facts = path.stat() if path.exists() else None
        now = facts and (facts.st_size, facts.st_mtime_ns)
        before = self._file_states.get(name)
        self._file_states[name] = now
        return now != before

    def _show(self, seen: "_Seen") -> None:
        self.ending = seen.ending
        self.steps = self.steps if seen.steps is None else seen.steps
        if seen.lines is not None:
            self._lines = seen.lines
            self.step = max((int(line["step"]) for line in seen.lines), default=0)
            self._curves.value = seen.curves
        running = self.ending.state == "running"
        steps = of_kind(self._lines, "train")
        paces = [line["seconds"] for line in steps[-RECENT:] if "seconds" in line]
        pace = sum(paces) / len(paces) if paces else None
        left = pace * (self.steps - self.step) if pace is not None and running else None
        self._card.show(self.ending, self.step, self.steps, _elapsed(self.config.run, running), left, seen.log)
        said = [self._summary(steps, pace), *seen.use]
        self._numbers.value = "".join(f"<div>{escape(line)}</div>" for line in said if line)
        self._samples.look()
        # a run whose last step is done has nothing to resume
        self._launcher.disabled = self._machines.disabled = running
        self._start.disabled = running or (self.ending.state == "finished" and self.step >= self._wanted)
        newest = checkpoints(self.config.run)[-1:]
        with suppress(LabError):  # a checkpoint that is removed just now, since a newer one is complete
            for folder in newest:
                name = f"{self.config.run.parent.name}-{self.config.run.name}-{step_of(folder)}.safetensors"
                self._download.offer(folder / WEIGHTS, name)
        # in progress the button is disabled, and keeps its words whatever checkpoints are saved
        words = WORDS.text("start") if running or not newest else WORDS.text("resume", step=step_of(newest[0]))
        self._start.description = words

    def outcome(self) -> str:
        """How far the run is, in a line; before its start, what to do."""
        if self.ending.state == "not started":
            return "Not started: press Start training above, and run this cell again when it has ended."
        return f"{self.ending.state}: step {self.step} of {self.steps}, in {self.config.run}"

    def summary(self) -> str:
        """Loss, learning rate and pace of the last step, in a line."""
        steps = of_kind(self._lines, "train")
        paces = [line["seconds"] for line in steps[-RECENT:] if "seconds" in line]
        return self._summary(steps, sum(paces) / len(paces) if paces else None)

    def _summary(self, steps: list[Line], pace: float | None) -> str:
        if not steps:
            known = {"not started": "not_started", "running": "begins"}.get(self.ending.state)
            return language.of(WORDS[known]) if known else ""
        last, said = steps[-1], []
        if self.ending.state != "running":  # in progress the run's card shows the step
            said.append(language.of(WORDS["step"]).format(step=self.step, steps=self.steps))
        if "loss" in last:
            said.append(language.of(WORDS["loss"]).format(loss=f"{last['loss']:.4f}"))
        if "learning_rate" in last:
            said.append(language.of(WORDS["rate"]).format(rate=f"{last['learning_rate']:.2g}"))
        if pace is not None:
            said.append(language.of(WORDS["pace"]).format(seconds=f"{pace:.2g}" if pace < 1 else f"{pace:.1f}"))
        return " · ".join(said)


def _lines() -> Callable[[TrainingCard], None]:
    """A callback of `watch` that prints the progress, for a notebook that runs headless: about a dozen lines."""
    told: tuple[str, int] | None = None

    def say(card: TrainingCard) -> None:
        nonlocal told
        now = card.ending.state, 10 * card.step // max(1, card.steps)
        if now != told:
            told = now
            print(f"{now[0]}, step {card.step} of {card.steps} · {card.summary()}", flush=True)

    return say


@dataclass(frozen=True)
class _Seen:
    """What a look found; None is unchanged since the look before."""

    ending: Ending
    steps: int | None
    lines: list[Line] | None
    curves: str
    log: str | None
    use: list[str]


class RunCard(JobCard):
    """State, progress, time and log of a training, in the view that every run of the workbench has.

    Args:
        place: the run's folder, shown as its name.
        on_stop: called when Stop is pressed, once until `show` reports that the run has ended.
    """

    WORDS: ClassVar[dict[str, Words]] = JobCard.WORDS | RUN_WORDS

    def __init__(self, place: str, on_stop: Callable[[], object]) -> None:
        self._on_stop = on_stop
        super().__init__()
        self.run_id = place

    def show(self, ending: Ending, step: int, steps: int, elapsed: float, left: float | None, log: str | None) -> None:
        """Show the state of the run, with times in seconds; a log that is None is unchanged."""
        with self.hold_sync():
            self.state = STATES[ending.state]
            self._say(ending.why)
            self.step, self.steps, self.fraction = step or None, steps, step / steps
            self.elapsed, self.eta_seconds = elapsed, left
            if log is not None:
                self.log = log
            if ending.state != "running":
                self.cancelling = False

    def record(self) -> Record:
        """State, step and time of the training."""
        if not self.state:
            said = f"{self.title} · {WORDS.text('not_started')}"
        else:
            how = language.of(self.WORDS[self.state])
            said = f"{self.title} · {how} · {self.step or 0} / {self.steps} · {self.elapsed:.0f} s"
        return Record(f"<p>{escape(said)}<br>{escape(printable(self.error or self.run_id))}</p>", said)

    def cancel(self) -> None:
        """Request the end of the run."""
        if not self.cancelling:
            self.cancelling = True
            self._on_stop()

    def show_words(self) -> None:
        """Translate every text into the current language."""
        with self.hold_sync():
            super().show_words()
            self.title = language.of(RUN_WORDS["title"])


def _elapsed(run: Path, running: bool) -> float:
    """Seconds from the last start of a run to now, or to its end."""
    if not (run / LAUNCHED).is_file():
        return 0.0
    began: float = json.loads((run / LAUNCHED).read_text())["started"]
    if running:
        return float(int(time.time() - began))  # whole seconds, so that the page is updated once a second
    # a killed run has written no end; its last log line is the best estimate
    last = next((run / name for name in (ENDED, LOG) if (run / name).is_file()), run / LAUNCHED)
    return max(0.0, round(last.stat().st_mtime - began, 1))


def _launched_steps(run: Path) -> int | None:
    """Steps of a run as it was last started; None if that cannot be read any more."""
    try:
        config = TrainingConfig.model_validate_json((run / TOLD).read_text(encoding="utf-8"))
        processes = int(json.loads((run / LAUNCHED).read_text(encoding="utf-8"))["processes"])
        return config.max_train_steps or _steps_of(config, processes)
    except (LabError, OSError, ValueError, KeyError):
        return None  # another version wrote it, or its samples are gone; the rest of the run is shown all the same


def _machines_of(run: Path) -> list[str]:
    """The machines that train, in a line; nothing if it is one alone."""
    names = ", ".join(report.name for report, _ in sorted(read_reports(run).values(), key=lambda each: each[0].number))
    return [language.of(WORDS["train_on"]).format(names=names)] if names else []


def _steps_of(config: TrainingConfig, processes: int) -> int:
    buckets = [entry.bucket for entry in entries_of(config.samples)]
    sizes = config.train_batch_size, config.gradient_accumulation_steps
    order = Order(buckets, *sizes, processes, config.seed)
    return config.max_train_steps or order.steps_of(config.num_train_epochs)


def _tail(path: Path) -> str:
    """The last lines of a log; of a progress bar only the last state."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        said = file.read().decode(errors="replace")
    return "\n".join(line.rpartition("\r")[2] for line in said.splitlines()[-LOG_LINES:])

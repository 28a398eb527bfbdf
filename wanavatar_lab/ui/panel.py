"""A stage in a notebook: its form, a button that runs it, the cards of its runs, a result, and the earlier ones.

panel = Panel(SpeechToVideo, profile="pocket", audio="voice.wav")
panel                     # in a notebook: shows it
await panel.run()         # instead of a click on the button
panel.artifact            # what the next cell takes
"""

import asyncio
import importlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ipywidgets as widgets

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.requests import STAGE_REQUESTS, Request, fields_of
from wanavatar_lab.runs.run import Run, runs_folder
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.ui.elements import alert, bare, heading, refill, shared
from wanavatar_lab.ui.form import Form, fields_for
from wanavatar_lab.ui.form_memory import FormMemory
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.record import (
    Record,
    is_headless,
    joined,
    record_of,
    record_of_file,
    record_of_form,
    record_of_run,
)
from wanavatar_lab.ui.served_files import can_show
from wanavatar_lab.ui.widget import LabBox, LanguageSwitch, Look, loop_runs, start
from wanavatar_lab.worker.queue import RunQueue

if TYPE_CHECKING:
    from wanavatar_lab.ui.batch import Batch, HowMany
    from wanavatar_lab.ui.drop_zone import DropZone
    from wanavatar_lab.ui.gallery import Gallery
    from wanavatar_lab.ui.history import History
    from wanavatar_lab.ui.queue_view import QueueView

POLL_SECONDS = 0.2
# the stages to which a file goes that the panel in use does not take, in this order
TAKERS = ("speech_to_video", "image_to_video", "upscale")
WORDS = read_words(__file__, "panel")

_Submitted = TypeVar("_Submitted")


class Panel(LabBox):
    """One stage.

    Every unfinished run of the panel has its card. The newest result is shown until there is another, or until an
    earlier one is chosen in the strip below it.

    A run continues when the page is closed; the next panel of the same stage and profile shows it again.

    Args:
        request_class: of the stage.
        profile: which models.
        values: of the form's fields.

    Raises:
        RequestError: there is no such field, or a value is not allowed.

    Attributes:
        host: what opens the panels of other stages; None for a panel that stands alone.
    """

    host: "PanelHost | None" = None

    def __init__(self, request_class: type[Request], /, profile: str = "pocket", **values: Any) -> None:
        self.form = Form(request_class, profile=profile, **values)
        self.job: jobs.Job | None = None
        self.artifacts: list[Path] = []
        self._title, self._hint = bare(widgets.HTML, "wl-panel-title"), bare(widgets.HTML)
        self._button = bare(widgets.Button, "wl-run", button_style="primary")
        self._cards, self._result, self._earlier = (bare(widgets.VBox) for _ in range(3))
        self._shown = ""  # the run whose result is shown
        self._history: History | None = None
        self._batches: list[Batch] = []  # shown above the earlier results
        self._how_many: HowMany | None = None
        self._memory = FormMemory(self.form)
        self._foot = bare(widgets.HBox, "wl-panel-foot", children=[self._button, self._memory])
        inputs = bare(widgets.VBox, "wl-panel-form", children=[self.form, self._foot])
        outputs = bare(widgets.VBox, "wl-panel-made", children=[self._hint, self._cards, self._result, self._earlier])
        body = bare(widgets.HBox, "wl-panel-body", children=[inputs, outputs])
        self._dropped = bare(widgets.VBox, "wl-panel-drop")  # receives files that are dropped on the panel
        head = bare(widgets.HBox, "wl-panel-head", children=[self._title, LanguageSwitch()])
        self._look = look = Look()
        super().__init__([look, head, self._dropped, body], layout=shared(widgets.Layout), _dom_classes=["wl-panel"])
        self._button.on_click(lambda _: start(self._pressed()))
        self._attach_again()
        look.when_drawn(self._make_the_rest)

    @property
    def artifact(self) -> Path | None:
        """The main file of the last run; None until it has succeeded."""
        return self.artifacts[0] if self.artifacts else None

    async def run(self) -> list[Path]:
        """Run what the form describes, as the button does, and wait for it.

        Interrupting this (the stop button of a notebook, a cancelled task) cancels the run.

        Returns:
            The files it made, the main one first.

        Raises:
            RequestError: the form's values are not allowed.
            RunError: the run failed or was cancelled.
        """
        submitting = asyncio.ensure_future(self._submit())
        try:
            job = await asyncio.shield(submitting)  # a thread does it, which goes on also where this is interrupted
            if is_headless():
                from wanavatar_lab.ui.job_card import progress_lines

                await progress_lines(job)
            status = await self._follow(job)
        except (KeyboardInterrupt, asyncio.CancelledError):
            (await submitting).cancel()
            raise
        if status is None or status.state != "succeeded":
            how = "was deleted" if status is None else f"failed: {status.error}" if status.error else "was cancelled"
            raise RunError(f"The run {job.id} {how}")
        return self.artifacts

    @property
    def cards(self) -> list[JobCard]:
        """The cards shown: those of unfinished runs, and that of the result."""
        return list(self._cards.children)

    @property
    def run_ids(self) -> list[str]:
        """The runs whose cards are shown."""
        return [card.run_id for card in self.cards]

    def reveal(self) -> None:
        """Let the page scroll to the panel."""
        self._look.reveal = True

    def record(self) -> Record:
        """The last run with its result, and the batches shown; without a run, the values that the form was given."""
        if self.job is None:
            given = {name: control.value for name, control in self.form.made.items() if name in self.form.touched}
            return record_of_form(self.form.request_class, self.form.profile, given)
        if any(self.job in batch.jobs for batch in self._batches):
            return joined(map(record_of, self._batches))
        last = record_of_run(self.job.run, joined(map(record_of, self._result.children)))
        return joined([last, *map(record_of, self._batches)])

    def close(self) -> None:
        """Close the panel. Its run continues."""
        self.job = None  # its result is not shown here any more
        super().close()

    def show_words(self) -> None:
        """Put title, hints and button into the language shown."""
        request_class = self.form.request_class
        self._title.value = heading(3, language.of(request_class.labels), language.of(request_class.help))
        drop = ("drop",) if self.form.takes else ()
        hints = [WORDS.text(name) for name in ("hint", *((*drop, "settings") if self._dropped.children else ()))]
        hint = "".join(f"<p>{escape(text)}</p>" for text in hints)
        shown = f'<div class="wl-panel-hint" lang="{language.code}">{hint}</div>'
        self._hint.value = "" if self.cards else shown  # the style sheet hides an empty text
        active = any(card.active for card in self.cards)
        self._button.description = WORDS.text("running" if active else "run")
        if self._history is not None:
            self._history.uses = self._uses()

    def _make_the_rest(self) -> None:
        """Make what the panel can be drawn without, and import what shows pictures and plays sound."""
        if self.comm is None:  # closed meanwhile
            return
        self.form.make_all()
        from wanavatar_lab.ui.batch import HowMany  # as below: a panel is drawn sooner without it
        from wanavatar_lab.ui.drop_zone import SAYS_HOW, DropZone
        from wanavatar_lab.ui.history import History
        from wanavatar_lab.ui.presets import Presets

        foot: list[Any] = [self._button, Presets(self.form), self._memory]
        if "seed" in self.form.views:
            self._how_many = HowMany(self.form.request_class)
            foot.insert(1, self._how_many)
        self._foot.children = foot
        self._dropped.children = [DropZone("wl-panel", self.form.takes | SAYS_HOW, self._take_file)]
        self.show_words()
        self._history = history = History(self.form.request_class.stage)
        history.on("choose", self.present)
        history.on("settings", lambda run: self.form.fill(run.repeatable_request()))
        history.on("reuse_seed", lambda run: self.form.set(seed=run.status().seed))
        history.on("again", lambda run: start(self._pressed(run.repeatable_request())))
        history.on("new_seed", lambda run: start(self._pressed(run.request().changed(seed=-1))))
        history.on("use", self._use)
        history.chosen = self._shown
        history.uses = self._uses()
        self._earlier.children = [*self._batches, history]
        if loop_runs():
            start(asyncio.to_thread(importlib.import_module, "wanavatar_lab.ui.player"))

    def _uses(self) -> dict[str, list[dict[str, str]]]:
        """The stages whose forms are here and take a result, by the kind of its file."""
        here = STAGE_REQUESTS.values() if self.host else [self.form.request_class]
        return {
            kind: [
                {"stage": request.stage, "label": language.of(request.labels)}
                for request in here
                if fields_for(request, f"result{suffix}")
            ]
            for kind, suffix in (("picture", ".png"), ("video", ".mp4"), ("audio", ".wav"))
        }

    def _use(self, _: Run, path: Path, stage: str) -> None:
        (self.host.form_of(stage) if self.host else self.form).take(path)

    async def _take_file(self, path: Path, field: str) -> str:
        from wanavatar_lab.ui.drop_zone import take_into

        return await take_into(self.form, path, field, self.host.form_of if self.host else None)

    async def _pressed(self, request: Request | None = None) -> None:
        """Run a request; None is that of the form, as often as it says beside the button."""
        count = 1
        if request is None and self._how_many is not None:
            if not self._how_many.allowed:
                return
            count = self._how_many.value
        try:
            if count > 1:
                await self._follow_all(await self._submit_batch(count))
            else:
                await self._follow(await self._submit(request))
        except RequestError:
            return  # the form shows it
        except (LabError, OSError) as error:
            self.form.show(error if isinstance(error, LabError) else LabError(str(error)))

    async def _submit(self, request: Request | None = None) -> jobs.Job:
        """Submit a request; None is that of the form."""
        request = self._ready(request)
        job = await self._queued(lambda: jobs.submit(request))
        self._show_card(job, reveal=True)
        return job

    async def _submit_batch(self, count: int) -> list[jobs.Job]:
        """Submit the form's request so many times, with other seeds."""
        from wanavatar_lab.ui.batch import submit_batch

        request = self._ready(None)
        return await self._queued(lambda: submit_batch(request, count))

    def _ready(self, request: Request | None) -> Request:
        """A request that can be submitted; None is that of the form."""
        request = request or self.form.request()
        if request is None:
            raise RequestError([*self.form.problems().items()])
        if request.profile == self.form.profile and (lacking := self.form.lacking()):
            refused = RequestError([("profile", lacking)])  # not when its turn comes in the queue
            self.form.show(refused)
            raise refused
        return request

    async def _queued(self, submit: Callable[[], _Submitted]) -> _Submitted:
        self._memory.settled = True  # what runs is what the form shows
        self._button.disabled = True  # until it is submitted: a second click would mean a second run
        try:
            # it starts the worker's supervisor and writes to disk, which must not block other widgets
            return await asyncio.to_thread(submit)
        except RequestError as error:
            self.form.show(error)
            raise
        finally:
            self._button.disabled = False

    def present(self, run: Run) -> None:
        """Show what a run has made, beside the cards of those that are unfinished."""
        status = run.status()
        if not status.ended:
            return
        self._shown = run.id
        if run.id not in self.run_ids:
            self._keep(lambda card: card.active, JobCard(run.id))
        else:
            self._keep(lambda card: card.active or card.run_id == run.id or card.state != "succeeded")
        shown = []
        if status.state == "succeeded":
            shown = [result_of(run)]
        elif status.artifacts:
            shown = [view_of([run.path(artifact) for artifact in status.artifacts])]
        refill(self._result, *shown)
        if self._history is not None:
            self._history.look()
            self._history.chosen = run.id
        if status.seed is not None:
            self.form.offer_seed(status.seed)
        self.show_words()

    def _show_card(self, job: jobs.Job, *, reveal: bool = False) -> None:
        self.job, self.artifacts = job, []
        card = JobCard(job.id, reveal=reveal)
        card.observe(lambda change: self.form.offer_seed(change["new"]), "seed")
        self.form.offer_seed(card.seed)
        self._keep(lambda each: each.active or each.run_id == self._shown, card)
        self.show_words()

    def _keep(self, wanted: Callable[[JobCard], bool], *new: JobCard) -> None:
        """Close the cards that are not wanted, and add new ones: unfinished runs first, the result's card last."""
        kept = [card for card in self.cards if wanted(card)]
        for card in self.cards:
            if card not in kept:
                card.close()
        self._cards.children = sorted([*kept, *new], key=lambda card: not card.active)

    async def _follow_all(self, several: Sequence[jobs.Job]) -> None:
        """Show runs as one strip, with a card for the one that is running, and each result as it comes."""
        from wanavatar_lab.ui.batch import Batch

        batch = Batch(several, self.present)
        for before in [each for each in self._batches if not each.unfinished]:
            self._batches.remove(before)
            before.close()
        self._batches.append(batch)
        self._earlier.children = [*self._batches, *([self._history] if self._history else [])]
        pending = list(several)
        while pending and self.comm is not None:
            left = batch.unfinished
            # first those that have ended meanwhile, whose results are older
            ended = [each for each in pending if each not in left]
            job = ended[0] if ended else next(each for each in left if each in pending)
            pending.remove(job)
            with suppress(RunError):  # it was deleted
                if job.id not in self.run_ids:
                    self._show_card(job, reveal=len(pending) == len(several) - 1)
                await self._follow(job)
            batch.look()
        await self.keep()

    async def _follow(self, job: jobs.Job) -> Status | None:
        """Wait until a run has ended and show its result; None if it was deleted."""
        card = next(card for card in self.cards if card.run_id == job.id)
        status: Status | None = await card.watch()
        if self.comm is None:
            return status
        if status is not None and status.state == "succeeded" and self.job == job:
            main = main_artifact(status.artifacts, self.form.request_class.artifact)
            ordered = [main, *(artifact for artifact in status.artifacts if artifact != main)]
            self.artifacts = [job.run.path(artifact) for artifact in ordered]
        others = (each.job.run for each in self.cards if each.job and each.run_id == self._shown)
        shown = next((run.readable_status() for run in others), None)  # None also where it was deleted since
        newer = shown is not None and status is not None and (shown.finished_at or 0.0) > (status.finished_at or 0.0)
        if status is not None and not newer and (status.state == "succeeded" or status.artifacts):
            self.present(job.run)
        elif self._history is not None:
            self._history.look()
        if newer:  # of two runs that ended at about the same time the other was seen first
            self._keep(lambda each: each.active or each.run_id == self._shown or each.state != "succeeded")
        self.show_words()
        await self.keep()
        return status

    def _attach_again(self) -> None:
        """Show the unfinished runs of this stage and profile: one with a card, several as a batch."""
        wanted = (self.form.request_class.stage, self.form.profile)
        found = []
        for run_id in RunQueue(runs_folder()).run_ids():
            with suppress(RunError):  # its ticket is written before its folder has its name
                job = jobs.attach(run_id)
                stage, profile = job.run.stage, job.run.read_json("request.json").get("profile", "full")
                if (stage, profile) == wanted and not job.status().ended:
                    found.append(job)
        if found:
            self._show_card(found[0])
            if loop_runs():
                start(self._follow_all(found) if len(found) > 1 else self._follow(found[0]))


class PanelHost(LabBox):
    """A column that opens panels: files, LoRAs and requests chosen in a gallery are put into the form of a stage.

    Attributes:
        stage_in_use: the stage of the panel that was used last; "" until one was.
    """

    stage_in_use = ""

    def connect(self, gallery: "Gallery", running: "QueueView") -> None:
        """Do what the buttons of a gallery ask for; what is run again appears among the runs under way."""
        gallery.on("again", lambda request: running.reveal(jobs.submit(request).id))
        gallery.on("use", lambda path, _: self.use(path))
        gallery.on("change", self.change)
        gallery.on("lora", self.use_lora)

    def use(self, path: Path) -> None:
        """Put a file into the panel used last, or into that of the first of `TAKERS` that takes such files.

        Raises:
            LabError: no stage takes such a file.
        """
        for stage in filter(None, (self.stage_in_use, *TAKERS)):
            if fields_for(STAGE_REQUESTS[stage], path):
                self._shown(stage).form.take(path)
                return
        raise LabError(f"The stages have no use for {path.name}; they take pictures, recordings and videos.")

    def use_lora(self, name: str, stage: str, profile: str) -> None:
        """Switch a LoRA on in the panel of a stage."""
        self._shown(stage).form.use_lora(name, profile)

    def change(self, request: Request) -> None:
        """Show a request in the panel of its stage, to be changed and run."""
        self._shown(request.stage).form.fill(request)

    def form_of(self, stage: str) -> Form:
        """Show the panel of a stage, and return its form.

        Raises:
            LabError: there is no such stage.
        """
        if stage not in STAGE_REQUESTS:
            raise LabError(f"It was made by the stage {stage!r}, which this page does not have.")
        return self._shown(stage).form

    def drop_zone(self) -> "DropZone":
        """Opens the panel of the stage that made a file, with its settings, where one is dropped on the results."""
        from wanavatar_lab.ui.drop_zone import SAYS_HOW, DropZone

        return DropZone("wl-results", SAYS_HOW, self._restore)

    async def _restore(self, path: Path, _field: str) -> str:
        from wanavatar_lab.runs.made_with import read_settings
        from wanavatar_lab.ui.drop_zone import restore

        made = await asyncio.to_thread(read_settings, path)
        return await restore(self.form_of(made.stage), made, path)

    def _shown(self, stage: str) -> Panel:
        panel = self.open_panel(stage)
        panel.host = self
        panel.reveal()
        return panel

    @abstractmethod
    def open_panel(self, stage: str) -> Panel:
        """Show the panel of a stage, which is made if it does not exist yet."""


def result_of(run: Run) -> widgets.Widget:
    """The view of a succeeded run: a picture made of another is overlaid on it, with a movable edge.

    Where the page cannot show the result, the view says why.
    """
    from wanavatar_lab.ui.player import Compare

    try:
        made = run.status().artifacts
        request = run.request()
        main = main_artifact(made, request.artifact)
        after = next((artifact for artifact in made if artifact.role == "upscaled"), main)
        if after != main:  # drawn and enlarged in one run
            before: Path | None = run.path(main)
        else:
            views = fields_of(type(request))
            given = [path for name, path in request.input_files().items() if views[name].widget == "picture"]
            before = given[0] if given and request.artifact == "picture" else None
        if before is not None and can_show(before) and can_show(run.path(after)):
            return Compare(before, run.path(after))
    except LabError as error:
        return Unseen(error)
    return view_of([run.path(artifact) for artifact in made])


def view_of(files: Sequence[Path | str]) -> widgets.Widget:
    """The view of pictures, clips and recordings; where the page cannot show them, it says why."""
    from wanavatar_lab.ui.player import show

    try:
        return show(files)
    except LabError as error:
        return Unseen(error, files)


class Unseen(LabBox):
    """Why the page cannot show files; a notebook keeps them all the same."""

    def __init__(self, why: LabError, files: Sequence[Path | str] = ()) -> None:
        self._files = files
        super().__init__([widgets.HTML(alert(str(why)))])

    def record(self) -> Record:
        """The files."""
        return joined(map(record_of_file, self._files), across=True)

"""A stage as a notebook shows it: its form, a button that runs it, the card of the last run, and what that made.

panel = Panel(SpeechToVideo, profile="pocket", audio="voice.wav")
panel                     # in a notebook: shows it
await panel.run()         # where nobody is there to press the button
panel.artifact            # what the next cell takes

What a run made, as its panel shows it: a picture made of another lies over that one, with an edge to move.
"""

import asyncio
import importlib
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from ipywidgets.widgets.widget_string import HTMLStyle

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.requests import Request, fields_of
from wanavatar_lab.runs.run import Run, runs_folder
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.ui.fields import alert, bare_box, bare_button, bare_html, shared
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.language_switch import LanguageSwitch
from wanavatar_lab.ui.tasks import loop_runs, start
from wanavatar_lab.ui.widget import Look, can_show
from wanavatar_lab.worker.queue import RunQueue


def result_of(run: Run) -> widgets.Widget:
    """The view of a run that has succeeded; where the page cannot show what it made, why not."""
    from wanavatar_lab.ui.compare import Compare

    try:
        made = run.status().artifacts
        main = run.path(main_artifact(made, run.request().artifact))
        larger = next((run.path(artifact) for artifact in made if artifact.role == "upscaled"), None)
        before, after = (_before(run), main) if larger is None else (main, larger)
        if before is not None and can_show(before) and can_show(after):
            return Compare(before, after)
    except LabError as error:
        return widgets.HTML(alert(str(error)))
    return view_of([run.path(artifact) for artifact in made])


def view_of(files: Sequence[Path | str]) -> widgets.Widget:
    """The view of pictures, clips and recordings; where the page cannot show them, why not."""
    from wanavatar_lab.ui.player import show

    try:
        return show(files)
    except LabError as error:
        return widgets.HTML(alert(str(error)))


def _before(run: Run) -> Path | None:
    """The picture that a run made a picture of."""
    request = run.request()
    if request.artifact != "picture":
        return None
    views = fields_of(type(request))
    return next((path for name, path in request.input_files().items() if views[name].widget == "picture"), None)


WORDS = read_words(__file__, "panel")


class Panel(widgets.VBox):
    """One stage.

    A run goes on when the page is closed; the next panel of the same stage and profile shows it again.

    Args:
        request_class: of the stage.
        profile: which models.
        values: of the form's fields.

    Raises:
        RequestError: there is no such field, or a value is not allowed.
    """

    def __init__(self, request_class: type[Request], /, profile: str = "pocket", **values: Any) -> None:
        self.form = Form(request_class, profile=profile, **values)
        self.job: jobs.Job | None = None
        self.artifacts: list[Path] = []
        self._listeners: list[Callable[[Panel], None]] = []
        self._title, self._hint = bare_html("wl-panel-title"), widgets.HTML(style=shared(HTMLStyle))
        self._button = bare_button("wl-run", button_style="primary")
        self._card, self._result = bare_box(widgets.VBox), bare_box(widgets.VBox)
        foot = bare_box(widgets.VBox, [self._button], "wl-panel-foot")
        asked = bare_box(widgets.VBox, [self.form, foot], "wl-panel-form")
        made = bare_box(widgets.VBox, [self._hint, self._card, self._result], "wl-panel-made")
        body = bare_box(widgets.HBox, [asked, made], "wl-panel-body")
        self._dropped = bare_box(widgets.VBox, (), "wl-panel-drop")  # what takes files that are dropped
        head = bare_box(widgets.HBox, [self._title, LanguageSwitch()], "wl-panel-head")
        look = Look()
        super().__init__([look, head, self._dropped, body], layout=shared(widgets.Layout), _dom_classes=["wl-panel"])
        self._button.on_click(lambda _: start(self._pressed()))
        self._unfollow = language.follow(self._say)
        self._attach_again()
        look.when_drawn(self._make_the_rest)

    @property
    def artifact(self) -> Path | None:
        """The file that the last run was for; None until it has succeeded."""
        return self.artifacts[0] if self.artifacts else None

    def on_result(self, listener: Callable[["Panel"], None]) -> None:
        """Call `listener` with the panel when a run has succeeded."""
        self._listeners.append(listener)

    async def run(self) -> list[Path]:
        """Run what the form describes, as the button does, and wait for it.

        Whoever stops waiting (the stop button of a notebook, a cancelled task) also cancels the run.

        Returns:
            The files it made, the one it is for first.

        Raises:
            RequestError: the form's values are not allowed.
            RunError: the run failed or was cancelled.
        """
        job = await self._submit()
        try:
            status = await self._follow(job)
        except (KeyboardInterrupt, asyncio.CancelledError):
            job.cancel()
            raise
        if status is None or status.state != "succeeded":
            how = "was deleted" if status is None else f"failed: {status.error}" if status.error else "was cancelled"
            raise RunError(f"The run {job.id} {how}")
        return self.artifacts

    def close(self) -> None:
        """Take the panel away. Its run goes on."""
        self.__dict__.pop("_unfollow", lambda: None)()
        self.job = None  # what it makes is not to be shown here any more
        for widget in [*_below(self)]:
            widget.close()
        super().close()

    def _make_the_rest(self) -> None:
        """Make what nobody needs before the panel is there, and import what shows pictures and plays sound."""
        if self.comm is None:  # it was closed meanwhile
            return
        self.form.controls.make_all()
        self._take_drops()
        if loop_runs():
            start(asyncio.to_thread(importlib.import_module, "wanavatar_lab.ui.player"))

    def _take_drops(self) -> None:
        """From now on take files that are dropped anywhere on the panel, and show them while they arrive."""
        if not self.form.takes:
            return
        from wanavatar_lab.ui.uploads import Upload  # a panel without files has no use for its script

        zone = Upload(accept=",".join(self.form.takes), around="wl-panel")

        def arrived(change: Any) -> None:
            if change["new"]:  # it is empty while another file arrives
                self.form.take(change["new"], zone.field)

        zone.observe(arrived, "path")
        self._dropped.children = [zone]
        self._say()

    async def _pressed(self) -> None:
        try:
            await self._follow(await self._submit())
        except RequestError:
            return  # it stands in the form
        except (LabError, OSError) as error:
            self.form.show(error if isinstance(error, LabError) else LabError(str(error)))

    async def _submit(self) -> jobs.Job:
        request = self.form.request()
        if request is None:
            raise RequestError([*self.form.problems().items()])
        self._button.disabled = True  # until it is submitted: a second click would mean a second run
        try:
            # it starts the worker's supervisor and writes to disk, for which nobody else's click is to wait
            job = await asyncio.to_thread(jobs.submit, request)
        except RequestError as error:
            self.form.show(error)
            raise
        finally:
            self._button.disabled = False
        self._show_card(job, reveal=True)
        return job

    def _show_card(self, job: jobs.Job, *, reveal: bool = False) -> None:
        from wanavatar_lab.ui.job_card import JobCard

        self.job, self.artifacts = job, []
        for old in self._card.children:
            old.close()
        self._card.children = [JobCard(job.id, reveal=reveal)]
        self._show_result()
        self._say()

    async def _follow(self, job: jobs.Job) -> Status | None:
        """Wait for a run's end and show what it made, if it still is the last one then; None if it was deleted."""
        (card,) = self._card.children
        status: Status | None = await card.watch()
        if self.job is not job:  # a later run took its card
            return await _ended(job)
        if status is not None and status.state == "succeeded":
            main = main_artifact(status.artifacts, self.form.request_class.artifact)
            ordered = [main, *(artifact for artifact in status.artifacts if artifact != main)]
            self.artifacts = [job.run.path(artifact) for artifact in ordered]
            self._show_result()
            for listener in self._listeners:
                listener(self)
        self._say()
        return status

    def _show_result(self) -> None:
        for old in self._result.children:
            old.close()
        self._result.children = [result_of(self.job.run)] if self.job is not None and self.artifacts else []

    def _attach_again(self) -> None:
        """Show the newest run of this stage and profile that still goes on."""
        for run_id in reversed(RunQueue(runs_folder()).run_ids()):
            try:
                job = jobs.attach(run_id)
            except RunError:
                continue  # its ticket is written before its folder has its name
            stage, profile = job.run.stage, job.run.read_json("request.json").get("profile")
            wanted = (self.form.request_class.stage, self.form.profile)
            if (stage, profile) == wanted and not job.status().ended:
                self._show_card(job)
                if loop_runs():
                    start(self._follow(job))
                return

    def _say(self) -> None:
        request_class = self.form.request_class
        title, text = language.of(request_class.labels), language.of(request_class.help)
        self._title.value = f'<div lang="{language.code}"><h3>{escape(title)}</h3><p>{escape(text)}</p></div>'
        said = [language.of(WORDS[name]) for name in ("hint", *(["drop"] if self._dropped.children else []))]
        hint = "".join(f"<p>{escape(text)}</p>" for text in said)
        self._hint.value = f'<div class="wl-panel-hint" lang="{language.code}">{hint}</div>'
        self._hint.layout.display = "none" if self._card.children else None
        under_way = any(card.state in ("queued", "running") for card in self._card.children)
        self._button.description = language.of(WORDS["running" if under_way else "run"])


async def _ended(job: jobs.Job) -> Status:
    while not (status := job.status()).ended:
        await asyncio.sleep(0.2)
    return status


def _below(widget: Any) -> Iterator[Any]:
    """What a widget is made of, and what that is made of."""
    for child in getattr(widget, "children", ()):
        yield child
        yield from _below(child)

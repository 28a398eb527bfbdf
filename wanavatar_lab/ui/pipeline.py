"""The whole way to a talking avatar as a form: its stages in a row, each with its result, to be changed and repeated.

pipeline = Pipeline(profile="pocket", prompt="a woman with red hair", script="Hello there")
pipeline                  # in a notebook: shows it
await pipeline.run()      # instead of a click on the button
pipeline.artifact         # the talking clip, for the next cell
"""

import asyncio
import importlib
from collections.abc import Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ipywidgets as widgets
import traitlets

from wanavatar_lab import pipeline
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.jobs import Job
from wanavatar_lab.pipeline import Link, Made, Progress, TalkingAvatar
from wanavatar_lab.pipeline.chain import Chain
from wanavatar_lab.requests import STAGE_REQUESTS, Request
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.ui.elements import bare, heading, refill, shared
from wanavatar_lab.ui.form import Form, weights_lacking
from wanavatar_lab.ui.form_memory import FormMemory
from wanavatar_lab.ui.language import language, read_words, stage_name
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.ui.panel import result_of, view_of
from wanavatar_lab.ui.record import Record, is_headless, joined, record_of_form, record_of_run
from wanavatar_lab.ui.served_files import can_show, kind_of, server_path
from wanavatar_lab.ui.widget import LabBox, LabWidget, LanguageSwitch, Look, loop_runs, script, start, styles

STAGES = ("text_to_image", "upscale", "image_to_video", "text_to_speech", "speech_to_video")
PICTURE, VOICE = 0, 3  # the places of stages in whose stead a person may give a file
WORDS = read_words(__file__, "pipeline")
_OF_STATUS = ("state", "phase", "step", "steps", "segment", "segments", "fraction", "seed")


class Steps(LabWidget):
    """The stages side by side, each with its state and a thumbnail of its result; the buttons are about the chosen one.

    Attributes:
        steps: the stages, as the page needs them.
        chosen: which of them is chosen, from 0.
        busy: whether stages run, so that none can be changed.
        seconds_left: of all stages, while they run.
        reveal: the page scrolls to the stages, once, if they are out of sight.
    """

    _esm = script("pipeline_steps")
    _css = styles("pipeline_steps")
    WORDS = read_words(__file__, "states", "job_card", "pipeline")

    steps: traitlets.List[Any] = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    seconds_left = traitlets.Int(None, allow_none=True).tag(sync=True)
    reveal = traitlets.Bool(False).tag(sync=True)

    def __init__(self, owner: "Pipeline") -> None:
        self._owner = owner
        super().__init__()

    def begin(self, given: Collection[int] = ()) -> None:
        """Show all stages as not begun; those at the places `given` are files that were given."""
        blank = {"state": "pending", "phase": "", "fraction": 0.0, "seed": None, "path": "", "said": "", "ready": False}
        steps = [{"stage": stage, "given": place in given, **blank} for place, stage in enumerate(STAGES)]
        for step in steps:
            step["seeded"] = "seed" in STAGE_REQUESTS[str(step["stage"])].model_fields
        self.steps = [_in_words(step) for step in steps]

    def change(self, place: int, **facts: Any) -> None:
        """Change what is shown of a stage."""
        # a change in place would not be noticed
        self.steps = [_in_words(step | facts if at == place else step) for at, step in enumerate(self.steps)]

    def show_file(self, place: int, path: Path) -> None:
        """Show a file as the result of a stage; nothing where the page cannot."""
        if can_show(path):
            version = str(path.stat().st_mtime_ns)
            self.change(place, path=server_path(path), kind=kind_of(path), version=version)

    def show_words(self) -> None:
        """Put every text into the language shown, also the names of the stages."""
        super().show_words()
        self.steps = [_in_words(step) for step in self.steps]

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Do what a button asks for."""
        match content.get("kind"):
            case "change":
                self._owner.change(self.chosen)
            case "again":
                self._owner.again(self.chosen)
            case "cancel":
                self._owner.cancel()


def _in_words(step: dict[str, Any]) -> dict[str, Any]:
    given = "given" if step["stage"] == STAGES[PICTURE] else "given_voice"
    title = WORDS.text(given) if step["given"] else stage_name(step["stage"])
    return {**step, "title": title, "error": in_language(step["said"])}


class _Form(Form):
    """The form of a pipeline, which lacks what any of its stages lacks."""

    def lacking(self) -> str:
        """Which weights have to be downloaded, and how; "" if none."""
        given = {name for name in ("picture", "script") if (control := self.made.get(name)) and control.value}
        unused = {STAGES[PICTURE] if "picture" in given else "", "" if "script" in given else STAGES[VOICE]}
        needed = [stage for stage in STAGES if stage not in unused]
        return " ".join(filter(None, (weights_lacking(stage, self.profile) for stage in needed)))


class Pipeline(LabBox):
    """A sentence or a picture, and a script or a voice, become a talking avatar.

    The newest result is shown large, or that of the stage that a person has chosen. A stage can be changed and run
    again, with the stages that take its result; the others keep theirs.

    Each stage is queued when the one before has ended, by a process that outlives this kernel. A chain that goes on, or
    whose end nobody has seen, is shown by the next form of its profile.

    Args:
        profile: which models.
        values: of the form's fields, those of `wanavatar_lab.pipeline.TalkingAvatar`.

    Attributes:
        links: of the chain that was run last.
        made: the results that there are, by the links' files.

    Raises:
        RequestError: there is no such field, or a value is not allowed.
    """

    def __init__(self, profile: str = "pocket", **values: Any) -> None:
        self.form = _Form(TalkingAvatar, profile=profile, **values)
        self.links: list[Link] = []
        self.made: dict[str, Made] = {}
        self._given: dict[int, Path] = {}  # files that were given, by the places of the stages that they stand for
        self._chain: Chain | None = None  # that was run or found last
        self._found: asyncio.Task[Any] | None = None  # follows a chain that was not begun here
        self._job: Job | None = None  # of the stage that was queued last
        self._at = 0  # the place of that stage
        self._changed: Form | None = None  # of the stage that is being changed
        self._title, self._hint = bare(widgets.HTML, "wl-panel-title"), bare(widgets.HTML)
        self._button = bare(widgets.Button, "wl-run", button_style="primary")
        self._memory, self.steps = FormMemory(self.form), Steps(self)
        self._dropped, self._large, self._change = (
            bare(widgets.VBox, "wl-panel-drop"),
            *(bare(widgets.VBox) for _ in range(2)),
        )
        self.steps.begin()
        foot = bare(widgets.HBox, "wl-panel-foot", children=[self._button, self._memory])
        inputs = bare(widgets.VBox, "wl-panel-form", children=[self.form, foot])
        made = [self._hint, self._large, self.steps, self._change]
        outputs = bare(widgets.VBox, "wl-panel-made", children=made)
        body = bare(widgets.HBox, "wl-panel-body", children=[inputs, outputs])
        head = bare(widgets.HBox, "wl-panel-head", children=[self._title, LanguageSwitch()])
        look, classes = Look(), ["wl-panel", "wl-pipeline"]
        super().__init__([look, head, self._dropped, body], layout=shared(widgets.Layout), _dom_classes=classes)
        self._button.on_click(lambda _: start(self._shown(self._run_form(cancel=False))))
        self.steps.observe(lambda _: self._show_large(), "chosen")
        look.when_drawn(self._make_the_rest)

    @property
    def artifacts(self) -> list[Path]:
        """The results of all stages that have one, in their order."""
        return [self.made[link.file].path for link in self.links if link.file in self.made]

    @property
    def artifact(self) -> Path | None:
        """The talking clip; None until there is one."""
        clip = self.made.get(self.links[-1].file) if self.links else None
        return clip.path if clip else None

    async def run(self) -> list[Path]:
        """Run all stages as the form describes them, as the button does, and wait for them.

        Interrupting this (the stop button of a notebook, a cancelled task) cancels the stage that runs. Where the
        kernel ends, the stages go on.

        Returns:
            The files made, in the order of the stages.

        Raises:
            RequestError: the form's values are not allowed.
            LabError: a stage failed or was cancelled; those before keep their results.
        """
        return await self._run_form(cancel=True)

    async def _run_form(self, *, cancel: bool) -> list[Path]:
        request = self.form.request()
        if request is None:
            raise RequestError([*self.form.problems().items()])
        assert isinstance(request, TalkingAvatar)
        if lacking := self.form.lacking():
            refused = RequestError([("profile", lacking)])
            self.form.show(refused)
            raise refused
        links = request.links()
        self._leave()
        self._check_free()
        self._begin(links)
        return await self._run(links, {}, cancel=cancel)

    async def attach(self) -> None:
        """Show the newest chain of this profile that goes on, or whose end nobody has seen, and follow it."""
        for chain in reversed(Chain.unseen()):
            links: list[Link] = []
            with suppress(LabError):  # of stages that are not known here, or of runs that were deleted
                links, kept = chain.links(), chain.kept()
            if links and links[0].request.profile == self.form.profile:
                self._begin(links, kept)
                await self._follow(chain, links, kept)
                return
        self._found = None

    def _begin(self, links: Sequence[Link], kept: Mapping[str, Made] = MappingProxyType({})) -> None:
        """Show all stages as not begun but those with a result that is kept, or with a file that was given."""
        first, last = links[0], links[-1]
        files = {PICTURE: (first, "image"), VOICE: (last, "audio")}
        given = {place: getattr(link.request, field, None) for place, (link, field) in files.items()}
        taken = {place for place, (link, field) in files.items() if field in link.takes}
        self._given = {place: Path(path) for place, path in given.items() if path is not None and place not in taken}
        self.steps.begin(self._given)
        for place, path in self._given.items():
            self.steps.change(place, state="succeeded")
            self.steps.show_file(place, path)
        for made in kept.values():
            self._at = STAGES.index(made.link.request.stage)
            self._show_status(made.status)
            self.steps.show_file(self._at, made.path)

    def _leave(self) -> None:
        """Follow a chain no longer that was not begun here; it goes on."""
        if self._found is not None:
            self._found.cancel()
            self._found = self._chain = None
            self.steps.busy = False

    def change(self, place: int) -> None:
        """Open the form of a stage, below the stages."""
        index = self._index(place)
        if index is None or not self._can_change(index):
            return
        link = self.links[index]
        taken = {name: str(self.made[file].path) for name, file in link.takes.items()}
        form = Form(type(link.request), profile=link.request.profile)
        form.fill(link.request.changed(**taken))
        for name in taken:  # what another stage has made
            form.made[name].layout = widgets.Layout(display="none")
        title = bare(widgets.HTML, value=heading(3, stage_name(link.request.stage), ""))
        run, discard = bare(widgets.Button, "wl-from-here"), bare(widgets.Button)
        run.description, discard.description = WORDS.text("from_here"), WORDS.text("discard")
        run.on_click(lambda _: self._run_changed(index, form))
        discard.on_click(lambda _: self._close_change())
        self._close_change()
        self._changed = form
        row = bare(widgets.HBox, "wl-panel-foot", children=[run, discard])
        self._change.children = [bare(widgets.VBox, "wl-panel-form", children=[title, form, row])]

    def again(self, place: int) -> None:
        """Run a stage again, with another seed if it has one, and the stages that take its result."""
        index = self._index(place)
        if index is not None and self._can_change(index):
            request = self.links[index].request
            if "seed" in type(request).model_fields:
                request = request.changed(seed=-1)
            start(self._shown(self._run_from(index, request)))

    def cancel(self) -> None:
        """Cancel the stage that runs; those after it do not begin."""
        if self._chain is not None and self.steps.busy:
            self._chain.cancel()

    def record(self) -> Record:
        """The stages that have a result, with it; without one, the values that the form was given."""
        if not self.made:
            return record_of_form(TalkingAvatar, self.form.profile, self.form.chosen())
        return joined(record_of_run(self.made[link.file].job.run) for link in self.links if link.file in self.made)

    def show_words(self) -> None:
        """Put title, hints and button into the language shown."""
        self._title.value = heading(3, language.of(TalkingAvatar.labels), language.of(TalkingAvatar.help))
        hints = [WORDS.text(name) for name in ("hint", *(["drop"] if self._dropped.children else []), "stay")]
        hint = "".join(f"<p>{escape(text)}</p>" for text in hints)
        shown = f'<div class="wl-panel-hint" lang="{language.code}">{hint}</div>'
        self._hint.value = "" if self._large.children else shown
        ours = self.steps.busy and self._found is None  # another one does not keep a person from running their own
        self._button.description = WORDS.text("busy" if ours else "run")
        self._button.disabled = ours

    def _index(self, place: int) -> int | None:
        """The index of the link of a stage; None if it has none."""
        stages = [link.request.stage for link in self.links]
        return stages.index(STAGES[place]) if STAGES[place] in stages else None

    def _make_the_rest(self) -> None:
        """Make what the form can be drawn without, and import what shows pictures and plays sound."""
        if self.comm is None:  # closed meanwhile
            return
        self.form.make_all()
        from wanavatar_lab.ui.uploads import Upload  # as in a panel

        zone = Upload(accept=",".join(self.form.takes), around="wl-panel")

        def arrived(change: Any) -> None:
            if change["new"]:  # it is empty while another file arrives
                self.form.take(change["new"], zone.field)

        zone.observe(arrived, "path")
        self._dropped.children = [zone]
        self.show_words()
        if loop_runs():
            if not self.links:
                self._found = start(self._shown(self.attach()))
            start(asyncio.to_thread(importlib.import_module, "wanavatar_lab.ui.player"))

    async def _shown(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do what a button began; an error that stands at no stage stands in the form."""
        try:
            await work
        except RequestError as error:
            (self._changed or self.form).show(error)
        except (LabError, OSError) as error:
            if not any(step["said"] or step["state"] == "cancelled" for step in self.steps.steps):
                self.form.show(error if isinstance(error, LabError) else LabError(str(error)))

    def _can_change(self, index: int) -> bool:
        """Whether a link has all that it takes, and nothing runs."""
        return not self.steps.busy and all(file in self.made for file in self.links[index].takes.values())

    def _run_changed(self, index: int, form: Form) -> None:
        request = form.request()
        if request is None or self.steps.busy:
            return
        if lacking := form.lacking():
            form.show(RequestError([("profile", lacking)]))
            return
        self._close_change()
        start(self._shown(self._run_from(index, request)))

    async def _run_from(self, index: int, request: Request) -> list[Path]:
        """Run a link with this request, and those that take its result, directly or through others."""
        links = [*self.links]
        links[index] = replace(links[index], request=request)
        anew = {links[index].file}
        for link in links[index + 1 :]:
            if anew & set(link.takes.values()):
                anew.add(link.file)
        return await self._run(links, {file: made for file, made in self.made.items() if file not in anew})

    async def _run(self, links: Sequence[Link], kept: dict[str, Made], *, cancel: bool = False) -> list[Path]:
        self._check_free()
        self._memory.settled = True  # what runs is what the form shows
        return await self._follow(None, links, kept, cancel=cancel)

    def _check_free(self) -> None:
        if self.steps.busy:
            raise LabError("The stages run already; wait until they have ended, or cancel them.")

    async def _follow(
        self, chain: Chain | None, links: Sequence[Link], kept: dict[str, Made], *, cancel: bool = False
    ) -> list[Path]:
        """Follow a chain, which is started if it is None."""
        self._close_change()
        self._chain, self.links, self.made, self._job = chain, list(links), dict(kept), None
        places = [STAGES.index(link.request.stage) for link in links if link.file not in kept]
        for place in places:
            self.steps.change(place, state="pending", fraction=0.0, seed=None, said="", path="")
        self._ready()
        self.steps.busy, self.steps.reveal = True, self._found is None
        self._show_large()
        lines = pipeline.on_progress() if is_headless() else None

        def begun(index: int, job: Job) -> None:
            self._job, self._at = job, STAGES.index(links[index].request.stage)

        def show(progress: Progress) -> None:
            if lines is not None:
                lines(progress)
            self.steps.seconds_left = round(progress.seconds_left)
            self._show_status(progress.status)
            if progress.status.state == "succeeded":
                self._keep(progress.status)

        try:
            if chain is None:
                # it starts a process and writes to disk, which must not block other widgets
                chain = self._chain = await asyncio.to_thread(Chain.start, links, kept)
            await chain.follow(show, begun, cancel=cancel)
        finally:
            if self._chain is chain:  # not one that was left for a chain of one's own
                self._show_end()
                self._job = self._found = None
                with self.steps.hold_sync():
                    self.steps.busy, self.steps.seconds_left = False, None
                self._ready()
                self.show_words()
                await self.keep()
        return self.artifacts

    def _keep(self, status: Status) -> None:
        """Show what the stage has made that has just ended."""
        assert self._job is not None
        (link,) = [link for link in self.links if link.request.stage == STAGES[self._at]]
        path = self._job.run.path(main_artifact(status.artifacts, link.request.artifact))
        self.made[link.file] = Made(link, self._job, status, path)
        self.steps.show_file(self._at, path)
        if self.steps.chosen == self._at:
            self._show_large()
        else:
            self.steps.chosen = self._at

    def _show_end(self) -> None:
        """Show how the stage has ended that was queued last, also where it failed or was cancelled."""
        if self._job is not None and (status := self._job.run.readable_status()) is not None:
            self._show_status(status)
            self.steps.chosen = self._at  # with the reason, and the button that tries again

    def _show_status(self, status: Status) -> None:
        facts = {name: getattr(status, name) for name in _OF_STATUS}
        if not self.steps.steps[self._at]["seeded"]:
            facts["seed"] = None  # this stage has no use for it
        self.steps.change(self._at, **facts, said=status.error or "")

    def _show_large(self) -> None:
        """Show the result of the chosen stage, if there is one."""
        index = self._index(self.steps.chosen)
        made = self.made.get(self.links[index].file) if index is not None else None
        given = self._given.get(self.steps.chosen)
        if made is not None:
            refill(self._large, result_of(made.job.run))
        elif index is None and given is not None and self.links:
            refill(self._large, view_of([given]))
        self.show_words()

    def _ready(self) -> None:
        """Say of each stage whether it can be changed."""
        for place in range(len(STAGES)):
            index = self._index(place)
            takes = {} if index is None else self.links[index].takes
            self.steps.change(place, ready=index is not None and all(file in self.made for file in takes.values()))

    def _close_change(self) -> None:
        self._changed = None
        refill(self._change)

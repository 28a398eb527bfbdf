"""Try the LoRA of a run: one button adds it to the LoRA list, the other generates a clip with it and one without.

tryout = TryOut(person.run, request, name="ann", strength=0.5)
await tryout.run()                # both, if nobody is there to press
tryout.clips                      # without it, and with it
"""

import asyncio
from html import escape
from pathlib import Path

import ipywidgets as widgets

from training.loop.run_folder import USUAL_WEIGHTS, WEIGHTS
from training.ui.clips import side_by_side
from training.ui.publish import NEWEST, Published, find_published, publish
from training.ui.training_panel import TrainingPanel
from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.ui import widget
from wanavatar_lab.ui.elements import AS_WIDE_AS_ITS_WORDS, ROW, alert
from wanavatar_lab.ui.job_card import JobCard, progress_lines
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.player import Player
from wanavatar_lab.ui.record import is_headless

WORDS = read_words(__file__, "tryout")


class TryOut(TrainingPanel):
    """Two buttons, and the LoRA's scale, the cards of both runs and their clips in sync.

    Args:
        run: folder of the training.
        request: what is spoken; both clips have its seed, so that they differ by the LoRA alone.
        name: of the LoRA in the list.
        strength: weight of the LoRA, for high and for low noise; parts trained in full have theirs, 1.
        preview: a picture of the person, for the list.
        checkpoint: as for `training.ui.publish.publish`.

    Attributes:
        published: the LoRA, once it is in the list.
        clips: without it and with it, once both are made.
    """

    def __init__(
        self,
        run: Path,
        request: SpeechToVideo,
        *,
        name: str,
        strength: float = USUAL_WEIGHTS[WEIGHTS],
        preview: Path | None = None,
        checkpoint: str = NEWEST,
    ) -> None:
        self._checkpoint = checkpoint
        self._run, self._request, self._name, self._strength, self._preview = run, request, name, strength, preview
        self.published = find_published(run, name)
        self.clips: list[Path] = []
        self._publish, self._speak = (widgets.Button(layout=AS_WIDE_AS_ITS_WORDS) for _ in range(2))
        self._speak.add_class("wl-run")
        self._said, self._problem = widgets.HTML(), widgets.HTML()
        self._cards, self._shown = widgets.HBox(layout=ROW | {"grid_gap": "14px"}), widgets.VBox()
        buttons = widgets.HBox([self._publish, self._speak], layout={"grid_gap": "8px"})
        parts = [buttons, self._said, self._problem, self._cards, self._shown]
        super().__init__(parts, (WORDS["title"], WORDS["says"]))
        self._publish.on_click(lambda _: widget.start(self._pressed(speak=False)))
        self._speak.on_click(lambda _: widget.start(self._pressed(speak=True)))

    async def publish(self) -> Published:
        """Add the LoRA to the list.

        Raises:
            LabError: see `training.ui.publish.publish`.
        """
        what = self._run, self._name, self._preview, self._strength, self._checkpoint
        self.published = await asyncio.to_thread(publish, *what)
        self.show_words()
        return self.published

    async def run(self) -> list[Path]:
        """Add the LoRA to the list, and generate a clip without it and one with it.

        Cancelling the wait (the stop button of a notebook, a cancelled task) also cancels both runs.

        Returns:
            The clips without it and with it.

        Raises:
            LabError: see `publish`, or a clip was not made.
        """
        self.clips = []
        choices = (await self.publish()).choices(self._strength)
        # both before either is submitted, so that a value that is not allowed starts nothing
        requests = [self._request.changed(loras=[]), self._request.changed(loras=choices)]
        submitted: list[jobs.Job] = []
        try:
            for request in requests:
                submitted.append(await asyncio.to_thread(jobs.submit, request))
            if is_headless():
                await progress_lines(*submitted)
            cards = [JobCard(job.id) for job in submitted]
            _replace(self._cards, cards)
            without, with_it = [_clip(job, await card.watch()) for job, card in zip(submitted, cards, strict=True)]
        except BaseException:
            for job in submitted:
                if not job.status().ended:
                    job.cancel()
            raise
        self.clips = [without, with_it]
        _replace(self._shown, side_by_side([(without, with_it, self._labels())]))
        await self.keep()
        return self.clips

    def summary(self) -> str:
        """Files of the LoRA and of the clips, and the scale at which the LoRA was applied."""
        if self.published is None:
            return "The LoRA is not in the list yet: press a button above, then run this cell again."
        said = [f"{', '.join(self.published.names)}: {self.published.file}"]
        said += [self.published.said(), self.published.scale_in_words(self._strength)]
        if self.clips:
            without, with_it = self.clips
            said += [f"without it: {without}", f"with it: {with_it}"]
        return "\n".join(said)

    async def _pressed(self, speak: bool) -> None:
        self._problem.value = ""
        self._publish.disabled = self._speak.disabled = True
        try:
            await (self.run() if speak else self.publish())
        except (LabError, OSError) as error:
            self._problem.value = alert(str(error))
        finally:
            self._publish.disabled = self._speak.disabled = False

    def _labels(self) -> tuple[str, str]:
        return language.of(WORDS["without"]), language.of(WORDS["with"]).format(name=self._name)

    def show_words(self) -> None:
        """Write the buttons, the labels and the scale in the current language."""
        self._publish.description, self._speak.description = (language.of(WORDS[name]) for name in ("publish", "speak"))
        for player in self._shown.children:
            if isinstance(player, Player):
                player.labels = [*self._labels()]
        if self.published is not None:
            listed = language.of(WORDS["listed"]).format(
                name=self.published.names[0], step=self.published.step, file=self.published.file
            )
            said = listed, self.published.said(), self.published.scale_in_words(self._strength)
            paragraphs = "".join(f"<p>{escape(each)}</p>" for each in said)
            self._said.value = f'<div role="status">{paragraphs}</div>'


def _replace(box: widgets.Box, children: list[widgets.Widget]) -> None:
    for old in box.children:
        old.close()
    box.children = children


def _clip(job: jobs.Job, status: Status | None) -> Path:
    if status is None or status.state != "succeeded":
        why = "it was deleted" if status is None else status.error or f"it was {status.state}"
        raise RunError(f"Run {job.id} made no clip: {why}")
    return job.run.path(main_artifact(status.artifacts, SpeechToVideo.artifact))

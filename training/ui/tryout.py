"""The LoRA of a run tried out: one click puts it into the list, another speaks a recording with it and without.

tryout = TryOut(person.run, request, name="ann", strength=0.5)
await tryout.run()                # where nobody is there to press
tryout.clips                      # without it, and with it
"""

import asyncio
from html import escape
from pathlib import Path

import ipywidgets as widgets

from training.ui.clips import side_by_side
from training.ui.head import Head
from training.ui.offer import Offered, offer, offered_before
from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.ui import tasks
from wanavatar_lab.ui.elements import AS_WIDE_AS_ITS_WORDS, ROW, alert
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.player import Player
from wanavatar_lab.ui.widget import Look

WORDS = read_words(__file__, "tryout")


class TryOut(widgets.VBox):
    """Two buttons, and what comes of them.

    Args:
        run: of the training.
        request: what is spoken; its seed is that of both clips, so that they differ by the LoRA alone.
        name: of the LoRA in the list.
        strength: weight of the LoRA, for high and for low noise.
        preview: a picture of the person, for the list.

    Attributes:
        offered: the LoRA once it is in the list.
        clips: without it and with it, once both are made.
    """

    def __init__(
        self, run: Path, request: SpeechToVideo, *, name: str, strength: float = 0.5, preview: Path | None = None
    ) -> None:
        self._run, self._request, self._name, self._strength, self._preview = run, request, name, strength, preview
        self.offered = offered_before(run, name)
        self.clips: list[Path] = []
        self._offer, self._speak = (widgets.Button(layout=AS_WIDE_AS_ITS_WORDS) for _ in range(2))
        self._speak.add_class("wl-run")
        self._said, self._problem = widgets.HTML(), widgets.HTML()
        self._cards, self._shown = widgets.HBox(layout=ROW | {"grid_gap": "14px"}), widgets.VBox()
        buttons = widgets.HBox([self._offer, self._speak], layout={"grid_gap": "8px"})
        parts = [buttons, self._said, self._problem, self._cards, self._shown]
        super().__init__([Look(), Head(WORDS["title"], WORDS["says"]), *parts], _dom_classes=["wl-panel"])
        self._offer.on_click(lambda _: tasks.start(self._pressed(speak=False)))
        self._speak.on_click(lambda _: tasks.start(self._pressed(speak=True)))
        self._unfollow = language.follow(self._say)

    def offer(self) -> Offered:
        """Put the LoRA into the list.

        Raises:
            LabError: as `training.ui.offer.offer`.
        """
        self.offered = self._offered()
        self._say()
        return self.offered

    async def run(self) -> list[Path]:
        """Put it into the list, and speak without it and with it.

        Whoever stops waiting (the stop button of a notebook, a cancelled task) also cancels what is under way.

        Returns:
            The clips without it and with it.

        Raises:
            LabError: as `offer`, or a clip was not made.
        """
        offered = await asyncio.to_thread(self._offered)
        self.offered, self.clips = offered, []
        self._say()
        choices = [
            {"name": name, "high_weight": self._strength, "low_weight": self._strength} for name in offered.names
        ]
        # before either is submitted, so that a value that is not allowed makes nothing
        requests = [self._request.changed(loras=[]), self._request.changed(loras=choices)]
        submitted: list[jobs.Job] = []
        try:
            for request in requests:
                submitted.append(await asyncio.to_thread(jobs.submit, request))
            cards = [JobCard(job.id) for job in submitted]
            self._show(self._cards, cards)
            without, with_it = [_clip(job, await card.watch()) for job, card in zip(submitted, cards, strict=True)]
            self.clips = [without, with_it]
        except BaseException:
            for job in submitted:
                if not job.status().ended:
                    job.cancel()
            raise
        self._show(self._shown, side_by_side([(without, with_it, self._labels())]))
        return self.clips

    def summary(self) -> str:
        """Where the LoRA and the clips are, and at which scale it was applied."""
        if self.offered is None:
            return "Nothing is in the list yet: press a button above, then run this cell again."
        said = [f"{', '.join(self.offered.names)}: {self.offered.file}", self.offered.told(self._strength)]
        if self.clips:
            without, with_it = self.clips
            said += [f"without it: {without}", f"with it: {with_it}"]
        return "\n".join(said)

    def close(self) -> None:
        """Take it away; what it made stays."""
        self.__dict__.pop("_unfollow", lambda: None)()
        super().close()

    def _offered(self) -> Offered:
        return offer(self._run, self._name, self._preview, strength=self._strength)

    async def _pressed(self, speak: bool) -> None:
        self._problem.value = ""
        self._offer.disabled = self._speak.disabled = True
        try:
            if speak:
                await self.run()
            else:
                self.offered = await asyncio.to_thread(self._offered)
                self._say()
        except (LabError, OSError) as error:
            self._problem.value = alert(str(error))
        finally:
            self._offer.disabled = self._speak.disabled = False

    def _labels(self) -> tuple[str, str]:
        with_it = language.of(WORDS["with"]).format(name=self._name)
        return language.of(WORDS["without"]), with_it

    def _show(self, place: widgets.Box, children: list[widgets.Widget]) -> None:
        for old in place.children:
            old.close()
        place.children = children

    def _say(self) -> None:
        self._offer.description, self._speak.description = (language.of(WORDS[name]) for name in ("offer", "speak"))
        for player in self._shown.children:
            if isinstance(player, Player):
                player.labels = [*self._labels()]
        if self.offered is not None:
            listed = language.of(WORDS["listed"]).format(
                name=self.offered.names[0], step=self.offered.step, file=self.offered.file
            )
            scale = self.offered.told(self._strength)
            self._said.value = f'<div role="status"><p>{escape(listed)}</p><p>{escape(scale)}</p></div>'


def _clip(job: jobs.Job, status: Status | None) -> Path:
    if status is None or status.state != "succeeded":
        why = "was deleted" if status is None else status.error or f"was {status.state}"
        raise RunError(f"The run {job.id} made no clip: {why}")
    return job.run.path(main_artifact(status.artifacts, SpeechToVideo.artifact))

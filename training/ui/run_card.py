"""State, progress, time and log of a training, in the view that every run of the workbench has."""

from collections.abc import Callable
from typing import ClassVar

from training.launch import Ending
from wanavatar_lab.requests import Words
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language

WORDS: dict[str, Words] = {
    "title": {"en": "Training", "ko": "학습", "zh": "训练"},
    "succeeded": {"en": "Finished", "ko": "완료", "zh": "已完成"},
    "cancelled": {"en": "Stopped", "ko": "중지됨", "zh": "已停止"},
    "cancel": {"en": "Stop", "ko": "중지", "zh": "停止"},
    "cancelling": {"en": "Saving the last step…", "ko": "마지막 스텝 저장 중…", "zh": "正在保存最后一步…"},
}
STATES = {"absent": "", "running": "running", "finished": "succeeded", "stopped": "cancelled", "failed": "failed"}


class RunCard(JobCard):
    """The card of one training.

    Args:
        place: what is said of where it is.
        on_stop: is called when somebody presses Stop, once until `show` has said that the run has ended.
    """

    WORDS: ClassVar[dict[str, Words]] = JobCard.WORDS | WORDS

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
            self.title = language.of(WORDS["title"])

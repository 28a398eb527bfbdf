"""What a run came to, read from its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets

from training.config.config import TrainingConfig
from training.launch.launch import Ending, state
from training.loop.run_folder import WEIGHTS, checkpoints, read_metrics
from training.loop.validate import Validation
from training.ui.clips import label_of, sampled, side_by_side
from training.ui.curves import Line, of_kind
from wanavatar_lab.errors import LabError

CONFIG = "config.json"
_PARTS = ("lip", "face", "background")


@dataclass(frozen=True)
class Results:
    """A run that has been trained.

    Attributes:
        run: its folder.
        config: what it was told.
        ending: how it stands.
        lines: of its log.
        lora: the newest checkpoint's LoRA; None before the first.
    """

    run: Path
    config: TrainingConfig
    ending: Ending
    lines: Sequence[Line]
    lora: Path | None

    @property
    def step(self) -> int:
        """The last step that is noted."""
        return max((int(line["step"]) for line in self.lines), default=0)

    @property
    def changes(self) -> dict[str, float]:
        """By how much of the base's the errors of held-out clips differ at the end; -0.2 is 20 % less.

        Empty where nothing is held out, or nothing was validated yet.
        """
        base, last = (of_kind(self.lines, kind)[-1:] for kind in ("base", "validation"))
        if not base or not last:
            return {}
        before, after = (Validation(dict(line[0])) for line in (base, last))
        return {part: after.change(before, part) for part in _PARTS if part in after.errors and part in before.errors}

    def summary(self) -> str:
        """What it came to, in some lines."""
        seconds = [line["seconds"] for line in of_kind(self.lines, "train") if "seconds" in line]
        pace = f", {sum(seconds) / len(seconds):.1f} s per step" if seconds else ""
        # a run that was started by hand is not known to training.launch.launch
        how = "trained" if self.ending.state == "absent" else self.ending.state
        why = f" ({self.ending.why})" if self.ending.why else ""
        config = self.config
        said = [f"{how}: {self.step} steps{pace}{why}"]
        said.append(f"rank {config.rank}, alpha {config.alpha:g}, learning rate {config.learning_rate:g}")
        said += [f"held-out {part} error {change:+.1%} against the base" for part, change in self.changes.items()]
        if not self.changes:
            said.append("Nothing was held out, or nothing was validated, so there are no errors to compare.")
        said.append(f"LoRA: {self.lora}" if self.lora else "There is no checkpoint yet.")
        return "\n".join(said)

    def before_and_after(self) -> widgets.Widget:
        """Held-out sounds as the base speaks them beside what the run made of them last, and that beside the truth."""
        pairs = []
        for each in sampled(self.run):
            first, last, true = ((clip, label_of(clip)) for clip in (each.first, each.last, each.true))
            pairs += [(one[0], other[0], (one[1], other[1])) for one, other in ((first, last), (last, true))]
        if not pairs:
            return widgets.HTML("<p>The run made no sample clips: train with sample_every above 0.</p>")
        return widgets.VBox(side_by_side(pairs))


def read_results(run: Path) -> Results:
    """Read a run.

    Raises:
        LabError: nothing was trained there, or what it was told cannot be read.
    """
    lines, config = read_metrics(run), run / CONFIG
    if not lines or not config.is_file():
        raise LabError(f"Nothing is noted of a training in {run}. Train with notebook 11, and wait for its first step.")
    try:
        told = TrainingConfig.model_validate_json(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{config} cannot be read: {error}. It is of another version, or was changed.") from error
    last = checkpoints(run)[-1:]
    return Results(run, told, state(run), lines, last[0] / WEIGHTS if last else None)

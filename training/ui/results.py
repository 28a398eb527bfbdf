"""The results of a training run, read from its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets

from training.config import TrainingConfig
from training.launch.launch import Ending, state
from training.loop.run_folder import CONFIG, WEIGHTS, best_of, checkpoints, read_metrics
from training.ui.clips import labels_of, sampled, side_by_side
from training.ui.curves import Line, changes, of_kind
from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.download import Download
from wanavatar_lab.ui.widget import Column


@dataclass(frozen=True)
class Results:
    """A run that has trained at least one step.

    Attributes:
        run: its folder.
        config: its settings.
        ending: its state.
        lines: of its log.
        lora: the newest checkpoint's LoRA; None before the first checkpoint.
    """

    run: Path
    config: TrainingConfig
    ending: Ending
    lines: Sequence[Line]
    lora: Path | None

    @property
    def step(self) -> int:
        """The last logged step."""
        return max((int(line["step"]) for line in self.lines), default=0)

    @property
    def changes(self) -> dict[str, float]:
        """Relative change of the held-out errors against the base model, by part of the picture; -0.2 is 20 % less.

        Empty if nothing is held out, or nothing was validated yet.
        """
        base, last = (of_kind(self.lines, kind)[-1:] for kind in ("base", "validation"))
        return changes(last[0], base[0]) if base and last else {}

    def summary(self) -> str:
        """Steps, settings, errors and the LoRA, a line each."""
        seconds = [line["seconds"] for line in of_kind(self.lines, "train") if "seconds" in line]
        pace = f", {sum(seconds) / len(seconds):.1f} s per step" if seconds else ""
        # a run that was started without training.launch has no state
        how = "trained" if self.ending.state == "not started" else self.ending.state
        why = f" ({self.ending.why})" if self.ending.why else ""
        config = self.config
        said = [f"{how}: {self.step} steps{pace}{why}"]
        said.append(f"rank {config.rank}, alpha {config.alpha:g}, learning rate {config.learning_rate:g}")
        said += [f"held-out {part} error {change:+.1%} against the base" for part, change in self.changes.items()]
        samples = [line["lip_r"] for line in of_kind(self.lines, "samples") if "lip_r" in line]
        if samples:
            said.append(f"r of lips and sound in sample clips: {samples[0]:.2f} at first, {samples[-1]:.2f} at last")
        if not self.changes:
            said.append("No errors to compare: nothing is held out, or nothing was validated.")
        said.append(f"LoRA: {self.lora}" if self.lora else "There is no checkpoint yet.")
        best = best_of(self.run)
        if best and self.lora and best[0] != self.lora.parent:
            said.append(f"best by {best[1]}: {best[0] / WEIGHTS}")
        return "\n".join(said)

    def download(self) -> Download:
        """A button that downloads the LoRA of the newest checkpoint; hidden before the first one."""
        return Download(self.lora, f"{self.run.parent.name}-{self.run.name}-{self.step}.safetensors")

    def before_and_after(self) -> widgets.Widget:
        """Per held-out sample, the base model's clip beside the latest, and the latest beside the original."""
        pairs = [pair for each in sampled(self.run) for pair in ((each.first, each.last), (each.last, each.true))]
        if not pairs:
            return Column(
                [widgets.HTML("<p>The run has no sample clips: train with sample_every_n_steps above 0.</p>")]
            )
        return Column(side_by_side([(*pair, labels_of(pair)) for pair in pairs]))


def read_results(run: Path) -> Results:
    """Read a run.

    Raises:
        LabError: nothing was trained in that folder, or its settings cannot be read.
    """
    lines, config = read_metrics(run), run / CONFIG
    if not lines or not config.is_file():
        raise LabError(f"There is no log of a training in {run}. Train with notebook 11, and wait for its first step.")
    try:
        settings = TrainingConfig.model_validate_json(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{config} cannot be read: {error}. Another version wrote it, or it was edited.") from error
    last = checkpoints(run)[-1:]
    return Results(run, settings, state(run), lines, last[0] / WEIGHTS if last else None)

"""What a training does, in the open: its settings, what of the network is trained, and the loss with its numbers."""

import tempfile
from html import escape
from pathlib import Path
from typing import Any

from IPython.display import HTML, Markdown

from training.config import TrainingConfig
from training.config.training_config import BRANCHES, MOTION_SHARE, SHARES
from training.ui.run_module import run_module
from wanavatar_lab.requests.display import ACCENT, table_html

# of which the loss is made, in the order in which it is computed
LOSS = """\
sigma = {shift:g} * u / (1 + {less:g} * u)  # u is uniform in 0 to 1; flow_shift is {shift:g}
noisy = (1 - sigma) * clean + sigma * noise
difference = network(noisy, sigma) - (noise - clean)  # latents [channels, frames, height, width]
error = difference.square().mean(0)  # of each place
change = difference.diff(dim=1).square().mean(0)  # how it differs from latent to latent: motion

# a sample takes one branch: {drawn}
weight = {{"full": 1 + face + lips, "face": face, "lip": lips}}[branch]
{weighted}"""
NORMALISED = """\
if branch != "full":  # loss_floor is {floor:g}: so much of the weight is even, and keeps the rest of the picture
    weight = {rest:g} * weight / weight.mean() + {floor:g}
between = (weight[1:] + weight[:-1]) / 2
loss = {main:g} * (weight * error).sum() / weight.sum() + {motion:g} * (between * change).sum() / between.sum()
"""
# in an exported page, where code in an output would have the font of its text
_MONOSPACE = "<style>.jp-RenderedMarkdown pre { font-family: var(--jp-code-font-family, monospace) }</style>"
PAPER = """\
loss = {main:g} * (weight * error).mean() + {motion:g} * change.mean()
"""


def settings_table(config: TrainingConfig) -> HTML:
    """The settings that a run differs in from the defaults, and what they mean."""
    rows = []
    for name, field in TrainingConfig.model_fields.items():
        value = getattr(config, name)
        if field.is_required() or value == field.default:
            continue
        says = " ".join((field.description or "").split())
        cells = (f"<b>{escape(name)}</b>", f"<b>{escape(_said(value))}</b>", escape(_said(field.default)), escape(says))
        rows.append((f'<tr style="border-left: 3px solid {ACCENT}">', cells))
    caption = f"<b>TrainingConfig</b> of {escape(str(config.run))}: what differs from the defaults"
    return HTML(table_html(["field", "value", "default", "meaning"], rows, caption=caption))


async def trained_parts(config: TrainingConfig) -> Markdown:
    """The layers that get a LoRA, the parts that are trained in full, and how many parameters that is.

    Raises:
        LabError: see `training.model.parameter_table`, which computes it in a process of its own.
    """
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(config.model_dump_json(), encoding="utf-8")
        await run_module("training.model.parameter_table", ["--config", file], lines.append)
    return Markdown("\n".join(lines))


def loss_code(config: TrainingConfig) -> str:
    """The loss of a sample as Python, with the numbers of a run; `training/loop/loss.py` computes the same."""
    drawn = ", ".join(f"{name} in {share:.0%}" for name, share in zip(BRANCHES, SHARES, strict=True))
    numbers = {"main": 1 - MOTION_SHARE, "motion": MOTION_SHARE}
    weighted = PAPER if config.loss == "paper" else NORMALISED
    return LOSS.format(
        shift=config.flow_shift,
        less=config.flow_shift - 1,
        drawn=drawn,
        weighted=weighted.format(floor=config.loss_floor, rest=1 - config.loss_floor, **numbers),
    )


def loss_of(config: TrainingConfig) -> Markdown:
    """The same, for the end of a cell."""
    return Markdown(f"{_MONOSPACE}\n\n```python\n{loss_code(config)}```")


def _said(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)

"""The figures of speed beside their targets: `targets.toml` says which they are, and results of benches how much."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from wanavatar_lab.bench.table import Figures, lines_of, rows_of

TARGETS: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["target"]
PROGRAM = "wanavatar-lab bench"


def targets_table(measured: Iterable[Figures], targets: Sequence[Mapping[str, Any]] = tuple(TARGETS)) -> str:
    """A table of all targets in Markdown, with what was measured of each.

    Args:
        measured: results of the benches.
        targets: as in `targets.toml`.
    """
    measured, lines = list(measured), []
    for target in targets:
        unit, value = target.get("unit", "s"), figure_of(target, measured)
        if value is None:
            said, verdict = "not measured", "–"
        else:
            said, over = _number(value, unit), value / target["most"] - 1
            verdict = "met" if over <= 0 else f"missed by {over:.1%}"
        command = f"`{PROGRAM} {target['command']}`"
        lines.append([target["figure"], f"≤ {_number(target['most'], unit)}", said, verdict, command])
    return lines_of(["figure", "target", "measured", "", "command"], lines)


def figure_of(target: Mapping[str, Any], measured: Sequence[Figures]) -> float | None:
    """What was measured of a target; of several results the last one's; None if a row of it is in none of them."""
    where = {key: value if isinstance(value, list) else [value] for key, value in target["where"].items()}
    total = 0.0
    for values in product(*where.values()):
        wanted = dict(zip(where, values, strict=True))
        found = [
            row[target.get("value", "seconds")]
            for figures in sorted(measured, key=lambda figures: str(figures.get("date", "")))
            if figures.get("bench") == target["bench"] and target.get("device", "") in str(figures.get("device", ""))
            for row in rows_of(figures)
            if "error" not in row and wanted.items() <= {"fields": {}, **row}.items()
        ]
        if not found:
            return None
        total += found[-1]
    return total


def _number(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".replace(" ×", "×")

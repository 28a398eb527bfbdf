"""Figures of the benches as tables in Markdown, and as a line of text."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.memory.activations import FACTORS

Figures = Mapping[str, Any]

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
FIGURES, TARGETS = "figures", "targets"  # what the marks of a Markdown file are called


def tables(measured: Iterable[Figures]) -> str:
    """Tables of all figures, grouped by bench.

    Args:
        measured: results of `measure_stages`, `measure_offload`, `measure_files`, `measure_speed`,
            `network.measure_kernels`, `measure_ranks`, `measure_rounding`, `measure_cluster`, `measure_parts`,
            `measure_cpu` and `network.measure`.
    """
    by_kind: dict[str, list[Figures]] = {kind: [] for kind in _COLUMNS}
    for figures in measured:
        by_kind[_kind(figures)].append(figures)
    # a table for each run of these two, since the GPU and its memory differ
    parts = [_head(figures) + _table("stages", rows_of(figures)) for figures in by_kind["stages"]]
    if by_kind["stages"]:
        parts.append(_table("factors", _largest_factors(by_kind["stages"])))
    parts += [_head(figures) + _table("offload", rows_of(figures)) for figures in by_kind["offload"]]
    for figures in by_kind["parts"]:
        parts += [_ceilings(figures) + _table("parts", rows_of(figures)), _largest_kernels(figures)]
    for kind in ("speed", "kernels", "ranks", "rounding", "cluster", "files", "cpu", "network"):
        if rows := [row for figures in by_kind[kind] for row in rows_of(figures)]:
            parts.append(_table(kind, rows))
        if kind == "ranks" and (profiled := [row for row in rows if "kernels" in row]):
            parts.append(_table("kernels of ranks", profiled))
    return "\n\n".join(filter(None, parts))


def comparison(before: Figures, after: Figures) -> str:
    """Two results of one bench as a table of the figures of both, and by how much each has changed.

    Raises:
        LabError: they are of different benches, or have no case in common.
    """
    kind = _kind(before)
    if _kind(after) != kind:
        raise LabError(f"These are figures of two benches, {kind} and {_kind(after)}. Name two files of one bench.")
    old, new = _by_case(before), _by_case(after)
    rows = []
    for case in [case for case in old if case in new]:
        for name, first in old[case].items():
            second = new[case].get(name, "–")
            one, other = NUMBER.match(first), NUMBER.match(second)
            changed = f"{float(other[0]) / float(one[0]) - 1:+.1%}" if one and other and float(one[0]) else "–"
            rows.append([", ".join(case), name, first, second, changed])
    if not rows:
        raise LabError("The two files have no case in common.")
    table = lines_of(["case", "figure", "before", "after", "change"], rows)
    alone = [(where, set(these) - set(those)) for where, these, those in (("before", old, new), ("after", new, old))]
    alone_lines = [f"Only {where}: {'; '.join(sorted(map(', '.join, cases)))}." for where, cases in alone if cases]
    return "\n\n".join([table, *alone_lines])


def _by_case(figures: Figures) -> dict[tuple[str, ...], dict[str, str]]:
    """By the cells that say what was measured: the figures, as they are printed. Failed cases are left out."""
    kind, found = _kind(figures), dict[tuple[str, ...], dict[str, str]]()
    named = _NAMED[kind]
    for row in rows_of(figures):
        if "error" not in row:
            cells = dict(zip(_COLUMNS[kind], _cells(kind, row), strict=True))
            case = tuple(cells.pop(name) for name in list(cells)[:named])
            found.setdefault(case, {name: cell for name, cell in cells.items() if NUMBER.match(cell)})
    return found


def _kind(figures: Figures) -> str:
    return str(figures.get("bench", "network"))


def rows_of(figures: Figures) -> list[Figures]:
    """The rows of the table of a result."""
    kind = _kind(figures)
    if kind == "stages":
        return list(figures["cases"])
    if kind == "offload":
        return _offload_rows(figures["rows"])
    return [{**figures, **row} for row in figures["rows"]] if "rows" in figures else [figures]


def last_lines(figures: Figures) -> str:
    """The last case of `measure_stages`, or the last row of another bench, in a line for each of its cases."""
    kind, lines = figures["bench"], []
    last = figures["cases"][-1:] if kind == "stages" else figures["rows"][-1:]
    for row in _offload_rows(last) if kind == "offload" else last:
        if "error" in row:
            lines.append(f"{', '.join(_cells(kind, row)[: _OF_FAILED[kind]])}: {row['error']}")
        else:
            named = zip(_COLUMNS[kind], _cells(kind, row), strict=True)
            lines.append(", ".join(f"{name} {cell}" for name, cell in named if cell != "–"))
    return "\n".join(lines)


def between_marks(text: str, made: str, file: Path, name: str = FIGURES) -> str:
    """A Markdown text with what is between its marks replaced.

    Args:
        text: of the file.
        made: to stand there.
        file: for the error.
        name: of the marks.

    Raises:
        LabError: the text has no such marks.
    """
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise LabError(f"{file} has no lines {first.strip()} and {last}. Add them where the tables belong.")
    return f"{before}{begin}\n{made}\n\n{end}{after}"


def _head(figures: Figures) -> str:
    """The line above a table: which GPU, and how it was used."""
    limit = "all" if figures.get("memory_limit_bytes") is None else _cell("memory_limit_bytes", figures)
    used = "without guidance" if figures["bench"] == "offload" else f"{limit} of its memory"
    link = figures.get("link_bytes_per_second")
    rate = f"; pinned memory comes at {link / 1e9:.0f} GB/s" if link else ""
    return f"{figures['device']}, {used}{rate}:\n\n"


def _ceilings(figures: Figures) -> str:
    """The line above a table of parts: what the device can do."""
    found, rates = figures["ceilings"], []
    for name in ("matrix", "convolution"):
        for dtype, rate in found[name].items():
            rates.append(f"{name} {_rate(rate)} in {dtype}")
    rates += [
        f"attention {_rate(each['rate'])} by {each['backend']} ({shape})" for shape, each in found["attention"].items()
    ]
    where = (
        figures["device"]
        if figures["device"] != "cpu"
        else f"CPU, {figures['cores']} cores, {figures['cpu_capability']}"
    )
    copied = f"; it copies at {found['copy'] / 1e9:.4g} GB/s" if "copy" in found else ""
    return f"{where}, which reaches: {', '.join(rates)}{copied}.\n\n"


def _rate(rate: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s"


def _largest_kernels(figures: Figures) -> str:
    """The kernels that passes of the networks spend most time in."""
    rows = [row for row in figures["rows"] if row["part"] == "transformer" and row.get("largest_kernels")]
    lines = [
        [
            _part(row),
            _size(row),
            str(row["by"]),
            f"`{name.replace('|', '/')}`",
            _ms(seconds),
            f"{seconds / row['seconds']:.0%}",
        ]
        for row in rows
        for name, seconds in row["largest_kernels"].items()
    ]
    return lines_of(["kernels of a pass", "size", "by", "kernel", "time", "share"], lines) if lines else ""


def _part(row: Figures) -> str:
    return f"{_stage(row)}, {row['part']}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{1e3 * seconds:.0f} ms"


def _kind_of_kernel(kind: str) -> Callable[[Figures], str]:
    return lambda row: _ms(row["kernels"][kind]) if row.get("kernels", {}).get(kind) else "–"


def _offload_rows(rows: Iterable[Figures]) -> list[Figures]:
    """A row for each case of each way. The first loads the weights, which the others find loaded."""
    return [
        {**row, **case, "load_seconds": None if number else row.get("load_seconds")}
        for row in rows
        for number, case in enumerate(row.get("cases", [{}]))
    ]


def _largest_factors(measured: Sequence[Figures]) -> list[Figures]:
    """The largest of each of `memory.activations.FACTORS` that was measured, and the case that it was measured in."""
    found: dict[str, Figures] = {}
    for case in (case for figures in measured for case in figures["cases"]):
        for unit in case.get("units", {}).values():
            if unit["unit"] not in found or unit["measured"] > found[unit["unit"]]["measured"]:
                found[unit["unit"]] = {**case, **unit}
    return list(found.values())


def _stage(row: Figures) -> str:
    """The stage, with what a case sets of its request."""
    settings = [f"{name} {value}" for name, value in row.get("fields", {}).items()]
    return ", ".join([str(row["stage"]).replace("_", " "), *settings])


def _size(row: Figures) -> str:
    return f"{row['width']}×{row['height']}" + (f"×{row['frames']}" if row["frames"] > 1 else "")


def _way(row: Figures) -> str:
    """The way, with the mode where it is another one: `auto` chooses a mode, and `fp8` may offload as well."""
    return str(row["way"]) if row.get("mode", row["way"]) == row["way"] else f"{row['way']}: {row['mode']}"


# The columns of each table. Each has the name of a figure, whose name has the unit, or a function of the row.
_COLUMNS: dict[str, dict[str, str | Callable[[Figures], str]]] = {
    "stages": {
        "stage": _stage,
        "size": _size,
        "mode": lambda case: str(case.get("mode", "none")),
        "load": lambda case: "cached" if case["was_warm"] else _cell("load_seconds", case),
        "to the GPU": "place_seconds",
        "a step": "seconds_per_step",
        "decode": lambda case: _cell("seconds", case["networks"].get("vae.decode", {})),
        "run": "run_seconds",
        "peak": "peak_bytes",
        "planned peak": "planned_peak_bytes",
    },
    "factors": {
        "activations beside the weights": "unit",
        "set": lambda unit: f"{FACTORS[unit['unit']]:g}",
        "measured": lambda unit: f"{unit['measured']:.4g}",
        "by": lambda unit: f"{_stage(unit)} {_size(unit)}",
    },
    "offload": {
        "stage": _stage,
        "limit": "memory_limit_bytes",
        "way": _way,
        "size": _size,
        "load": "load_seconds",
        "placing": "place_seconds",
        "a step": "seconds_per_step",
        "run": "run_seconds",
        "denoising": "denoise_peak_bytes",
        "peak": "peak_bytes",
        "main memory": "host_bytes",
    },
    "files": {
        "stage": _stage,
        "files": "bytes",
        "load": "load_seconds",
        "read at": lambda each: f"{each['bytes'] / each['load_seconds'] / 1e9:.2f} GB/s",
        "to the GPU": "place_seconds",
    },
    "speed": {
        "stage": lambda row: f"{_stage(row)}, {row['profile']}",
        "steps": "steps",
        "way": "mode",
        "computed passes": lambda row: f"{row['computed']} of {row['passes']}",
        "times fewer": lambda row: f"{row['passes'] / row['computed']:.2f}",
        "PSNR to exact": lambda row: "–" if row["psnr"] is None else f"{row['psnr']:.1f} dB",
        "lip r": "lip_r",
    },
    "kernels": {
        "S2V network": lambda row: f"{row['device']}, {row['pixels']}",
        "attention": "attention",
        "compiled": lambda row: "failed" if "error" in row else "yes" if row["compiled"] else "no",
        "quantization": lambda row: str(row.get("quantization", "none")),
        "first pass": lambda row: f"{row['first_forward_s']:.1f} s",
        "a pass": lambda row: f"{row['forward_s']:.2f} s",
        "difference": lambda row: f"{row['difference']:.1%}",
        "peak": lambda row: f"{row['peak_memory_gb']:.1f} GB" if "peak_memory_gb" in row else "–",
    },
    "ranks": {
        "S2V network": lambda row: f"{row['device']}, {row['pixels']}",
        "GPUs": lambda row: f"{row['gpus']}" + ("" if row["gpus"] == 1 else f", {row['shared']}"),
        "compiled": lambda row: "yes" if row["compiled"] else "no",
        "a step": lambda row: f"{row['step_s']:.3f} s",
        "times faster": lambda row: f"{row['times']:.2f}",
        "computed": lambda row: "–" if row["computed_times"] is None else f"{row['computed_times']:.2f}",
        "decoding": lambda row: f"{row['decode_s']:.2f} s" if "decode_s" in row else "–",
        "difference": lambda row: f"{row['difference']:.1e}",
        "of a pass": lambda row: f"{row['pass_difference']:.1e}" if "pass_difference" in row else "–",
        "peak": lambda row: f"{row['peak_memory_gb']:.1f} GB" if "peak_memory_gb" in row else "–",
        "clock": lambda row: f"{row['clock_mhz']:.0f} MHz" if "clock_mhz" in row else "–",
        "power, at its limit": lambda row: (
            f"{row['power_w']:.0f} W, {row['power_capped']:.0%}" if "power_w" in row else "–"
        ),
    },
    "rounding": {
        "S2V network, a sequence shared on one GPU": lambda row: f"{row['device']}, {row['pixels']}",
        "processes": "processes",
        "attention": "attention",
        "compiled": lambda row: "yes" if row["compiled"] else "no",
        "difference of a pass from one process": lambda row: f"{row['pass_difference']:.1e}",
        "of a step": lambda row: f"{row['difference']:.1e}",
        "error of a pass, to float32": lambda row: f"{row['pass_error']:.1e}" if "pass_error" in row else "–",
        "of a step, to float32": lambda row: f"{row['error']:.1e}" if "error" in row else "–",
    },
    "kernels of ranks": {
        "kernels of a step of the first GPU": lambda row: f"{row['device']}, {row['pixels']}",
        "GPUs": lambda row: f"{row['gpus']}" + ("" if row["gpus"] == 1 else f", {row['shared']}"),
        "attention": _kind_of_kernel("attention"),
        "products": _kind_of_kernel("products"),
        "everything else": _kind_of_kernel("everything else"),
        "exchange, with waiting": _kind_of_kernel("exchange"),
    },
    "parts": {
        "part": _part,
        "size": _size,
        "by": "by",
        "time": lambda row: _ms(row["seconds"]),
        "floor": lambda row: _ms(row["floor_seconds"]),
        "reached": lambda row: f"{row['of_floor']:.0%}",
        "attention": _kind_of_kernel("attention"),
        "products": _kind_of_kernel("products"),
        "convolutions": _kind_of_kernel("convolutions"),
        "everything else": _kind_of_kernel("everything else"),
        "between kernels": _kind_of_kernel("between"),
        "peak": "peak_bytes",
    },
    "cpu": {
        "on a CPU": "figure",
        "cores": "cores",
        "load": lambda row: f"{row['load']:.1f}",
        "runs": lambda row: str(len(row["times"])),
        "least": lambda row: f"{row['seconds']:.2f} s",
    },
    "cluster": {
        "pictures of pocket": "requests",
        "by": "name",
        "in": lambda row: f"{row['seconds']:.0f} s",
        "until all models are loaded": lambda row: f"{row['warm_after']:.0f} s",
        "pictures an hour from then on": "runs_an_hour_warm",
    },
    "network": {
        "S2V network": "pixels",
        "compiled": lambda each: "yes" if each["compiled"] else "no",
        "a pass": lambda each: f"{each['forward_s']:.2f} s",
        "of the matrix rate": lambda each: f"{each['share_of_matrix_rate']:.0%}",
        "peak": lambda each: f"{each['peak_memory_gb']:.1f} GB" if "peak_memory_gb" in each else "–",
        "a LoRA adds": lambda each: (
            f"rank {each['adapter_rank']}: {each['adapter_adds']:+.1%}" if "adapter_rank" in each else "–"
        ),
    },
}
# how many columns say what was measured
_NAMED = {"stages": 2, "offload": 4, "files": 1, "speed": 3, "kernels": 4, "ranks": 3, "parts": 3, "cluster": 2}
_NAMED |= {"cpu": 1, "network": 2, "rounding": 4}
# the columns that a failed case has: those that say what was to be measured; the error comes after them
_OF_FAILED = {"stages": 2, "offload": 3, "parts": 3}


def _cell(column: str | Callable[[Figures], str], row: Figures) -> str:
    if not isinstance(column, str):
        return column(row)
    value = row.get(column)
    if value is None:
        return "–"
    if "seconds" in column:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 1e9:.1f} GB" if "bytes" in column else str(value)


def _cells(kind: str, row: Figures) -> list[str]:
    columns = list(_COLUMNS[kind].values())
    if "error" not in row or kind not in _OF_FAILED:
        return [_cell(column, row) for column in columns]
    known = [_cell(column, row) for column in columns[: _OF_FAILED[kind]]]
    return [*known, "failed: " + row["error"].partition("\n")[0], *[""] * (len(columns) - len(known) - 1)]


def _table(kind: str, rows: Iterable[Figures]) -> str:
    return lines_of(list(_COLUMNS[kind]), [_cells(kind, row) for row in rows])


def lines_of(names: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown of the names of columns and the cells of rows."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

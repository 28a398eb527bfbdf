"""Figures of the benches as tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.memory.activations import FACTORS

Figures = Mapping[str, Any]

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->"


def tables(measured: Iterable[Figures]) -> str:
    """Tables of all figures, grouped by bench.

    Args:
        measured: results of `measure_stages`, `measure_offload`, `measure_files` and `network.measure`.
    """
    by_kind: dict[str, list[Figures]] = {}
    for figures in measured:
        by_kind.setdefault(figures.get("bench", "network"), []).append(figures)
    parts = [_stages(figures) for figures in by_kind.get("stages", [])]
    if by_kind.get("stages"):
        parts.append(_units(by_kind["stages"]))
    parts += [_offload(figures) for figures in by_kind.get("offload", [])]
    if by_kind.get("files"):
        parts.append(_files(by_kind["files"]))
    if by_kind.get("network"):
        parts.append(_networks(by_kind["network"]))
    return "\n\n".join(parts)


def between_marks(text: str, figures: str, file: Path) -> str:
    """A Markdown text with the figures between its marks replaced.

    Args:
        text: of the file.
        figures: from `tables`.
        file: for the error.

    Raises:
        LabError: the text has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LabError(f"{file} has no lines {BEGIN.strip()} and {END}. Add them where the tables belong.")
    return f"{before}{begin}\n{figures}\n\n{end}{after}"


def _stages(figures: Figures) -> str:
    limit = figures["memory_limit_bytes"]
    head = f"{figures['device']}, {_gb(limit)} of its memory" if limit else f"{figures['device']}, all of its memory"
    if figures.get("link_bytes_per_second"):
        head += f"; pinned memory comes at {figures['link_bytes_per_second'] / 1e9:.0f} GB/s"
    rows = []
    for case in figures["cases"]:
        what = [_stage(case), f"{case['width']}×{case['height']}" + _frames(case)]
        if "error" in case:
            rows.append([*what, "failed: " + case["error"].partition("\n")[0], *("",) * 7])
            continue
        rows.append(
            [
                *what,
                str(case.get("mode", "none")),
                "cached" if case["was_warm"] else _s(case["load_seconds"]),
                _s(case.get("place_seconds")),
                _s(case.get("seconds_per_step")),
                _s(case["networks"].get("vae.decode", {}).get("seconds")),
                _s(case["run_seconds"]),
                _gb(case.get("peak_bytes")),
                _gb(case.get("planned_peak_bytes")),
            ]
        )
    names = ["stage", "size", "mode", "load", "to the GPU", "a step", "decode", "run", "peak", "planned peak"]
    return f"{head}:\n\n{_table(names, rows)}"


def _units(measured: Sequence[Figures]) -> str:
    """The largest of each of `memory.activations.FACTORS` that was measured."""
    found: dict[str, tuple[float, str]] = {}
    for case in (case for figures in measured for case in figures["cases"]):
        for unit in case.get("units", {}).values():
            size = f"{_stage(case)} {case['width']}×{case['height']}{_frames(case)}"
            if unit["unit"] not in found or unit["measured"] > found[unit["unit"]][0]:
                found[unit["unit"]] = (unit["measured"], size)
    rows = [[name, f"{FACTORS[name]:g}", f"{measured:.4g}", size] for name, (measured, size) in found.items()]
    return _table(["activations beside the weights", "set", "measured", "by"], rows)


def _offload(figures: Figures) -> str:
    head = f"{figures['device']}, without guidance"
    if figures.get("link_bytes_per_second"):
        head += f"; pinned memory comes at {figures['link_bytes_per_second'] / 1e9:.0f} GB/s"
    rows = []
    for row in figures["rows"]:
        what = [row["stage"].replace("_", " "), _gb(row["memory_limit_bytes"]), row["way"]]
        if "error" in row:
            rows.append([*what, "failed: " + row["error"].partition("\n")[0], *("",) * 7])
            continue
        for case in row["cases"]:
            rows.append(
                [
                    *what[:2],
                    row["way"] if row["way"] == case["mode"] else f"{row['way']}: {case['mode']}",
                    f"{case['width']}×{case['height']}{_frames(case)}",
                    _s(row["load_seconds"]) if case is row["cases"][0] else "–",
                    _s(case["place_seconds"]),
                    _s(case["seconds_per_step"]),
                    _s(case["run_seconds"]),
                    _gb(case.get("denoise_peak_bytes")),
                    _gb(case.get("peak_bytes")),
                    _gb(row["host_bytes"]),
                ]
            )
    names = ["stage", "limit", "way", "size", "load", "placing", "a step", "run", "denoising", "peak", "main memory"]
    return f"{head}:\n\n{_table(names, rows)}"


def _files(measured: Sequence[Figures]) -> str:
    rows = [
        [
            _stage(each),
            _gb(each["bytes"]),
            _s(each["load_seconds"]),
            f"{each['bytes'] / each['load_seconds'] / 1e9:.2f} GB/s",
            _s(each["place_seconds"]),
        ]
        for each in measured
    ]
    return _table(["stage", "files", "load", "read at", "to the GPU"], rows)


def _networks(measured: Sequence[Figures]) -> str:
    rows = [
        [
            each["pixels"],
            "yes" if each["compiled"] else "no",
            f"{each['forward_s']:.2f} s",
            f"{each['share_of_matrix_rate']:.0%}",
            f"{each['peak_memory_gb']:.1f} GB" if "peak_memory_gb" in each else "–",
            f"rank {each['adapter_rank']}: {each['adapter_adds']:+.1%}" if "adapter_rank" in each else "–",
        ]
        for each in measured
    ]
    names = ["S2V network", "compiled", "a pass", "of the matrix rate", "peak", "a LoRA adds"]
    return _table(names, rows)


def _stage(case: Figures) -> str:
    return str(case["stage"]).replace("_", " ")


def _frames(case: Figures) -> str:
    return f"×{case['frames']}" if case["frames"] > 1 else ""


def _s(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _gb(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e9:.1f} GB"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

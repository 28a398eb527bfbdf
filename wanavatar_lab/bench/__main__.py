"""The command line of the benches: `python -m wanavatar_lab.bench`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wanavatar_lab.bench import network
from wanavatar_lab.bench.cases import CASES, read_cases
from wanavatar_lab.bench.files import measure_files
from wanavatar_lab.bench.offload import WAYS, measure_offload
from wanavatar_lab.bench.stages import measure_stages
from wanavatar_lab.bench.table import between_marks, tables
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory.choose_offload import OFFLOAD_MODES

PROGRAM = "python -m wanavatar_lab.bench"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench that the first argument names, or that of the S2V network."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    benches = {"stages": _stages, "offload": _offload, "files": _files, "table": _table}
    named = benches.get(arguments[0] if arguments else "")
    try:
        return named(arguments[1:]) if named else _network(arguments)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1


def _network(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="The S2V network alone. Other benches: stages, offload, files, table."
    )
    parser.add_argument("--size", choices=network.SIZES, default="14b", help="tiny runs anywhere in seconds")
    usual = zip(network.CLIP, network.TINY_CLIP, strict=True)
    height, width, frames = (f"default {clip}, with --size tiny {tiny}" for clip, tiny in usual)
    parser.add_argument("--height", type=int, help=f"pixels; {height}")
    parser.add_argument("--width", type=int, help=f"pixels; {width}")
    parser.add_argument("--frames", type=int, help=f"frames of the segment, a multiple of 4; {frames}")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--device", help="default cuda if there is a GPU, else cpu")
    parser.add_argument("--attention-backend", help="a backend of diffusers' attention dispatcher")
    parser.add_argument("--compile", action="store_true", help="compile the repeated blocks")
    parser.add_argument("--adapter-rank", type=int, default=0, help="also measure what a LoRA of this rank adds")
    parser.add_argument("--warm-up", type=int, default=2, help="forward passes before those that count; default 2")
    parser.add_argument("--repeats", type=int, default=5, help="forward passes that count; default 5")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(words)
    result = network.measure(arguments)
    print(json.dumps(result) if arguments.json else "\n".join(f"{key:22} {value}" for key, value in result.items()))
    return 0


def _stages(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} stages", description="The stages, one after the other.")
    parser.add_argument(
        "cases",
        nargs="*",
        help="for example text-to-image, or speech-to-video:480x832x80/3 (width x height x frames / steps); default "
        "all; a stage that comes again has its models cached",
    )
    parser.add_argument("--memory-gb", type=float, help="limit the GPU's memory, in 10⁹ bytes")
    parser.add_argument("--offload", choices=("auto", *OFFLOAD_MODES), default="auto")
    _add_common(parser)
    arguments = parser.parse_args(words)

    def on_case(figures: dict[str, Any]) -> None:
        # after every case, so that earlier figures are kept if a later one crashes
        _write(arguments.json, figures)
        print(_line(figures["cases"][-1]), flush=True)

    figures = measure_stages(
        read_cases(arguments.cases, arguments.size),
        arguments.size,
        arguments.device,
        on_case,
        memory_gb=arguments.memory_gb,
        offload=arguments.offload,
    )
    return int(any("error" in case for case in figures["cases"]))


def _offload(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} offload", description="This package's offloading beside diffusers' own."
    )
    parser.add_argument("cases", nargs="*", help="as for stages; both video stages at 480x832 if none is named")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="all if none is named")
    parser.add_argument("--memory-gb", type=float, default=None, help="take no more of the GPU's memory, in 10⁹ bytes")
    _add_common(parser)
    arguments = parser.parse_args(words)
    usual = [case for case in CASES[arguments.size] if case.stage in ("image_to_video", "speech_to_video")]

    def on_row(figures: dict[str, Any]) -> None:
        # after every way, so that what ends a later one leaves the earlier figures
        _write(arguments.json, figures)
        print(_row(figures["rows"][-1]), flush=True)

    figures = measure_offload(
        read_cases(arguments.cases, arguments.size) if arguments.cases else [c for c in usual if c.width <= 480],
        arguments.ways,
        arguments.size,
        arguments.device,
        memory_gb=arguments.memory_gb,
        on_row=on_row,
    )
    return int(any("error" in row for row in figures["rows"]))


def _files(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} files", description="Reading a stage's files from a disk.")
    parser.add_argument("--folder", type=Path, required=True, help="becomes a weights folder; the files stay there")
    stages = ["text-to-image", "image-to-video", "speech-to-video"]
    parser.add_argument("--stage", default="text-to-image", choices=stages)
    _add_common(parser)
    arguments = parser.parse_args(words)
    stage = arguments.stage.replace("-", "_")
    figures = measure_files(stage, arguments.size, arguments.device, arguments.folder)
    _write(arguments.json, figures)
    print("\n".join(f"{key:16} {value}" for key, value in figures.items()))
    return 0


def _table(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} table", description="Figures of --json files as Markdown.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, help="write them between the marks of a Markdown file")
    arguments = parser.parse_args(words)
    try:
        measured = [json.loads(file.read_text(encoding="utf-8")) for file in arguments.files]
    except (OSError, ValueError) as error:
        raise LabError(f"The figures cannot be read: {error}. Name files that --json has written.") from error
    if arguments.into is None:
        print(tables(measured))
    else:
        text = arguments.into.read_text(encoding="utf-8")
        arguments.into.write_text(between_marks(text, tables(measured), arguments.into), encoding="utf-8")
    return 0


def _add_common(parser: argparse.ArgumentParser) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--size", choices=CASES, default="published", help="tiny runs anywhere in seconds")
    parser.add_argument("--device", default=device, help="default cuda if there is a GPU, else cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def _write(file: Path | None, figures: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _line(case: dict[str, Any]) -> str:
    what = f"{case['stage']} {case['width']}x{case['height']}x{case['frames']}"
    if "error" in case:
        return f"{what}: {case['error']}"
    facts = [f"load {case['load_seconds']:.1f} s", f"run {case['run_seconds']:.1f} s"]
    if "seconds_per_step" in case:
        facts.append(f"step {case['seconds_per_step']:.2f} s")
    if "peak_bytes" in case:
        facts.append(f"peak {case['peak_bytes'] / 1e9:.1f} GB")
    return f"{what}: {case.get('mode', '-')}, {', '.join(facts)}"


def _row(row: dict[str, Any]) -> str:
    what = f"{row['stage']}, {row['way']}"
    if "error" in row:
        return f"{what}: {row['error']}"
    facts = [f"load {row['load_seconds']:.1f} s", f"host {row['host_bytes'] / 1e9:.1f} GB"]
    for case in row["cases"]:
        facts.append(
            f"{case['width']}x{case['height']}x{case['frames']} ({case['mode']}): place {case['place_seconds']:.1f} s, "
            f"step {case['seconds_per_step']:.3f} s, run {case['run_seconds']:.1f} s"
        )
        if "peak_bytes" in case:
            facts.append(f"peak {case['denoise_peak_bytes'] / 1e9:.2f} of {case['peak_bytes'] / 1e9:.2f} GB")
    return f"{what}: {', '.join(facts)}"


if __name__ == "__main__":
    sys.exit(main())

"""The command line of the benches: `python -m wanavatar_lab.bench`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from wanavatar_lab.bench import network
from wanavatar_lab.bench.cases import CASES, read_cases
from wanavatar_lab.bench.cluster import measure_cluster
from wanavatar_lab.bench.cpu import measure_cpu
from wanavatar_lab.bench.files import measure_files
from wanavatar_lab.bench.offload import VIDEO_STAGES, WAYS, measure_offload
from wanavatar_lab.bench.parts import PARTS, choose_parts, measure_parts
from wanavatar_lab.bench.random_models import SIZES
from wanavatar_lab.bench.ranks import measure_ranks
from wanavatar_lab.bench.rounding import measure_rounding
from wanavatar_lab.bench.service import measure_service
from wanavatar_lab.bench.speed import MODES, calibrate, draw_speed, measure_speed, sample_request
from wanavatar_lab.bench.stages import measure_stages
from wanavatar_lab.bench.table import TARGETS, between_marks, comparison, last_lines, tables
from wanavatar_lab.bench.targets import targets_table
from wanavatar_lab.bench.watch import say
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import whole_file
from wanavatar_lab.memory.choose_offload import OFFLOAD_MODES
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import suggestion
from wanavatar_lab.wan import attention

PROGRAM = "wanavatar-lab bench"
WRITTEN = "for example text-to-image, or speech-to-video:480x832x80/3 (width x height x frames / steps)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench that the first argument names, or that of the S2V network."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    benches = {"stages": _stages, "offload": _offload, "files": _files, "table": _table, "compare": _compare}
    benches |= {"calibrate": _calibrate, "speed": _speed, "draw-speed": _draw_speed, "kernels": _kernels}
    benches |= {"service": _service, "ranks": _ranks, "cluster": _cluster, "parts": _parts, "cpu": _cpu}
    benches |= {"rounding": _rounding}
    named = benches.get(arguments[0] if arguments else "")
    try:
        if named is None and arguments and not arguments[0].startswith("-"):
            raise LabError(f"{arguments[0]!r} is not a bench; {suggestion(arguments[0], benches)}")
        return named(arguments[1:]) if named else _network(arguments)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1


def _network(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="The S2V network alone. Other benches: parts, stages, offload, files, calibrate, "
        "speed, draw-speed, kernels, ranks, rounding, service, cluster, cpu, table, compare.",
    )
    parser.add_argument("--size", choices=network.SIZES, default="14b", help="tiny runs anywhere in seconds")
    units = {"height": "pixels", "width": "pixels", "frames": "frames of the segment, a multiple of 4"}
    for (name, unit), clip, tiny in zip(units.items(), network.CLIP, network.TINY_CLIP, strict=True):
        parser.add_argument(f"--{name}", type=int, help=f"{unit}; default {clip}, with --size tiny {tiny}")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    _add_device(parser)
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


def _parts(words: list[str]) -> int:
    parser = _parser(
        "parts", "Each part of the stages by itself: time, floor, peak of memory, kinds of kernels.", CASES
    )
    parser.add_argument("cases", nargs="*", help=f"{WRITTEN}; default one of each stage")
    names = sorted({name for parts in PARTS.values() for name in parts})
    parser.add_argument("--parts", nargs="+", choices=names, default=[], help="default all")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="calls of each that count; default 3")
    parser.add_argument("--peers", action="store_true", help="also diffusers' own networks")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="also the S2V network of this clone of github.com/Wan-Video/Wan2.2",
    )
    arguments = parser.parse_args(words)
    chosen, report = choose_parts(arguments.cases, arguments.parts, arguments.size), _reporter(arguments.json)
    figures = measure_parts(
        chosen, arguments.size, arguments.device, report, arguments.peers, arguments.reference, arguments.repeats
    )
    passes = [case for case, names in chosen if case.stage == "speech_to_video" and "transformer" in names]
    if arguments.peers and arguments.reference is None and passes:
        say("The S2V network of Wan's publisher is not installed here: --reference names a clone of it.")
    print(f"\n{tables([figures])}")
    return int(any("error" in row for row in figures["rows"]))


def _cpu(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} cpu", description="What a user of a CPU waits for: imports, and the demo."
    )
    parser.add_argument("--demo", action="store_true", help="run the notebook of `make demo` too, twice")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(words)
    figures = measure_cpu(demo=arguments.demo)
    _write(arguments.json, figures)
    print(tables([figures]))
    return 0


def _stages(words: list[str]) -> int:
    parser = _parser("stages", "The stages, one after the other.")
    _add_cases(parser, "default all; from its second case on, a stage has its models cached")
    parser.add_argument("--offload", choices=("auto", *OFFLOAD_MODES), default="auto")
    arguments = parser.parse_args(words)
    cases, report = read_cases(arguments.cases, arguments.size), _reporter(arguments.json)
    figures = measure_stages(cases, arguments.size, arguments.device, arguments.memory_gb, arguments.offload, report)
    return int(any("error" in case for case in figures["cases"]))


def _offload(words: list[str]) -> int:
    parser = _parser("offload", "This package's offloading beside diffusers' own.")
    _add_cases(parser, "default both video stages at 480x832")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default all")
    arguments = parser.parse_args(words)
    cases, report = read_cases(arguments.cases, arguments.size), _reporter(arguments.json)
    if not arguments.cases:
        cases = [case for case in cases if case.stage in VIDEO_STAGES and case.width <= 480]
    figures = measure_offload(cases, arguments.size, arguments.device, arguments.memory_gb, arguments.ways, report)
    return int(any("error" in row for row in figures["rows"]))


def _files(words: list[str]) -> int:
    parser = _parser("files", "Reading a stage's files from a disk.")
    parser.add_argument("--folder", type=Path, required=True, help="for the weights, which are kept afterwards")
    stages = ["text-to-image", "image-to-video", "speech-to-video"]
    parser.add_argument("--stage", default="text-to-image", choices=stages)
    arguments = parser.parse_args(words)
    stage = arguments.stage.replace("-", "_")
    figures = measure_files(stage, arguments.size, arguments.device, arguments.folder)
    _write(arguments.json, figures)
    print("\n".join(f"{key:16} {value}" for key, value in figures.items()))
    return 0


def _calibrate(words: list[str]) -> int:
    parser = _speed_parser(
        "calibrate", "Find the plans of balanced and fast, and put them into the table of the package."
    )
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        request = sample_request(*_sizes_of_clip(arguments))
        found = calibrate(request, arguments.device, Path(folder))
    for speed, figures in found.items():
        print(f"{speed:10} {', '.join(f'{key} {value}' for key, value in figures.items())}")
    return 0


def _speed(words: list[str]) -> int:
    parser = _speed_parser("speed", "What each way to save passes saves and costs.")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="default all; the first is exact"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_speed(*_sizes_of_clip(arguments), arguments.device, Path(folder), arguments.modes)
    _write(arguments.json, figures)
    print(tables([figures]))
    return 0


def _draw_speed(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} draw-speed", description="Results of speed as a picture.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, required=True, help="an .svg or .png file, which is replaced")
    arguments = parser.parse_args(words)
    draw_speed(_read(arguments.files), arguments.into)
    return 0


def _kernels(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} kernels",
        description="A pass of the S2V network by each attention, plain, compiled, and in float8.",
    )
    parser.add_argument("--size", choices=network.SIZES, default="14b", help="tiny runs anywhere in seconds")
    _add_clip(parser)
    _add_device(parser)
    parser.add_argument("--attention", nargs="+", choices=attention.EXACT, default=[], help="default all installed")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(words)
    clip = network.read_clip(arguments.size, *arguments.clip)
    figures = network.measure_kernels(arguments.size, clip, arguments.device, only=arguments.attention)
    _write(arguments.json, figures)
    print(tables([figures]))
    return int(any("error" in row for row in figures["rows"]))


def _service(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} service", description="Answers of the REST service while a pocket clip is made."
    )
    parser.add_argument("--pollers", type=int, default=200, help="clients that ask for the status; default 200")
    parser.add_argument("--uploaders", type=int, default=20, help="clients that upload; default 20")
    parser.add_argument("--seconds", type=float, default=30.0, help="default 30")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between questions of a client; default 2")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(words)
    figures = measure_service(arguments.pollers, arguments.uploaders, arguments.seconds, arguments.interval)
    _write(arguments.json, figures)
    print("\n".join(f"{key:14} {value}" for key, value in figures.items()))
    return int(figures["status"]["failed"] + figures["upload"]["failed"] > 0)


def _cluster(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} cluster", description="Pocket pictures an hour by a Ray cluster, and by one worker beside it."
    )
    parser.add_argument("--requests", type=int, default=200, help="that each of them makes; default 200")
    parser.add_argument("--actors", type=int, default=4, help="that work at the same time; default 4")
    parser.add_argument("--engine", help="address of a cluster; by default one is started on this machine")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(words)
    figures = measure_cluster(arguments.requests, arguments.actors, arguments.engine)
    _write(arguments.json, figures)
    for row in figures["rows"]:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    return 0


def _shared_parser(bench: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {bench}", description=description)
    parser.add_argument("--size", choices=network.SIZES, default="14b", help="tiny runs anywhere in seconds")
    _add_clip(parser)
    _add_device(parser, ("cpu", "cuda"))
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def _clip_and_compiled(arguments: argparse.Namespace) -> tuple[tuple[int, int, int], bool]:
    compiled = arguments.device != "cpu" if arguments.compile is None else arguments.compile
    return network.read_clip(arguments.size, *arguments.clip), compiled


def _several(word: str) -> int:
    """How many processes share a step."""
    if int(word) < 2:
        raise argparse.ArgumentTypeError(f"must be 2 or more (got {word}); a process by itself is measured anyway")
    return int(word)


def _rounding(words: list[str]) -> int:
    parser = _shared_parser(
        "rounding", "How much a step of the S2V network that processes share differs from one process's, on one GPU."
    )
    parser.add_argument("--processes", type=_several, default=2, help="each holds the network; default 2")
    fastest = "default auto: the fastest that is installed"
    parser.add_argument("--attention", choices=("auto", *attention.BACKENDS), default="auto", help=fastest)
    parser.add_argument("--float32", action="store_true", help="also the error of both to float32; takes a minute")
    arguments = parser.parse_args(words)
    clip, compiled = _clip_and_compiled(arguments)
    sharing = (arguments.device, arguments.processes)
    how: dict[str, Any] = {"attend_by": arguments.attention, "compiled": compiled, "exact": arguments.float32}
    figures = measure_rounding(arguments.size, clip, *sharing, **how)
    _write(arguments.json, figures)
    print(tables([figures]))
    return 0


def _ranks(words: list[str]) -> int:
    parser = _shared_parser("ranks", "A step of the S2V network, by one GPU and by several that share it.")
    parser.add_argument("--gpus", type=_several, default=2, help="how many, on a CPU processes; default 2")
    parser.add_argument("--repeats", type=int, default=3, help="steps that count, after two that do not; default 3")
    parser.add_argument("--profile", action="store_true", help="also the kinds of kernels of a step")
    arguments = parser.parse_args(words)
    clip, compiled = _clip_and_compiled(arguments)
    counted: dict[str, Any] = {"compiled": compiled, "repeats": arguments.repeats, "profile": arguments.profile}
    figures = measure_ranks(arguments.size, clip, arguments.device, arguments.gpus, **counted)
    _write(arguments.json, figures)
    print(tables([figures]))
    return 0


def _speed_parser(bench: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {bench}", description=description)
    parser.add_argument("stage", choices=["image-to-video", "speech-to-video"])
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--steps", type=int, default=25, help="default 25")
    parser.add_argument("--frames", type=int, default=80, help="of the clip, a multiple of 4; default 80")
    _add_device(parser)
    return parser


def _sizes_of_clip(arguments: argparse.Namespace) -> tuple[str, str, int, int]:
    return arguments.stage.replace("-", "_"), arguments.profile, arguments.steps, arguments.frames


def _table(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} table", description="Figures of --json files as Markdown.")
    parser.add_argument("files", nargs="+", type=Path)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--targets", action="store_true", help="the targets of speed instead, and what was measured of each"
    )
    where.add_argument("--into", type=Path, help="write both between the comments of this Markdown file")
    arguments = parser.parse_args(words)
    measured = _read(arguments.files)
    if arguments.targets:
        print(targets_table(measured))
    elif arguments.into is None:
        print(tables(measured))
    else:
        text = between_marks(arguments.into.read_text(encoding="utf-8"), tables(measured), arguments.into)
        if f"<!-- {TARGETS} -->" in text:
            text = between_marks(text, targets_table(measured), arguments.into, TARGETS)
        with whole_file(arguments.into) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


def _compare(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} compare", description="Two --json files of one bench, as of two commits or two machines."
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args(words)
    print(comparison(*_read([arguments.before, arguments.after])))
    return 0


def _read(files: Sequence[Path]) -> list[dict[str, Any]]:
    try:
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]
    except (OSError, ValueError) as error:
        raise LabError(f"The figures cannot be read: {error}. Name files that --json has written.") from error


def _parser(bench: str, description: str, sizes: Collection[str] = tuple(SIZES)) -> argparse.ArgumentParser:
    """A parser with the options of every bench of stages."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {bench}", description=description)
    shipped = PROFILES.keys() & set(sizes)
    tells = "tiny runs anywhere in seconds" + "".join(f"; {size} is the toy models that ship" for size in shipped)
    parser.add_argument("--size", choices=sizes, default="published", help=tells)
    _add_device(parser)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def _add_device(parser: argparse.ArgumentParser, choices: Sequence[str] | None = None) -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    told = "default cuda if there is a GPU, else cpu"
    parser.add_argument("--device", type=_device, choices=choices, default=default, help=told)


def _device(name: str) -> str:
    try:
        kind, number = (device := torch.device(name)).type, device.index or 0
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{name!r} is not a device; give cpu, cuda or cuda:<n>") from error
    if kind == "cuda" and number >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{name!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return name


def _add_clip(parser: argparse.ArgumentParser) -> None:
    usual, tiny = (" ".join(map(str, clip)) for clip in (network.CLIP, network.TINY_CLIP))
    told = f"default {usual}, with --size tiny {tiny}"
    names = ("HEIGHT", "WIDTH", "FRAMES")
    parser.add_argument("--clip", type=int, nargs=3, metavar=names, default=(None, None, None), help=told)


def _add_cases(parser: argparse.ArgumentParser, default: str) -> None:
    written = f"{WRITTEN}, with fields as in speech-to-video:480x832x80/25,speed=fast"
    parser.add_argument("cases", nargs="*", help=f"{written}; {default}")
    parser.add_argument("--memory-gb", type=float, help="limit the GPU's memory, in 10⁹ bytes")


def _reporter(file: Path | None) -> Callable[[dict[str, Any]], None]:
    """A function that gets the figures so far after every case, so that they are kept if a later case crashes."""

    def report(figures: dict[str, Any]) -> None:
        _write(file, figures)
        print(last_lines(figures), flush=True)

    return report


def _write(file: Path | None, figures: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

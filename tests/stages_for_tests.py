"""A stage that does small real work in steps, and can be made to fail; known through WANAVATAR_EXTRA_STAGES.

It also is the example of a stage of one's own: REQUEST, load and run.
"""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.files import whole_file
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import Request, Words
from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.requests.fields import Seed
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages.context import StageContext

SIDE = 64
LEDGER = "steps.txt"  # a line per step that was really done
FAULTS = (
    "",
    "bug",
    "weights",
    "gpu memory",
    "gpu broken",
    "exit",
    "crash",
    "deaf",
    "scratch",
    "nothing made",
    "child",
    "fork",
)


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class AcceleratorError(RuntimeError):
    """Named as torch names it."""


def words(text: str) -> dict[str, str]:
    return {"label": text, "help": text}


class Relax(Request):
    """Relaxes a field of numbers, step by step, and writes it down."""

    stage: ClassVar[str] = "relax"
    labels: ClassVar[Words] = {"en": "Relax", "ko": "Relax", "zh": "Relax"}
    help: ClassVar[Words] = labels
    artifact: ClassVar[str] = "numbers"
    suffix: ClassVar[str] = ".npy"

    start: Annotated[str | None, spec(widget="picture", **words("a field to begin with"))] = None
    steps: Annotated[int, spec(widget="int", ge=1, le=1000, **words("steps"))] = 3
    step_seconds: Annotated[float, spec(widget="float", ge=0, le=60, **words("least time per step"))] = 0.0
    kilobytes: Annotated[int, spec(widget="int", ge=0, le=10**6, **words("size of the result"))] = 32
    hold_at: Annotated[int, spec(widget="int", ge=-1, le=1000, **words("wait after this step for the file go"))] = -1
    fault: Annotated[str, spec(widget="text", options={name: {} for name in FAULTS}, **words("what goes wrong"))] = ""
    seed: Seed = -1


REQUEST = Relax


def load(profile: Profile, device: str) -> dict[str, Any]:
    """A kernel; which process made it and when, so that tests see whether it is the same."""
    # not from the request, which the models do not depend on
    if (gate := os.environ.get("RELAX_LOADS_AFTER")) is not None:
        while not Path(gate).exists():
            time.sleep(0.01)
    return {"kernel": np.ones(3) / 3, "process": os.getpid(), "loaded_at": time.time(), "profile": profile.name}


def run(request: Relax, models: dict[str, Any], context: StageContext) -> list[Artifact]:
    context.record(process=os.getpid(), loaded_at=models["loaded_at"], profile=models["profile"])
    context.record(max_audio_seconds=read_settings().max_audio_seconds)
    print("to standard output")
    os.write(2, b"from below Python\n")
    numbers = np.random.default_rng(context.seed).standard_normal((SIDE, SIDE))
    if request.start is not None:
        numbers = np.resize(np.load(request.start), (SIDE, SIDE))
    context.progress("relax", 0, request.steps)
    for step in range(1, request.steps + 1):
        begun = time.monotonic()
        numbers = np.apply_along_axis(np.convolve, 0, numbers, models["kernel"], mode="same")
        time.sleep(max(0.0, request.step_seconds - (time.monotonic() - begun)))
        with open(context.folder / LEDGER, "a") as ledger:
            ledger.write(f"{step}\n")
        context.progress("relax", step, request.steps)
        if step == request.hold_at:
            _wait_for(context.folder / "go", context, deaf=request.fault == "deaf")
        if request.fault != "deaf":
            context.check()
    _go_wrong(request.fault, context)
    if request.fault == "nothing made":
        return [Artifact(kind="numbers", path="result.npy")]
    with whole_file(context.folder / "result.npy") as path, open(path, "wb") as file:
        np.save(file, np.resize(numbers, (request.kilobytes * 128,)))  # 8 bytes each
    return [Artifact(kind="numbers", path="result.npy")]


def _wait_for(path: Path, context: StageContext, *, deaf: bool) -> None:
    while not path.exists():
        if not deaf:
            context.check()
        time.sleep(0.01)


def _go_wrong(fault: str, context: StageContext) -> None:
    match fault:
        case "bug":
            raise KeyError("no such thing\nsecond line")
        case "weights":
            raise WeightsError("The weights of relax are missing. Get them.")
        case "gpu memory":
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        case "gpu broken":
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        case "child":
            child = subprocess.Popen(["sleep", "60"])
            (context.folder / "child").write_text(str(child.pid))
            _wait_for(context.folder / "go", context, deaf=False)
        case "fork":
            if os.fork() == 0:
                os.setsid()  # away from the worker's group, which would take it along
                (context.folder / "child").write_text(str(os.getpid()))
                time.sleep(60)
                os._exit(0)
            _wait_for(context.folder / "go", context, deaf=False)
        case "exit":
            sys.exit(3)
        case "crash":
            ctypes.string_at(0)
        case "scratch":
            (context.folder / ".half.npy").write_bytes(b"half")
            (context.folder / ".parts").mkdir()
            (context.folder / ".parts" / "one").write_bytes(b"half")
            raise WeightsError("Failed with files half-written.")

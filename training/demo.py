"""The whole of training on a drawn person, on any CPU: what `make train-demo` does.

    python -m training.demo --run runs/train-demo

A person whose mouth and way of speaking the toy model has never seen is drawn, prepared, encoded and learnt. The same
is done with every clip's sound exchanged for another's, which must not help. A short training is killed at random
moments and goes on each time, and is compared bit by bit with one that was left alone. `report.json` has the figures.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from training import encode
from training.checkpoint import WEIGHTS, checkpoints, same_bits
from training.config import TrainingConfig
from training.prepare import drawn
from training.prepare.__main__ import main as prepare
from training.recipes import pocket
from training.samples import NO_TEXT, Samples, write_list, write_sample
from training.train import train
from wanavatar_lab.files import write_json

CLIPS, HELD_OUT = 12, 3
KILLS, SHORT = 5, 8  # times that a training of so many steps is killed


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/train-demo"))
    parser.add_argument("--steps", type=int, help="of the training; the recipe's if not said")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    run: Path = arguments.run
    run.mkdir(parents=True, exist_ok=True)
    right = make_samples(run)
    wrong = exchange_sound(right, run / "samples_wrong")
    told: dict[str, Any] = pocket() | ({"steps": arguments.steps} if arguments.steps else {})
    changes = train(TrainingConfig(samples=right, run=run / "training", **told))
    by_wrong = train(TrainingConfig(samples=wrong, run=run / "training_wrong", **told))
    same = killed_equals_whole(right, run)
    report = {
        "lip_error_change": changes["lip"],
        "face_error_change": changes["face"],
        "background_error_change": changes["background"],
        "wrong_audio_lip_error_change": by_wrong["lip"],
        "resume_bit_identical": same,
        "seconds": round(time.monotonic() - began, 1),
        "lora": str((checkpoints(run / "training")[-1] / WEIGHTS).relative_to(run)),
    }
    write_json(run / "report.json", report)
    print(json.dumps(report, indent=1))


def make_samples(run: Path) -> Path:
    """Draw, prepare and encode the person; what is there already is kept. Returns the folder of the samples."""
    videos, data, folder = run / "videos", run / "data", run / "samples"
    count = str(CLIPS + HELD_OUT)
    _succeeds(
        drawn.main, ["--out", str(videos), "--count", count, "--style", "unusual", "--size", "128", "--fps", "16"]
    )
    _succeeds(
        prepare, ["--videos", str(videos), "--out", str(data), "--landmarks", "drawn", "--hold-out", str(HELD_OUT)]
    )
    listed = str(data / "processed" / "video_path.txt")
    encode.main(["--data", listed, "--out", str(folder), "--profile", "pocket", "--aspects", "square"])
    return folder


def exchange_sound(folder: Path, out: Path) -> Path:
    """Copy samples, those to train on with the sound of the next one of their shape; what is held out stays right."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for is_held_out in (False, True):
        some = Samples(folder, held_out=is_held_out)
        for entry in some.entries:
            tensors = load_file(folder / f"{entry.name}.safetensors")
            if not is_held_out:
                others = [other for other in some.entries if other.bucket == entry.bucket]
                other = others[(others.index(entry) + 1) % len(others)]
                tensors["audio"] = load_file(folder / f"{other.name}.safetensors")["audio"]
            entries.append(write_sample(out, entry.name, tensors, entry.clip, is_held_out))
    write_list(out, entries, load_file(folder / NO_TEXT)["text"])
    return out


def killed_equals_whole(folder: Path, run: Path) -> bool:
    """Whether a training that is killed at random moments ends with the same bits as one that is not."""
    told = pocket() | {"samples": folder, "steps": SHORT, "accumulation": 1}
    told |= {"checkpoint_every": 1, "deterministic": True}
    whole, broken = (run / name for name in ("resume_whole", "resume_broken"))
    for place in (whole, broken):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "told.json").write_text(TrainingConfig(**told, run=place).model_dump_json())
    _finish(whole)
    for step in sorted(random.sample(range(1, SHORT), KILLS)):
        _kill_after(broken, step)
    _finish(broken)
    ends = [load_file(checkpoints(place)[-1] / WEIGHTS) for place in (whole, broken)]
    return same_bits(*ends)


def _succeeds(main: Callable[[list[str]], int], words: list[str]) -> None:
    """Run another program's command line, which has said what is wrong where it ends with a number."""
    if code := main(words):
        raise SystemExit(code)


def _finish(place: Path) -> None:
    process = _start(place)
    if process.wait():
        raise RuntimeError(f"The training in {place} failed with code {process.returncode}.")


def _kill_after(place: Path, step: int) -> None:
    """Kill a training at some moment after the checkpoint of a step."""
    process = _start(place)
    while process.poll() is None and not any(int(done.name.split("-")[1]) >= step for done in checkpoints(place)):
        time.sleep(0.02)
    time.sleep(random.random())
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start(place: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training.train", "--config", str(place / "told.json")]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

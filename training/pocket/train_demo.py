"""Prepare, encode, train, resume and evaluate on a drawn person, on any CPU: `make train-demo`.

    python -m training.pocket.train_demo --run runs/train-demo

Draws a person whose lips move unlike any in the toy model's training data, then prepares, encodes and trains on the
clips. As a control, the same training runs with each clip's audio replaced by another clip's, which must not help. A
short training is killed at random moments and resumed each time; its result must be bit-identical to that of an
uninterrupted one. `report.json` holds the figures, `training/clips` held-out speech before and after.
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

from safetensors.torch import load_file

from training import encode
from training.config import TrainingConfig
from training.config.recipes import pocket
from training.data.samples import NO_TEXT, Samples, write_list, write_sample
from training.launch.processes import usable_cores
from training.loop.checkpoint import same_bits
from training.loop.run_folder import WEIGHTS, checkpoints, read_metrics
from training.pocket import drawn_person
from training.prepare.__main__ import main as prepare
from wanavatar_lab.files import write_json

CLIPS, HELD_OUT = 12, 3
CONFIG_FILE, LOG_FILE = "told.json", "said.log"
KILLS, SHORT = 5, 8  # how many times the short training is killed, and its steps
RIGHT, WRONG = "training", "training_wrong"
# Fewer steps and a lower learning rate than the recipe: with more, training on any audio learns how a person's mouth
# looks, which lowers the lip error too, while the demo shows that lips follow the right audio.
TOLD = pocket() | {"max_train_steps": 45, "learning_rate": 1e-3, "checkpointing_steps": 15}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket.train_demo", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/train-demo"))
    parser.add_argument("--person", type=int, default=0, help="seed of the person's looks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--steps", type=int, default=TOLD["max_train_steps"], help="steps of each training")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    run: Path = arguments.run
    run.mkdir(parents=True, exist_ok=True)
    right = make_samples(run, arguments.person)
    wrong = exchange_sound(right, run / "samples_wrong")
    settings = TOLD | {"max_train_steps": arguments.steps, "seed": arguments.seed}
    trainings = [
        write_config(TrainingConfig(samples=right, run=run / RIGHT, sample_every_n_steps=arguments.steps, **settings)),
        write_config(TrainingConfig(samples=wrong, run=run / WRONG, **settings)),
    ]
    # both trainings at once, each on half of the cores: faster than one after the other on all of them
    threads = max(1, usable_cores() // 2)
    by_right, by_wrong = (_start(place, threads) for place in trainings)
    _wait(trainings[1], by_wrong)
    # runs while the first training still renders its sample clips
    same = killed_equals_whole(right, run, threads)
    _wait(trainings[0], by_right)
    changes, changes_by_wrong = (change_of(place) for place in trainings)
    report = {
        "lip_error_change": changes["lip"],
        "face_error_change": changes["face"],
        "background_error_change": changes["background"],
        "wrong_audio_lip_error_change": changes_by_wrong["lip"],
        "resume_bit_identical": same,
        "seconds": round(time.monotonic() - began, 1),
        "lora": str((checkpoints(run / RIGHT)[-1] / WEIGHTS).relative_to(run)),
    }
    write_json(run / "report.json", report)
    print(json.dumps(report, indent=1))


def change_of(run: Path) -> dict[str, float]:
    """Relative change of the held-out errors against the base model at the end of a run; -0.2 is 20 % lower."""
    base, last = (read_metrics(run, kind)[-1] for kind in ("base", "validation"))
    return {part: last[part] / base[part] - 1 for part in ("lip", "face", "background")}


def write_config(config: TrainingConfig) -> Path:
    """Empty a run folder and write a training's config into it; returns the folder."""
    shutil.rmtree(config.run, ignore_errors=True)
    config.run.mkdir(parents=True)
    (config.run / CONFIG_FILE).write_text(config.model_dump_json(indent=1) + "\n")
    return config.run


def make_samples(run: Path, person: int = 0) -> Path:
    """Draw, prepare and encode a person, reusing what exists already; returns the folder of the samples."""
    videos, data, folder = run / "videos", run / "data", run / "samples"
    count = str(CLIPS + HELD_OUT)
    looks = ["--style", "unusual", "--size", "128", "--fps", "16", "--speech", "shipped"]
    _run_or_exit(drawn_person.main, ["--out", str(videos), "--count", count, "--person", str(person), *looks])
    _run_or_exit(
        prepare, ["--videos", str(videos), "--out", str(data), "--landmarks", "drawn", "--hold-out", str(HELD_OUT)]
    )
    listed = str(data / "processed" / "video_path.txt")
    encode.main(["--data", listed, "--out", str(folder), "--profile", "pocket", "--aspects", "square"])
    return folder


def exchange_sound(folder: Path, out: Path) -> Path:
    """Copy samples, replacing the audio of every training sample by that of the next one of its bucket.

    Held-out samples keep their own audio.
    """
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


def killed_equals_whole(folder: Path, run: Path, threads: int | None = None) -> bool:
    """Whether a training that is killed at random moments and resumed ends bit-identical to an uninterrupted one.

    Args:
        folder: of encoded samples.
        run: parent folder of both runs.
        threads: CPU threads of each training; None uses all cores.
    """
    # without held-out samples: it starts six times, and would validate twice each time
    samples = few_samples(folder, run / "samples_few")
    settings = pocket() | {"samples": samples, "max_train_steps": SHORT, "gradient_accumulation_steps": 1}
    settings |= {"checkpointing_steps": 1, "deterministic": True}
    whole, broken = (
        write_config(TrainingConfig(**settings, run=run / name)) for name in ("resume_whole", "resume_broken")
    )
    left_alone = _start(whole, threads)
    for step in sorted(random.sample(range(1, SHORT), KILLS)):
        _kill_after(broken, step, threads)
    _wait(broken, _start(broken, threads))
    _wait(whole, left_alone)
    ends = [load_file(checkpoints(place)[-1] / WEIGHTS) for place in (whole, broken)]
    return same_bits(*ends)


def few_samples(folder: Path, out: Path) -> Path:
    """Copy one training sample of each bucket."""
    out.mkdir(parents=True, exist_ok=True)
    by_shape = {entry.bucket: entry for entry in reversed(Samples(folder).entries)}
    entries = [
        write_sample(out, entry.name, load_file(folder / f"{entry.name}.safetensors"), entry.clip, False)
        for entry in by_shape.values()
    ]
    write_list(out, entries, load_file(folder / NO_TEXT)["text"])
    return out


def _run_or_exit(main: Callable[[list[str]], int], words: list[str]) -> None:
    """Run another command's `main`, which prints its own errors; exit with its code if it fails."""
    if code := main(words):
        raise SystemExit(code)


def _wait(place: Path, process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"The training in {place} failed with code {process.returncode}; see {place / LOG_FILE}.")


def _kill_after(place: Path, step: int, threads: int | None) -> None:
    """Resume a training, and kill it within a second after it writes the checkpoint of `step`."""
    process = _start(place, threads)
    while process.poll() is None and not any(int(done.name.split("-")[1]) >= step for done in checkpoints(place)):
        time.sleep(0.02)
    time.sleep(random.random())
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start(place: Path, threads: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training.train", "--config", str(place / CONFIG_FILE)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with open(place / LOG_FILE, "ab") as said:
        return subprocess.Popen(command, start_new_session=True, stdout=said, stderr=subprocess.STDOUT, env=environment)


if __name__ == "__main__":
    main()

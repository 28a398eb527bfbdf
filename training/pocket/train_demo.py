"""The whole of training on a drawn person, on any CPU: what `make train-demo` does.

    python -m training.pocket.train_demo --run runs/train-demo

A person whose lips move unlike any that the toy model has seen is drawn, prepared, encoded and trained on. As a control
the same is done with every clip's sound replaced by another's, which must not help. A short training is killed at
random moments and resumed each time, and its result is compared bit by bit with that of an uninterrupted one.
`report.json` has the figures, `training/clips` held-out speech before and after.
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
TOLD_FILE, SAID = "told.json", "said.log"
KILLS, SHORT = 5, 8  # how often a training is killed, and its steps
RIGHT, WRONG = "training", "training_wrong"
# Fewer steps than the recipe and a lower learning rate: in the long run any sound teaches how a person's mouth looks,
# which lowers the lip error too, while the demo is to show that lips follow the right sound.
TOLD = pocket() | {"max_train_steps": 45, "learning_rate": 1e-3, "checkpointing_steps": 15}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket.train_demo", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/train-demo"))
    parser.add_argument("--person", type=int, default=0, help="seed of how the person looks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--steps", type=int, default=TOLD["max_train_steps"], help="of each training")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    run: Path = arguments.run
    run.mkdir(parents=True, exist_ok=True)
    right = make_samples(run, arguments.person)
    wrong = exchange_sound(right, run / "samples_wrong")
    told = TOLD | {"max_train_steps": arguments.steps, "seed": arguments.seed}
    trainings = [
        write_config(TrainingConfig(samples=right, run=run / RIGHT, sample_every_n_steps=arguments.steps, **told)),
        write_config(TrainingConfig(samples=wrong, run=run / WRONG, **told)),
    ]
    # each with half of the cores: two processes use them better than one after the other
    threads = max(1, usable_cores() // 2)
    by_right, by_wrong = (_start(place, threads) for place in trainings)
    _wait(trainings[1], by_wrong)
    # while the other one makes its sample clips
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
    """Relative change of the held-out errors against the base model at the end of a run; -0.2 is 20 % less."""
    base, last = (read_metrics(run, kind)[-1] for kind in ("base", "validation"))
    return {part: last[part] / base[part] - 1 for part in ("lip", "face", "background")}


def write_config(config: TrainingConfig) -> Path:
    """Write the settings of a training into its folder, emptied before; returns the folder."""
    shutil.rmtree(config.run, ignore_errors=True)
    config.run.mkdir(parents=True)
    (config.run / TOLD_FILE).write_text(config.model_dump_json(indent=1) + "\n")
    return config.run


def make_samples(run: Path, person: int = 0) -> Path:
    """Draw, prepare and encode a person, keeping what exists already; returns the folder of the samples."""
    videos, data, folder = run / "videos", run / "data", run / "samples"
    count = str(CLIPS + HELD_OUT)
    looks = ["--style", "unusual", "--size", "128", "--fps", "16", "--speech", "shipped"]
    _succeeds(drawn_person.main, ["--out", str(videos), "--count", count, "--person", str(person), *looks])
    _succeeds(
        prepare, ["--videos", str(videos), "--out", str(data), "--landmarks", "drawn", "--hold-out", str(HELD_OUT)]
    )
    listed = str(data / "processed" / "video_path.txt")
    encode.main(["--data", listed, "--out", str(folder), "--profile", "pocket", "--aspects", "square"])
    return folder


def exchange_sound(folder: Path, out: Path) -> Path:
    """Copy samples, those to train on with the sound of the next one of their shape; held-out ones keep their own."""
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
    """Whether a training that is killed at random moments ends with the same bits as an uninterrupted one.

    Args:
        folder: of samples.
        run: folder of both trainings.
        threads: of each training; None takes all cores.
    """
    # without held-out samples, since it is started six times and would validate twice each time
    samples = few_samples(folder, run / "samples_few")
    told = pocket() | {"samples": samples, "max_train_steps": SHORT, "gradient_accumulation_steps": 1}
    told |= {"checkpointing_steps": 1, "deterministic": True}
    whole, broken = (write_config(TrainingConfig(**told, run=run / name)) for name in ("resume_whole", "resume_broken"))
    left_alone = _start(whole, threads)
    for step in sorted(random.sample(range(1, SHORT), KILLS)):
        _kill_after(broken, step, threads)
    _wait(broken, _start(broken, threads))
    _wait(whole, left_alone)
    ends = [load_file(checkpoints(place)[-1] / WEIGHTS) for place in (whole, broken)]
    return same_bits(*ends)


def few_samples(folder: Path, out: Path) -> Path:
    """Copy one sample of each shape, none of them held out."""
    out.mkdir(parents=True, exist_ok=True)
    by_shape = {entry.bucket: entry for entry in reversed(Samples(folder).entries)}
    entries = [
        write_sample(out, entry.name, load_file(folder / f"{entry.name}.safetensors"), entry.clip, False)
        for entry in by_shape.values()
    ]
    write_list(out, entries, load_file(folder / NO_TEXT)["text"])
    return out


def _succeeds(main: Callable[[list[str]], int], words: list[str]) -> None:
    """Run another program's command line, which prints its own errors; exit with its code if it fails."""
    if code := main(words):
        raise SystemExit(code)


def _wait(place: Path, process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"The training in {place} failed with code {process.returncode}; see {place / SAID}.")


def _kill_after(place: Path, step: int, threads: int | None) -> None:
    """Kill a training within a second after the checkpoint of a step."""
    process = _start(place, threads)
    while process.poll() is None and not any(int(done.name.split("-")[1]) >= step for done in checkpoints(place)):
        time.sleep(0.02)
    time.sleep(random.random())
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start(place: Path, threads: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training.train", "--config", str(place / TOLD_FILE)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with open(place / SAID, "ab") as said:
        return subprocess.Popen(command, start_new_session=True, stdout=said, stderr=subprocess.STDOUT, env=environment)


if __name__ == "__main__":
    main()

"""Samples per second of a whole training run, on one GPU or several, checkpoints and resuming included.

    python -m training.bench_run --run /tmp/one                              one process, without a launcher
    python -m training.bench_run --run /tmp/one --with zero2                 one process, with the launcher of several
    python -m training.bench_run --run /tmp/two --with zero2 --processes 2   half of the micro-batches on each
    python -m training.bench_run --run /tmp/toy --toy --steps 2              anywhere, in a minute

The run is `training.train` with random samples and a random network of true size: nothing is downloaded. It makes some
steps, writes its checkpoint, ends, and is started again to resume. Seconds of a step are the median over those after
the first, in which blocks are compiled. `samples_per_second` is what they give for a run as the recipes have it: the
steps between two checkpoints, with one checkpoint written and one read each time. It prints one line of JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.bench import TOY, TOY_SIZE, TRUE_SIZE, random_batch, random_network
from training.config import TrainingConfig
from training.config.recipes import s2v_14b_1gpu
from training.data.samples import write_list, write_sample
from training.launch.launch import start, state, stop
from training.launch.processes import CONFIGS, LOG
from training.loop.run_folder import read_metrics
from training.train import train
from wanavatar_lab.errors import LabError
from wanavatar_lab.s2v import WanS2VTransformer3DModel

MODULE = "training.bench_run"
TOY_PROFILE = "pocket"  # in the config, tells the training processes which network to draw


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run to the last step and resume from it; keys name the figures and their units.

    Raises:
        LabError: the folder exists, or the run failed.
    """
    config = config_of(arguments)
    if config.run.exists():
        raise LabError(f"{config.run} exists already. Name a new folder, so that nothing in it is lost.")
    write_random_samples(config)
    # the second start has no step left: it only resumes
    for _ in range(2):
        start(config, arguments.launcher, arguments.processes, MODULE)
        try:
            _wait(config.run)
        finally:
            if state(config.run).state == "running":  # interrupted
                stop(config.run)
    return figures(config, arguments.processes) | {"launcher": arguments.launcher}


def config_of(arguments: argparse.Namespace) -> TrainingConfig:
    """The recipe for one GPU, with the micro-batches of a step shared by the processes.

    Raises:
        LabError: they cannot be shared evenly or by this launcher, or no step would be timed.
    """
    if arguments.steps < 2:
        raise LabError(f"{arguments.steps} steps are too few: the first one is not timed. Give --steps 2 or more.")
    total = arguments.samples_a_step
    if min(total, arguments.processes) < 1:
        raise LabError(f"{total} samples a step on {arguments.processes} processes are none. Give 1 or more of both.")
    if arguments.launcher == "plain" and arguments.processes != 1:
        raise LabError(f"{arguments.processes} processes need a launcher: --with {' or '.join(CONFIGS)}.")
    if total % arguments.processes:
        raise LabError(f"{total} samples a step cannot be shared by {arguments.processes} processes evenly.")
    run = arguments.run.absolute()
    fields = {"profile": TOY_PROFILE, "rank": 4, "mixed_precision": "no"} if arguments.toy else s2v_14b_1gpu()
    fields |= {"samples": run / "samples", "run": run, "gradient_accumulation_steps": total // arguments.processes}
    return TrainingConfig(**fields, max_train_steps=arguments.steps, checkpointing_steps=arguments.steps)


def write_random_samples(config: TrainingConfig) -> None:
    """Write encoded samples of noise, as many as a step of one process has micro-batches."""
    toy = config.profile == TOY_PROFILE
    with torch.device("meta"):
        network = WanS2VTransformer3DModel(**(TOY if toy else {}))
    batch = random_batch(network, TOY_SIZE if toy else TRUE_SIZE, torch.device("cpu"))
    config.samples.mkdir(parents=True)
    tensors = {name: tensor[0] for name, tensor in batch.items() if name != "no_text"}
    entries = [
        write_sample(config.samples, f"sample-{i}", tensors, f"video_{i:03d}", False)
        for i in range(config.gradient_accumulation_steps)
    ]
    write_list(config.samples, entries, batch["no_text"][0])


def _wait(run: Path) -> None:
    while (found := state(run)).state == "running":
        time.sleep(0.5)
    if found.state != "finished":
        raise LabError(f"The run {found.state}. {found.why} Its output is in {run / LOG}.")


def figures(config: TrainingConfig, processes: int) -> dict[str, Any]:
    """The figures of a run that was resumed once, from its log."""
    steps = [line["seconds"] for line in read_metrics(config.run, "train")]
    (saving,) = (line["seconds"] for line in read_metrics(config.run, "checkpoint"))
    (resuming,) = (line["seconds"] for line in read_metrics(config.run, "resume"))
    step = statistics.median(steps[1:])
    samples = config.gradient_accumulation_steps * config.train_batch_size * processes
    between = TrainingConfig.model_fields["checkpointing_steps"].default
    return {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "processes": processes,
        "samples_a_step": samples,
        "first_step_s": round(steps[0], 2),
        "step_s": round(step, 3),
        "checkpoint_s": round(saving, 2),
        "resume_s": round(resuming, 2),
        "steps_between_checkpoints": between,
        "samples_per_second_of_steps": round(samples / step, 4),
        "samples_per_second": round(between * samples / (between * step + saving + resuming), 4),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; with --config it is a training process of the run."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a new folder for the run; it is not deleted")
    parser.add_argument("--with", dest="launcher", choices=("plain", *CONFIGS), default="plain")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="number of optimizer steps; the first is not timed")
    parser.add_argument("--samples-a-step", type=int, default=8, help="samples per optimizer step, over all processes")
    parser.add_argument("--toy", action="store_true", help="a small network and a short clip, for any machine")
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.config:
        config = TrainingConfig.model_validate_json(arguments.config.read_text())
        toy = config.profile == TOY_PROFILE
        # launchers set the rank; without one there is one process
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        train(config, random_network(TOY if toy else {}, device, torch.float32 if toy else torch.bfloat16))
        return 0
    if arguments.run is None:
        parser.error("--run is required: a new folder")
    try:
        print(json.dumps(measure(arguments)))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

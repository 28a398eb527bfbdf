"""How many samples a second a run of training makes, on one GPU or several, saving and resuming included.

    python -m training.bench_run --run /tmp/one                              one process, without a launcher
    python -m training.bench_run --run /tmp/one --with zero2                 one, as the launcher of several makes it
    python -m training.bench_run --run /tmp/two --with zero2 --processes 2   half of the accumulation on each
    python -m training.bench_run --run /tmp/toy --toy --steps 2              anywhere, in a minute

The run is that of `training.train`, as a launcher starts it, on random samples and with a random network of true size:
nothing is downloaded. It makes some steps, writes its checkpoint, ends, and is started again, so that it goes on from
there. Seconds of a step are the median over those after the first, in which blocks are compiled. `samples_per_second`
is what these figures make of a run as the recipes have it: so many steps between two checkpoints, each time with one
that is written and one that is read. It prints one line of JSON.
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
from training.config.config import TrainingConfig
from training.config.recipes import s2v_14b_1gpu
from training.data.samples import write_list, write_sample
from training.launch.launch import start, state, stop
from training.launch.processes import CONFIGS, LOG
from training.loop.run_folder import read_metrics
from training.train import train
from wanavatar_lab.errors import LabError
from wanavatar_lab.s2v import WanS2VTransformer3DModel

MODULE = "training.bench_run"
TOY_PROFILE = "pocket"  # by which a process that trains knows which network is meant


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the run twice, to its last step and from it; the keys say what the figures are and in which unit.

    Raises:
        LabError: the folder is in use, or the run failed.
    """
    config = config_of(arguments)
    if config.run.exists():
        raise LabError(f"{config.run} is there already. Name a folder that is not, so that nothing of it is lost.")
    write_random_samples(config)
    # the second time there is no step left, so that what it does is to go on
    for _ in range(2):
        start(config, arguments.launcher, arguments.processes, MODULE)
        try:
            _wait(config.run)
        finally:
            if state(config.run).state == "running":  # whoever waits was interrupted
                stop(config.run)
    return figures(config, arguments.processes) | {"launcher": arguments.launcher}


def figures(config: TrainingConfig, processes: int) -> dict[str, Any]:
    """What the log of a run of two parts says."""
    steps = [line["seconds"] for line in read_metrics(config.run, "train")]
    (saving,) = (line["seconds"] for line in read_metrics(config.run, "checkpoint"))
    (resuming,) = (line["seconds"] for line in read_metrics(config.run, "resume"))
    step = statistics.median(steps[1:])
    samples = config.accumulation * config.batch * processes
    between = TrainingConfig.model_fields["checkpoint_every"].default
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


def config_of(arguments: argparse.Namespace) -> TrainingConfig:
    """The recipe for one GPU, its samples a step shared by the processes.

    Raises:
        LabError: they cannot be shared evenly or by this launcher, or there are no steps to be timed.
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
    told: dict[str, Any] = {
        "samples": run / "samples",
        "run": run,
        "steps": arguments.steps,
        "accumulation": total // arguments.processes,
        "checkpoint_every": arguments.steps,
    }
    toy = {"profile": TOY_PROFILE, "rank": 4, "precision": "float32"}
    return TrainingConfig(**(told | (toy if arguments.toy else s2v_14b_1gpu())))


def write_random_samples(config: TrainingConfig) -> None:
    """Encoded samples of noise, as many as a step of one process has micro-batches."""
    toy = config.profile == TOY_PROFILE
    with torch.device("meta"):
        network = WanS2VTransformer3DModel(**(TOY if toy else {}))
    batch = random_batch(network, TOY_SIZE if toy else TRUE_SIZE, torch.device("cpu"))
    config.samples.mkdir(parents=True)
    tensors = {name: tensor[0] for name, tensor in batch.items() if name != "no_text"}
    entries = [
        write_sample(config.samples, f"sample-{i}", tensors, f"video_{i:03d}", False)
        for i in range(config.accumulation)
    ]
    write_list(config.samples, entries, batch["no_text"][0])


def work(config: TrainingConfig) -> None:
    """What a process that trains does: the run, with a network of random weights."""
    toy = config.profile == TOY_PROFILE
    # the number that a launcher gives; without one there is one process
    here = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", here) if torch.cuda.is_available() else torch.device("cpu")
    network = random_network(TOY if toy else {}, device, torch.float32 if toy else torch.bfloat16)
    train(config, network)


def _wait(run: Path) -> None:
    while (found := state(run)).state == "running":
        time.sleep(0.5)
    if found.state != "finished":
        raise LabError(f"The run ended otherwise than it should. {found.why} What it said is in {run / LOG}.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a folder that is not there yet; what is written stays")
    parser.add_argument("--with", dest="launcher", choices=("plain", *CONFIGS), default="plain")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="the first of which is not timed")
    parser.add_argument("--samples-a-step", type=int, default=8, help="over all processes")
    parser.add_argument("--toy", action="store_true", help="a small network and a short clip, for any machine")
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.config:
        work(TrainingConfig.model_validate_json(arguments.config.read_text()))
        return 0
    if arguments.run is None:
        parser.error("--run says where; it is needed")
    try:
        print(json.dumps(measure(arguments)))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

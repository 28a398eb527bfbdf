"""Fine-tune the speech-to-video network on clips of one person.

    accelerate launch --config_file training/configs/one.yaml -m training.train --config run.json
    python -m training.train --recipe pocket --samples data/me/samples --run runs/training/me

One process or several, as accelerate starts them. The same command resumes from the newest checkpoint; on one device
and in deterministic mode a resumed run is, bit by bit, the run that was never interrupted.

The file reads from the top: the process's set-up, the run's set-up, the loop, an optimizer step, validation,
checkpoints; then how a run is stopped and what is logged of a step.
"""

import argparse
import json
import math
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedType,
    broadcast_object_list,
    gather_object,
    set_seed,
)
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from training.config import TrainingConfig
from training.config.arguments import add_config, config_of
from training.config.training_config import BRANCHES, FIXED_ON_RESUME
from training.data.batch_order import Order
from training.data.samples import Samples
from training.launch.folder_locks import AlreadyRunning, training_in
from training.launch.processes import STOP_CODE, note_failure
from training.loop.checkpoint import load_checkpoint, remove_old, save_checkpoint, skipped_steps, trained_parameters
from training.loop.loss import Losses, total
from training.loop.out_of_memory import join_freed_memory, out_of_memory
from training.loop.run_folder import (
    CONFIG,
    LIPS_HELD_OUT,
    best_checkpoint,
    best_metric,
    checkpoints,
    read_metrics,
    read_scores,
)
from training.loop.run_log import Log, say
from training.loop.sample_clips import SampleClips
from training.loop.step import Draws, train_step
from training.loop.validate import validate, without_training
from training.loop.warm_start import describe_unused, init_from
from training.model.deepspeed_state import ShardedOptimizer, configure_deepspeed
from training.model.ema import averaged, new_ema
from training.model.full_finetune import PATTERNS, check_samples
from training.model.shard_frozen import average_gradients, fsdp_requested, shard_frozen
from training.model.trainable import make_trainable, new_optimizer
from wanavatar_lab.errors import INTERRUPTED, LabError
from wanavatar_lab.files import report_write_errors, write_text
from wanavatar_lab.memory.machine import peak_host_bytes
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import missing_weights

LOADING = timedelta(hours=2)  # that processes wait for the one that loads the network last


def train(config: TrainingConfig, network: WanS2VTransformer3DModel | None = None) -> dict[str, float]:
    """Train to the last step, in this process or as one of several.

    Args:
        network: without adapters; None loads the profile's.

    Returns:
        The relative change of held-out errors against the base, by part; -0.2 is 20 % less.

    Raises:
        LabError: the run cannot start or resume, or memory or disk space ran out; see the message. It is also noted in
            the run's `failures.jsonl`.
        NotFinite: the gradients of too many steps in a row were not finite.
        Stopped: SIGTERM was received, or Ctrl-C pressed; the last completed step is saved.
    """
    try:
        with report_write_errors(settings={"--run": config.run, "--samples": config.samples}):
            return _train(config, network)
    except (Stopped, AlreadyRunning):  # no failures of this run
        raise
    except Exception as error:
        rank, processes = (int(os.environ.get(name, of_one)) for name, of_one in (("RANK", "0"), ("WORLD_SIZE", "1")))
        known = out_of_memory(error, config, processes) or error
        why = str(known) if isinstance(known, LabError) else f"{type(error).__name__}: {error}"
        note_failure(config.run, why, rank)
        if known is error:
            raise
        raise known from error


def _train(config: TrainingConfig, network: WanS2VTransformer3DModel | None) -> dict[str, float]:
    if config.deterministic:
        # cuBLAS reads it at its first use; without it, deterministic torch refuses matrix products on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    join_freed_memory()
    set_seed(config.seed)
    # no autocast: the network computes in its own dtype, see training.model.trainable
    accelerator = Accelerator(gradient_accumulation_steps=config.gradient_accumulation_steps, mixed_precision="no")
    is_first: bool = accelerator.is_main_process
    # The timeout of the processes' own group counts from the first that waits, and is short, so that a lost process is
    # noticed. To load the network may take longer on one than on another, from a slow disk for example: for that they
    # wait in a group of their own.
    loading: Any = dist.new_group(backend="gloo", timeout=LOADING) if accelerator.num_processes > 1 else None
    if is_first:
        config.run.mkdir(parents=True, exist_ok=True)
    with training_in(config.run, config.samples) if is_first else nullcontext():
        # what is wrong with them is said before the network is loaded, which takes minutes
        samples = Samples(config.samples), Samples(config.samples, held_out=True)
        network = network or network_of(config.profile)
        if loading:
            dist.barrier(loading)
            dist.destroy_process_group(loading)
        trainer = Trainer(config, *samples, network, accelerator)
        if is_first:  # and only now, when it is known that these settings can resume the run
            write_text(config.run / CONFIG, config.model_dump_json(indent=1) + "\n")
        changes = trainer.run()
    accelerator.end_training()
    return changes


def network_of(profile: str) -> WanS2VTransformer3DModel:
    """The speech_to_video network of a profile, in float32 for the toy one and in bfloat16 for the published one.

    Raises:
        WeightsError: its weights are not installed.
    """
    folder = PROFILES[profile].weights(SpeechToVideo.stage, read_settings().weights_dir)
    if not folder.is_dir():
        raise missing_weights(SpeechToVideo.stage, folder)
    # the published folder has the network at its top, a diffusers folder in a subfolder
    place = folder / "transformer" if (folder / "transformer").is_dir() else folder
    dtype = torch.float32 if profile == "pocket" else torch.bfloat16
    return WanS2VTransformer3DModel.from_official(place, torch_dtype=dtype)


class Trainer:
    """A run on this process: its network, samples, optimizer and log, at step `step`.

    Args:
        config: of the run.
        samples, held_out: to train on, and to validate on.
        network: without adapters.
        accelerator: of this process.
    """

    def __init__(
        self,
        config: TrainingConfig,
        samples: Samples,
        held_out: Samples,
        network: WanS2VTransformer3DModel,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.accelerator, self.network = config, accelerator, network
        device, processes = accelerator.device, accelerator.num_processes

        # data
        self.samples, self.held_out = samples, held_out
        for each in (samples, held_out):
            each.check_network(network.config, config.profile)
        check_samples(config.part_rates, {*samples.buckets, *held_out.buckets})
        sizes = config.train_batch_size, config.gradient_accumulation_steps
        self.order = Order(self.samples.buckets, *sizes, processes, config.seed)
        self.steps = config.max_train_steps or self.order.steps_of(config.num_train_epochs)

        self.compiled_before = compiled_graphs()
        shapes = sorted(Counter(self.samples.buckets).values(), reverse=True)
        say(
            accelerator,
            f"{len(self.samples)} samples in {len(shapes)} shapes ({', '.join(map(str, shapes))}), "
            f"{self.order.samples_a_step} a step, {self.steps} steps",
        )

        # what is trained
        uses_zero = accelerator.state.deepspeed_plugin is not None
        _check_memory_settings(config, accelerator.distributed_type != DistributedType.NO, uses_zero)
        if not config.swap_blocks:
            network.to(device)
        self.trainable = make_trainable(network, config, device)
        if self.trainable.attention:
            say(accelerator, f"self-attention by {self.trainable.attention}")
        self.trained = self.trainable.parameters
        newest = checkpoints(config.run)[-1:]
        seen = dict.fromkeys(gather_object([newest[0].name if newest else "none"]))
        if len(seen) > 1:
            raise LabError(
                f"Processes see different checkpoints in {config.run}: {', '.join(seen)}. Put the run into a folder "
                "that all machines share."
            )
        if config.init_from and not newest:
            for name, unused in init_from(config.init_from, network, self.trainable.origins).items():
                say(accelerator, f"{config.init_from / name}: {describe_unused(unused)}")
        # in the order of the network, which a checkpoint has too
        self.averaged = list(trained_parameters(network).values())
        self.ema = new_ema(self.averaged, config.ema_decay) if config.ema_decay else None
        network.train()

        # the optimizer, and what the processes share of it and of the network
        adamw = new_optimizer(self.trainable.groups, config.optimizer, config.weight_decay, config.learning_rate)
        configure_deepspeed(accelerator, *sizes, config.max_grad_norm)
        self.is_sharded = fsdp_requested()
        if self.is_sharded:
            share, whole = shard_frozen(network, self.trained, device, processes)
            say(accelerator, f"each process has {share / 1e6:,.2f} of {whole / 1e6:,.2f} MB of frozen weights")
            self.wrapped, self.optimizer = network, accelerator.prepare_optimizer(adamw)
        else:
            self.wrapped, self.optimizer = accelerator.prepare(network, adamw)
        self.zero = ShardedOptimizer(self.optimizer.optimizer, self.trained) if uses_zero else None
        # the one whose state a checkpoint has: torch's own, or the whole of DeepSpeed's shares
        self.whole_optimizer: Any = self.zero or getattr(self.optimizer, "optimizer", self.optimizer)

        # resume. "samples_a_step" is compared, since processes and accumulation may be exchanged for one another
        self.facts = config.model_dump(mode="json", include=FIXED_ON_RESUME)
        # it is not read again, so that another one would not be what the run began with
        self.facts["init_from"] = str(config.init_from.absolute()) if config.init_from else None
        self.facts |= {"samples": len(self.samples), "samples_hash": self.samples.hash}
        self.facts |= {"parts": sorted(config.part_rates), "samples_a_step": self.order.samples_a_step}
        self.step, self.saved, began = 0, 0, time.monotonic()
        self.skipped = self.skipped_in_a_row = 0  # steps whose gradient was not finite; in them nothing is learnt
        if newest:
            self.step = load_checkpoint(newest[0], network, self.whole_optimizer, self.facts, self.ema)
            self.saved, self.skipped = self.step, skipped_steps(newest[0])
            if self.zero and self.step > self.skipped:
                self.zero.scatter(self.step - self.skipped)
            say(accelerator, f"resumed from step {self.step} of {self.steps}")
        self.log = Log(config.run, self.step) if accelerator.is_main_process else None
        if self.log:
            self.log.show_config(self.step, config.model_dump(mode="json"))
        if newest and self.log:
            self.log.write("resume", self.step, {"seconds": time.monotonic() - began})

    def run(self) -> dict[str, float]:
        """The loop; see `train` for what it returns and raises."""
        config, clips = self.config, None
        if config.sample_every_n_steps:
            clips = SampleClips(config, self.held_out, self.accelerator, self.log)
        if held_out := len(self.held_out):  # minutes, in which nothing else is said
            say(self.accelerator, f"validates the base on {held_out} held-out sample{'s' * (held_out > 1)}")
        base = self._validate(base=True)
        self._check_metric(base)
        if self.step == 0:
            self._log_errors("base", base)
        # A resumed run repeats no validation and no clips of the step that it resumes at. The first process decides
        # for all, since they compute together and only its files count.
        validated = self.step == 0 or any(line["step"] == self.step for line in read_metrics(config.run, "validation"))
        sampled = self.step > 0 and clips is not None and clips.is_made(self.step)
        ((validated, sampled),) = broadcast_object_list([(validated, sampled)])

        with StopRequest(self.accelerator) as stop:
            while True:
                is_last = self.step >= self.steps  # more, if it resumes with fewer steps than it had
                is_due = config.validation_steps and self.step % config.validation_steps == 0
                if is_due and not (is_last or validated):  # the last step is validated below
                    self._log_errors("validation", self._validate())
                    validated = True
                if clips and (is_last or self.step % config.sample_every_n_steps == 0) and not sampled:
                    with averaged(self.ema, self.averaged):
                        clips.make(self.network, self.step)
                if is_last or self._has_stalled():
                    break
                self._train_step(stop)
                if self.step % config.checkpointing_steps == 0 or self.step == self.steps:
                    self._checkpoint()
                validated = sampled = False

        if self.step > self.saved:  # it stopped early
            self._checkpoint()
        last = self._validate()
        if is_last or not validated:
            self._log_errors("validation", last)
        if self.log:
            best = self._best()  # only now it is known how good the last one is
            by = best_metric(config.run, config.metric_for_best_model, config.greater_is_better)
            remove_old(config.run, config.checkpoints_total_limit, best)
            if best and by:
                say(self.accelerator, f"the best checkpoint by {by[0]} is {best.name}")
            self.log.close()
        return {part: last[part] / base[part] - 1 for part in ("lip", "face", "background") if part in base}

    def _train_step(self, stop: "StopRequest") -> None:
        """One optimizer step: micro-batches, clipping, AdamW, EMA, log."""
        config, accelerator, began = self.config, self.accelerator, time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step, self.steps) * group["share"]

        micro_batches, lost = [], []
        for micro in range(config.gradient_accumulation_steps):
            if stop.received():
                self._stop()
            rows = self.order.of_micro_batch(self.step, micro, accelerator.process_index)
            number = self.order.number(self.step, micro, accelerator.process_index)
            batch = self.samples.batch(rows, accelerator.device)
            dropout = config.conditioning_dropout_prob
            draws = Draws.of(number, config.seed, batch["target"], config.flow_shift, dropout)
            with accelerator.accumulate(self.wrapped):
                losses = train_step(self.wrapped, batch, draws, config.loss, config.loss_floor)
                accelerator.backward(losses.loss)
            micro_batches.append((losses, draws))
            if not torch.isfinite(losses.loss):
                lost += [self.samples.entries[row].name for row in rows]

        if self.is_sharded:
            average_gradients(self.trained)
        # DeepSpeed has stepped and freed its gradients in the last backward pass. It clips by itself, and a gradient
        # that is not finite it leaves out by itself too, and gives its norm as infinite
        norms = gradient_norms(self.network) if self.log and not self.zero else {}
        if self.zero:
            norm = float(self.wrapped.get_global_grad_norm())
        else:
            norm = float(accelerator.clip_grad_norm_(self.trained, config.max_grad_norm))
        # all processes decide alike: one that stepped alone would train another network from here on
        gathered = gather_object([(norm, lost, step_values(micro_batches))])
        is_finite = all(math.isfinite(each) for each, _, _ in gathered)
        if is_finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if is_finite and self.ema:
            self.ema.step(self.averaged)

        values = means([each for _, _, each in gathered])
        values |= norms | {"gradient_norm": norm, "seconds": time.monotonic() - began}
        self.skipped += not is_finite
        self.skipped_in_a_row = 0 if is_finite else self.skipped_in_a_row + 1
        said = f"loss {values['loss']:.4f}"
        if not is_finite:
            names = ", ".join(dict.fromkeys(name for _, each, _ in gathered for name in each))
            said = f"skipped: its gradient is not finite (norm {norm})"
            said += f", nor the loss of its micro-batches with {names}" if names else ""
        values |= {"skipped_steps": self.skipped, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        if config.compile:  # a minute for each: one for each shape and each way in which blocks are computed
            values["compiled_graphs"] = compiled_graphs() - self.compiled_before
        if self.log:
            self.log.write("train", self.step, values | peak_memory(accelerator.device))
        say(accelerator, f"step {self.step} of {self.steps}  {said}")
        if self.skipped_in_a_row >= config.skipped_steps_limit:
            self._give_up(said)

    def _give_up(self, said: str) -> None:
        """Raise after too many skipped steps in a row; the weights are those of the step before them."""
        saved = [folder.name for folder in reversed(checkpoints(self.config.run))]
        resumes = f"The same command resumes from {saved[0]}, which is sound" if saved else "Then start it again"
        further = f"; if this comes again, remove that to go back to {saved[1]}" if saved[1:] else ""
        raise NotFinite(
            f"{self.skipped_in_a_row} steps in a row were skipped, so the training ends. Step {self.step} was {said}. "
            f"Lower learning_rate ({self.config.learning_rate:g}), or leave out samples that are named here. "
            f"{resumes}{further}."
        )

    def _validate(self, base: bool = False) -> dict[str, float]:
        """Held-out errors of the averaged weights, or of the network before training; empty if nothing is held out."""
        if not len(self.held_out):
            return {}
        weights = without_training(self.network, self.trainable.origins) if base else averaged(self.ema, self.averaged)
        with weights:
            return validate(self.network, self.held_out, self.config.flow_shift, self.accelerator.device)

    def _check_metric(self, base: Mapping[str, float]) -> None:
        """Refuse a number of validation that this run never computes, as one that is spelt wrong.

        Raises:
            LabError: no checkpoint would be the best by it, and the run would never stop early.
        """
        metric, stops = self.config.metric_for_best_model, self.config.early_stopping_patience > 0
        if metric == "auto" and stops and not self.config.sample_every_n_steps:
            metric = LIPS_HELD_OUT
        kind, _, name = (metric or "").partition("/")
        if kind == "validation" and name not in base:
            known = ", ".join(f"validation/{part}" for part in base if "/" not in part)
            how = (
                f"Set metric_for_best_model to one of {known}."
                if known
                else "No clip is held out: prepare with --hold-out 1, or set metric_for_best_model to null and "
                "early_stopping_patience to 0."
            )
            raise LabError(f"This run computes no {metric} to compare its checkpoints by. {how}")

    def _log_errors(self, kind: str, errors: Mapping[str, float]) -> None:
        if self.log and errors:
            self.log.write(kind, self.step, errors)

    def _checkpoint(self) -> None:
        config, began = self.config, time.monotonic()
        self.accelerator.wait_for_everyone()
        if self.zero and self.step > self.skipped:  # before its first step the optimizer has no state
            self.zero.gather()
        if self.accelerator.is_main_process:
            state = self.network, self.whole_optimizer, self.facts
            limit, origins = config.checkpoints_total_limit, self.trainable.origins
            save_checkpoint(config.run, self.step, *state, limit, origins, self.ema, self.skipped, self._best())
        self.accelerator.wait_for_everyone()
        self.saved = self.step
        if self.log:
            self.log.write("checkpoint", self.step, {"seconds": time.monotonic() - began})

    def _best(self) -> Path | None:
        known = best_metric(self.config.run, self.config.metric_for_best_model, self.config.greater_is_better)
        return best_checkpoint(self.config.run, *known) if known else None

    def _has_stalled(self) -> bool:
        """Whether the last `early_stopping_patience` scores are no better than the best before; alike for all."""
        config = self.config
        known = best_metric(config.run, config.metric_for_best_model, config.greater_is_better)
        if not (config.early_stopping_patience and known):
            return False
        metric, greater = known
        scores = [*read_scores(config.run, metric).values()]
        best = scores.index((max if greater else min)(scores)) if scores else 0
        (stalled,) = broadcast_object_list([len(scores) - 1 - best >= config.early_stopping_patience])
        if stalled:
            say(self.accelerator, f"stops early at step {self.step}: {metric} gets no better")
        return bool(stalled)

    def _stop(self) -> None:
        """Save the last completed step and raise; micro-batches of the next one are computed again when it resumes."""
        if self.step > self.saved:
            self._checkpoint()
        if self.log:
            self.log.close()
        where = f"after step {self.step} of {self.steps}, which is saved" if self.step else "before its first step"
        raise Stopped(f"The run was stopped {where}. The same command resumes it.")


class Stopped(LabError):
    """SIGTERM or Ctrl-C ended the run, and its last completed step is saved."""


class NotFinite(LabError, FloatingPointError):
    """The gradients of too many steps in a row were not finite; nothing of them is in the weights."""


def _check_memory_settings(config: TrainingConfig, shared: bool, uses_zero: bool) -> None:
    """Refuse settings that save memory where they would not work.

    Args:
        shared: several processes train together.
        uses_zero: they share the optimizer's state by DeepSpeed.

    Raises:
        LabError: there are some.
    """
    if config.swap_blocks and shared:
        raise LabError(
            f"swap_blocks is {config.swap_blocks}, which works on one GPU only: set it to 0, or start one process."
        )
    if config.swap_blocks and not config.gradient_checkpointing:
        raise LabError(
            f"swap_blocks is {config.swap_blocks} without gradient_checkpointing, so that the backward pass would need "
            "all weights on the GPU: set gradient_checkpointing to true."
        )
    if uses_zero and config.optimizer != "adamw":
        raise LabError(f"optimizer is {config.optimizer}, and DeepSpeed shares adamw only: set it to adamw.")


class StopRequest:
    """Whether this process, or another of the same run, was sent SIGTERM or the SIGINT of Ctrl-C.

    Python runs a signal handler between two of its own operations, so a process that waits for another one handles the
    signal late. All processes therefore agree at the same points of the loop: otherwise one would leave while the
    others wait for its gradients. That can take as long as a micro-batch or the sample clips; a second Ctrl-C does not
    wait for it, and loses what is not saved.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._received = accelerator, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python sets handlers in the main thread only; in another one SIGTERM ends the process at once
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._receive) for each in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, before in self._before.items():
            if before is not None:
                signal.signal(each, before)

    def received(self) -> bool:
        """Whether to stop now; every process of the run has to call it."""
        if self._accelerator.num_processes == 1:
            return self._received
        flag = torch.tensor([float(self._received)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, "sum").item() > 0)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received:
            raise KeyboardInterrupt
        self._received = True
        if number == signal.SIGINT and self._accelerator.is_main_process:
            # not by print, which the signal may have interrupted
            os.write(2, b"\nThe last completed step is being saved. Ctrl-C once more ends the run at once.\n")


# --- what is logged of a step

Values = Mapping[str, Sequence[float]]

# by parameter name, of a LoRA and of parts that are trained in full
_GROUPS = PATTERNS | {
    "self_attention": re.compile(r"blocks\.\d+\.attn1\."),
    "cross_attention": re.compile(r"blocks\.\d+\.attn2\."),
    "feed_forward": re.compile(r"blocks\.\d+\.ffn\."),
}


def step_values(micro_batches: Iterable[tuple[Losses, Draws]]) -> Values:
    """All values of a step on this process, by name: the loss of each micro-batch, all others of each sample.

    They are NaN for what a sample does not have, lips for example.
    """
    values: dict[str, list[float]] = {}
    for losses, draws in micro_batches:
        values.setdefault("loss", []).append(float(losses.loss.detach()))
        for i, branch in enumerate(losses.branch.tolist()):
            quarter = math.floor(float(draws.sigma[i]) * 4) / 4
            fields = ("error", "face", "lip", "background", "motion", "fell_back")
            named = {name: getattr(losses, name)[i] for name in fields}
            named |= {"face_area": losses.area[i, 0], "lip_area": losses.area[i, 1]}
            parts = {"": total(losses.main[i], losses.motion_loss[i])}
            parts |= {"_main": losses.main[i], "_motion": losses.motion_loss[i]}
            named |= {f"loss{part}": value for part, value in parts.items() if part}
            named |= {f"loss_of_branch_{BRANCHES[branch]}{part}": value for part, value in parts.items()}
            named[f"error_of_branch_{BRANCHES[branch]}"] = losses.error[i]
            named[f"error_from_sigma_{quarter:.2f}"] = losses.error[i]
            for name, value in named.items():
                values.setdefault(name, []).append(float(value))
    return values


def means(by_process: Sequence[Values]) -> dict[str, float]:
    """Means over all processes. NaN and infinite values are left out, but in the loss, which shows them."""
    names = dict.fromkeys(name for values in by_process for name in values)
    joined = {name: [value for values in by_process for value in values.get(name, ())] for name in names}
    known = {name: [value for value in each if name == "loss" or math.isfinite(value)] for name, each in joined.items()}
    return {name: sum(each) / len(each) for name, each in known.items() if each}


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory so far in GB: of tensors on the GPU, and of this process in CPU RAM."""
    found = {"peak_cpu_memory_gb": peak_host_bytes() / 1e9}
    if device.type == "cuda":
        found["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def compiled_graphs() -> int:
    """How many graphs torch.compile has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def gradient_norms(network: nn.Module) -> dict[str, float]:
    """The norm of the gradient of every part of the network that has one, before clipping."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            group = next((group for group, pattern in _GROUPS.items() if pattern.match(name)), "the_rest")
            gradients.setdefault(group, []).append(parameter.grad)
    return {f"gradient_norm_of_{group}": float(get_total_norm(each)) for group, each in gradients.items()}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.splitlines()[0])
    add_config(parser)
    try:
        changes = train(config_of(parser.parse_args(argv)))
    except Stopped as stopped:
        print(stopped, flush=True)
        raise SystemExit(STOP_CODE) from stopped
    except KeyboardInterrupt as interrupt:
        raise SystemExit(INTERRUPTED) from interrupt
    except (LabError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(changes))


if __name__ == "__main__":
    main()

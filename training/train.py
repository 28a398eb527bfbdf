"""Fine-tune the network that speaks to one person.

    accelerate launch -m training.train --config run.json
    python -m training.train --recipe pocket --samples data/me/samples --run runs/training/me

One process or several, as accelerate starts them. The same command again goes on from the last checkpoint; on one
device and in deterministic mode the run that goes on is, bit by bit, the run that was never broken off.
"""

import argparse
import json
import math
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import broadcast_object_list, gather_object, set_seed  # type: ignore[import-untyped]

from training.config.arguments import add_config, config_of
from training.config.config import DECIDES, TrainingConfig
from training.data.batch_order import Order
from training.data.samples import Samples
from training.launch.folder_locks import training_in
from training.launch.supervisor import CODE, Stopped, StopRequest
from training.loop.checkpoint import load_checkpoint, save_checkpoint, trained_parameters
from training.loop.run_folder import CONFIG, checkpoints, read_metrics
from training.loop.run_log import Log
from training.loop.sample_clips import SampleClips
from training.loop.step import Draws, train_step
from training.loop.step_metrics import gradient_norms, means, observed
from training.loop.validate import Validation, validate, without_training
from training.loop.warm_start import begin_with, left_out
from training.model.deepspeed_state import ShardedOptimizer, set_up_zero
from training.model.ema import Average
from training.model.full_finetune import check_samples
from training.model.network import network_of
from training.model.shard_frozen import average_gradients, is_to_be_spread, spread_frozen
from training.model.trainable import make_trainable
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import write_text
from wanavatar_lab.s2v import WanS2VTransformer3DModel


class Trainer:
    """A run: its network, samples and optimizer, on the devices that accelerate has.

    Args:
        config: what the run is told.
        network: without an adapter.
        accelerator: of this process.
    """

    def __init__(self, config: TrainingConfig, network: WanS2VTransformer3DModel, accelerator: Accelerator) -> None:
        self.config, self.accelerator, self.network = config, accelerator, network
        self.samples, self.held_out = Samples(config.samples), Samples(config.samples, held_out=True)
        check_samples(config.part_rates, {*self.samples.buckets, *self.held_out.buckets})
        world = accelerator.num_processes
        self.order = Order(self.samples.buckets, config.batch, config.accumulation, world, config.seed)
        self.steps = config.steps or config.epochs * self.order.steps_an_epoch
        network.to(accelerator.device)
        self.trainable = make_trainable(network, config)
        self.trained = self.trainable.parameters
        last = self._last_checkpoint()
        if config.start and not last:
            for name, left in begin_with(config.start, network, self.trainable.origins).items():
                accelerator.print(f"{config.start / name}: {left_out(left)}")
        self.average = Average(trained_parameters(network), config.ema) if config.ema else None
        network.train()
        fused = accelerator.device.type == "cuda"
        optimizer = torch.optim.AdamW(
            self.trainable.groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused
        )
        set_up_zero(accelerator, config.batch, config.accumulation, config.clip)
        self.spread = is_to_be_spread()
        if self.spread:
            share, whole = spread_frozen(network, self.trained, accelerator.device, world)
            accelerator.print(f"each process has {share / 1e6:,.2f} of {whole / 1e6:,.2f} MB of frozen weights")
            self.wrapped, self.optimizer = network, accelerator.prepare_optimizer(optimizer)
        else:
            self.wrapped, self.optimizer = accelerator.prepare(network, optimizer)
        self.sharded = None
        if accelerator.state.deepspeed_plugin is not None:
            self.sharded = ShardedOptimizer(self.optimizer.optimizer, self.trained)
        self.step, self.saved, began = 0, 0, time.monotonic()
        if last:
            self.step = load_checkpoint(last[0], network, self._inner_optimizer, self._facts, self.average)
            self.saved = self.step
            if self.sharded:
                self.sharded.scatter(self.step)
            accelerator.print(f"goes on from step {self.step} of {self.steps}")
        self.log = Log(config.run, self.step) if accelerator.is_main_process else None
        if last and self.log:
            self.log.write("resume", self.step, {"seconds": time.monotonic() - began})

    def _last_checkpoint(self) -> list[Path]:
        """The newest one, if there is any, which all processes have to see."""
        last = checkpoints(self.config.run)[-1:]
        seen = dict.fromkeys(gather_object([last[0].name if last else "none"]))
        if len(seen) > 1:
            raise LabError(
                f"Processes see different checkpoints in {self.config.run}: {', '.join(seen)}. Put the run into a "
                "folder that all machines share."
            )
        return last

    @property
    def _facts(self) -> dict[str, Any]:
        """What has to be the same where a run goes on."""
        told = self.config.model_dump(mode="json", include=DECIDES)
        parts = sorted(self.config.part_rates)
        samples = {"samples": len(self.samples), "samples_hash": self.samples.hash}
        return told | samples | {"parts": parts, "samples_a_step": self.order.samples_a_step}

    @property
    def _inner_optimizer(self) -> Any:
        return self.sharded or getattr(self.optimizer, "optimizer", self.optimizer)

    def run(self) -> dict[str, float]:
        """Train to the last step; returns how the errors of held-out samples changed against the base.

        Raises:
            FloatingPointError: the loss is no number any more.
            Stopped: SIGTERM came; the last whole step is saved.
        """
        base = self._validate(base=True)
        if self.step == 0:
            self._save_validation("base", 0, base)
        with StopRequest(self.accelerator) as stop:
            self._steps(stop)
        found = self._validate()
        self._save_validation("validation", self.step, found)
        if self.log:
            self.log.close()
        return {part: found.change(base, part) for part in ("lip", "face", "background") if part in base.errors}

    def _steps(self, stop: StopRequest) -> None:
        config = self.config
        sampled = SampleClips(config, self.held_out, self.accelerator, self.log) if config.sample_every else None
        self._look(sampled, *self._seen_before(sampled))
        while self.step < self.steps:
            self._one_step(stop)
            if self.step % config.checkpoint_every == 0 or self.step == self.steps:
                self._checkpoint()
            self._look(sampled)

    def _look(self, sampled: SampleClips | None, validated: bool = False, shown: bool = False) -> None:
        """Validate and make sample clips where it is time to, and it is not done."""
        config, is_last = self.config, self.step == self.steps
        if config.validate_every and self.step % config.validate_every == 0 and not (is_last or validated):
            self._save_validation("validation", self.step, self._validate())
        if sampled and (self.step % config.sample_every == 0 or is_last) and not shown:
            with self.average.applied() if self.average else nullcontext():
                sampled.make(self.network, self.step)

    def _seen_before(self, sampled: SampleClips | None) -> tuple[bool, bool]:
        """Whether the step that the run goes on from was validated and shown, before what broke it off."""
        if self.step == 0:
            return True, False  # the base was validated
        validated = any(line["step"] == self.step for line in read_metrics(self.config.run, "validation"))
        found = [(validated, sampled is not None and sampled.is_made(self.step))]
        # as the first process sees it: all have to compute alike
        (answer,) = broadcast_object_list(found)
        return answer

    def _one_step(self, stop: StopRequest) -> None:
        began = time.monotonic()
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step, self.steps) * group["share"]
        all_losses = []
        for micro in range(config.accumulation):
            if stop.heard():
                self._leave()
            rows = self.order.of_micro_batch(self.step, micro, accelerator.process_index)
            number = self.order.number(self.step, micro, accelerator.process_index)
            batch = self.samples.batch(rows, accelerator.device)
            draws = Draws.of(number, config.seed, batch["target"], config.shift, config.dropout)
            with accelerator.accumulate(self.wrapped):
                losses = train_step(self.wrapped, batch, draws, config.loss, config.floor)
                accelerator.backward(losses.loss)
            all_losses.append((losses, draws))
        if self.spread:
            average_gradients(self.trained)
        # of DeepSpeed's nothing is left: it has made its step with the last backward pass
        norms = gradient_norms(self.network) if self.log and not self.sharded else {}
        norm = accelerator.clip_grad_norm_(self.trained, config.clip)
        if self.sharded:  # which clips by itself
            norm = self.wrapped.get_global_grad_norm()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.average:
            self.average.update(self.step)
        values = means(gather_object([observed(all_losses)]))
        values |= norms | {"gradient_norm": float(norm), "seconds": time.monotonic() - began}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"The loss is {values['loss']} at step {self.step}: lower the learning rate.")
        if self.log:
            self.log.write("train", self.step, values | {"learning_rate": self.optimizer.param_groups[0]["lr"]})
            self.accelerator.print(f"step {self.step} of {self.steps}  loss {values['loss']:.4f}", flush=True)

    def _validate(self, base: bool = False) -> Validation:
        if not len(self.held_out):
            return Validation({})
        arguments = (self.held_out, self.config.shift, self.accelerator.device)
        if base:
            with without_training(self.network, self.trainable.origins):
                return validate(self.network, *arguments)
        with self.average.applied() if self.average else nullcontext():
            return validate(self.network, *arguments)

    def _save_validation(self, kind: str, step: int, found: Validation) -> None:
        if self.log and found.errors:
            self.log.write(kind, step, found.errors)

    def _leave(self) -> None:
        """Save the last whole step, and end; what of the next one is computed already is computed again."""
        saved = self.step > 0
        if self.step > self.saved:
            self._checkpoint()
        if self.log:
            self.log.close()
        where = f"after step {self.step} of {self.steps}, which is saved" if saved else "before its first step"
        raise Stopped(f"The run was stopped {where}. The same command goes on from there.")

    def _checkpoint(self) -> None:
        began = time.monotonic()
        self.accelerator.wait_for_everyone()
        if self.sharded:
            self.sharded.gather()
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.config.run,
                self.step,
                self.network,
                self._inner_optimizer,
                self._facts,
                self.config.keep,
                self.trainable.origins,
                self.average,
            )
        self.accelerator.wait_for_everyone()
        self.saved = self.step
        if self.log:
            self.log.write("checkpoint", self.step, {"seconds": time.monotonic() - began})


def train(config: TrainingConfig, network: WanS2VTransformer3DModel | None = None) -> dict[str, float]:
    """Train as `config` says, in this process or as one of several; see `Trainer.run`."""
    if config.deterministic:
        # cuBLAS reads it when it is first used; without it torch refuses every product on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    set_seed(config.seed)
    # the network computes in its own type, see training.model.trainable
    accelerator = Accelerator(gradient_accumulation_steps=config.accumulation, mixed_precision="no")
    if accelerator.is_main_process:
        config.run.mkdir(parents=True, exist_ok=True)
    with training_in(config.run, config.samples) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            write_text(config.run / CONFIG, config.model_dump_json(indent=1) + "\n")
        changes = Trainer(config, network or network_of(config.profile), accelerator).run()
    accelerator.end_training()
    return changes


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.splitlines()[0])
    add_config(parser)
    try:
        print(json.dumps(train(config_of(parser.parse_args(argv)))))
    except Stopped as stopped:
        print(stopped, flush=True)
        raise SystemExit(CODE) from stopped
    except (LabError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

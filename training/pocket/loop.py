"""The training loop shared by all toy models: time budget, learning-rate schedule, EMA, log, checkpoint, resume.

A run folder holds the checkpoint `state-*.safetensors` (weights, their EMA, the optimizer's moments) with `state.json`
(step and seconds), and TensorBoard event files. The checkpoint is split into files of at most `LARGEST_FILE` bytes.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from training.pocket.ranks import Ranks

LARGEST_FILE = 14 << 20  # bytes; small files are easy to copy from one machine to another
AGREE_EVERY = 10  # steps between two broadcasts of the first rank's clock, since every broadcast synchronises all ranks


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        steps: maximum number of steps of the whole training, over all sessions.
        total_minutes: maximum duration of the whole training.
        minutes: maximum duration of this session; run the same command again to resume.
        learning_rate: peak after warm-up; decays along a cosine to a twentieth over the whole training.
        warm_up: steps of linear warm-up, repeated after each resume.
        average: decay of the EMA weights, ramped up over the first steps.
        clip: maximum gradient norm.
    """

    steps: int
    total_minutes: float
    minutes: float
    learning_rate: float
    warm_up: int = 100
    average: float = 0.999
    clip: float = 1.0

    @classmethod
    def of(cls, arguments: argparse.Namespace, **changes: float) -> "Plan":
        """Build the plan from the options of `add_plan_arguments`; `changes` sets what is specific to one training."""
        times = (arguments.total_minutes, arguments.minutes)
        return cls(arguments.steps, *times, arguments.learning_rate, **changes)  # type: ignore[arg-type]


def add_plan_arguments(
    parser: argparse.ArgumentParser, *, minutes: float, steps: int, batch: int, learning_rate: float
) -> None:
    """Add the options shared by all trainings, with this training's defaults."""
    parser.add_argument("--run", type=Path, required=True, help="run folder; an existing run is resumed")
    parser.add_argument("--minutes", type=float, default=minutes, help="limit of this session, without preparation")
    parser.add_argument("--total-minutes", type=float, default=minutes, help="maximum minutes of the whole training")
    parser.add_argument("--steps", type=int, default=steps, help="maximum steps of the whole training")
    parser.add_argument("--batch", type=int, default=batch, help="batch size of each process")
    parser.add_argument("--learning-rate", type=float, default=learning_rate)


class Training:
    """Trains one model, with EMA weights and checkpoints.

    Args:
        model: its parameters with `requires_grad` are trained in place.
        folder: run folder; an existing checkpoint in it is resumed.
        plan: see `Plan`.
        betas, weight_decay: of AdamW.
        ranks: the data-parallel processes; the first rank writes files.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        plan: Plan,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    ) -> None:
        self.model, self.folder, self.plan, self.ranks = model, folder, plan, ranks
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        fused = next(iter(self.parameters.values())).is_cuda
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=plan.learning_rate, betas=betas, weight_decay=weight_decay, fused=fused
        )
        self.step, self.seconds = 0, 0.0
        self.resumed_at = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.json").is_file():
            self._resume()
        self.log = SummaryWriter(folder) if ranks.first else None

    def run(
        self, loss_of: Callable[[int], Mapping[str, Tensor]], every: int = 50, save_every_seconds: float = 120.0
    ) -> None:
        """Train until the plan's steps or minutes are used up, then save a checkpoint.

        Args:
            loss_of: `loss_of(number)` returns named scalars; "loss" is minimised. `number` is the step, made unique to
                the rank when several processes train together, and serves as the seed of the batch.
            every: steps between log lines.
            save_every_seconds: time between checkpoints.

        Raises:
            FloatingPointError: a logged loss is not finite.
        """
        began = saved = time.monotonic()
        before = self.seconds
        spent = 0.0
        while self.progress < 1 and spent < self.plan.minutes * 60:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            losses = loss_of(self.ranks.own(self.step))
            if losses["loss"].requires_grad:  # otherwise `GraphedLoss` has set the gradients
                losses["loss"].backward()
            self.ranks.average_gradients(self.parameters.values())
            norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._update_average()
            self.step += 1
            if self.ranks.world == 1 or self.step % AGREE_EVERY == 0:
                spent = self.ranks.agreed(time.monotonic() - began)
                self.seconds = before + spent
            if self.log and self.step % every == 0:
                values = {name: float(value) for name, value in losses.items()} | {"gradient_norm": float(norm)}
                for name, value in values.items():
                    self.log.add_scalar(name, value, self.step)
                words = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
                print(f"step {self.step:6d}  {self.seconds:6.0f} s  {words}", flush=True)
                if not math.isfinite(values["loss"]):
                    raise FloatingPointError(
                        f"The loss is {values['loss']} at step {self.step}: lower the learning rate."
                    )
            if time.monotonic() - saved > save_every_seconds:
                self.save()
                saved = time.monotonic()
        self.save()

    @property
    def progress(self) -> float:
        """Fraction of the whole training that is done, 0 to 1, by steps or by time, whichever is larger."""
        return max(self.step / self.plan.steps, self.seconds / (60 * self.plan.total_minutes))

    def averaged(self) -> "AveragedWeights":
        """Context manager in which the model has its EMA weights."""
        return AveragedWeights(self.parameters, self.average)

    def save(self) -> None:
        """Write the checkpoint; `state.json` is replaced last, so an interrupted save keeps the previous one."""
        if self.log is None:
            return
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state.get(parameter, {})
            tensors[f"weight.{name}"] = parameter.detach()
            tensors[f"average.{name}"] = self.average[name].bfloat16()
            if "exp_avg" in state:
                # bfloat16 halves the files; rounding a moment changes one step's size, not the weights themselves
                tensors[f"first.{name}"] = state["exp_avg"].bfloat16()
                tensors[f"second.{name}"] = state["exp_avg_sq"].bfloat16()
        names = []
        for number, part in enumerate(_parts(tensors)):
            names.append(f"state-{self.step}-{number}.safetensors")
            save_file({name: tensor.contiguous().cpu() for name, tensor in part.items()}, self.folder / names[-1])
        fresh = self.folder / "state.json.new"
        fresh.write_text(json.dumps({"step": self.step, "seconds": round(self.seconds, 1), "files": names}) + "\n")
        fresh.replace(self.folder / "state.json")
        for old in self.folder.glob("state-*.safetensors"):
            if old.name not in names:
                old.unlink(missing_ok=True)
        self.log.flush()

    def _resume(self) -> None:
        facts = json.loads((self.folder / "state.json").read_text())
        tensors: dict[str, Tensor] = {}
        for name in facts["files"]:
            tensors.update(load_file(self.folder / name))
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.resumed_at = self.step
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                if f"first.{name}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(self.step), device=parameter.device),
                        "exp_avg": tensors[f"first.{name}"].to(parameter),
                        "exp_avg_sq": tensors[f"second.{name}"].to(parameter),
                    }
        print(f"resumed at step {self.step} after {self.seconds:.0f} s", flush=True)

    def _learning_rate(self) -> float:
        rise = min(1.0, (self.step - self.resumed_at + 1) / self.plan.warm_up)
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        return self.plan.learning_rate * rise * fall

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.plan.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)


class AveragedWeights:
    """Swaps a model's weights for their average, and back."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> None:
        self.parameters, self.average = parameters, average

    def __enter__(self) -> None:
        self.kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.average)

    def __exit__(self, *_: object) -> None:
        self._put(self.kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


def begin_with(model: nn.Module, folder: Path) -> None:
    """Put the weights that an earlier training wrote, the safetensors files of `folder`, into `model`.

    Raises:
        FileNotFoundError: there are none.
        RuntimeError: they are not this model's.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"There are no safetensors files in {folder} to begin with.")
    model.load_state_dict({name: tensor for file in files for name, tensor in load_file(file).items()})


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if part and size + tensor.nbytes > LARGEST_FILE:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += tensor.nbytes
    yield part

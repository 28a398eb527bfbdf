"""The settings of a training run: one frozen table of plain values, saved in the run's folder as `config.json`.

Fields have the names that the training scripts of diffusers use, where those have one. Names of earlier releases
(`OLD_NAMES`) are read for one more release, with a warning.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wanavatar_lab.requests.speech_to_video import FLOW_SHIFT

Mode = Literal["paper", "normalised"]  # of the loss, see `training.loop.loss`

OLD_NAMES = {
    "start": "init_from",
    "clip": "max_grad_norm",
    "schedule": "lr_scheduler",
    "warm_up": "lr_warmup_steps",
    "epochs": "num_train_epochs",
    "steps": "max_train_steps",
    "batch": "train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "shift": "flow_shift",
    "dropout": "conditioning_dropout_prob",
    "floor": "loss_floor",
    "checkpoint_every": "checkpointing_steps",
    "keep": "checkpoints_total_limit",
    "validate_every": "validation_steps",
    "sample_every": "sample_every_n_steps",
    "sample_steps": "num_inference_steps",
    "ema": "ema_decay",
    "base": "base_dtype",
    "precision": "mixed_precision",
}
_OLD_PRECISIONS = {"float32": "no", "bfloat16": "bf16"}

# a checkpoint is only resumed by a run with the same values: with others its optimizer state, its average or the order
# of its samples would not be those of one uninterrupted run
FIXED_ON_RESUME = set(
    "rank alpha train_batch_size flow_shift loss loss_floor seed conditioning_dropout_prob ema_decay base_dtype".split()
)


class TrainingConfig(BaseModel):
    """All settings of a run; two runs with the same config and the same samples are the same run.

    Attributes:
        samples: folder of encoded samples (`training.data.samples`).
        run: folder of the run: log, checkpoints, TensorBoard. The newest checkpoint in it is resumed.
        init_from: a checkpoint whose weights a new run starts with, of this project or of its predecessor
            (`training.loop.warm_start`).
        profile: whose speech_to_video network is fine-tuned.
        rank, alpha: of the LoRA; its update is scaled by alpha / rank.
        learning_rate, weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm, taken over all trained parameters.
        lr_scheduler: constant, or a cosine down to a twentieth; both after a linear rise over `lr_warmup_steps`.
        num_train_epochs: passes over all samples; `max_train_steps`, if set, decides instead.
        train_batch_size: samples of a micro-batch on one process.
        gradient_accumulation_steps: micro-batches per optimizer step on one process.
        flow_shift: shifts the noise levels of training, validation and sample clips towards more noise, as in sampling.
        conditioning_dropout_prob: share of the samples that are trained without reference, without audio and without
            text, each drawn independently; classifier-free guidance needs it.
        loss, loss_floor: see `training.loop.loss`.
        checkpointing_steps, checkpoints_total_limit: steps between checkpoints, and how many of them are kept.
        validation_steps: steps between validations; 0 for the first and the last only.
        sample_every_n_steps: steps between sample clips, which are also made before the first step and after the last;
            0 for none.
        num_inference_steps: denoising steps of a sample clip.
        audio_encoder_rate, audio_injectors_rate, patch_embedding_rate: learning rates of parts that are trained in full
            beside the LoRA (see `training.model.full_finetune`); 0 freezes a part.
        ema_decay: decay of the exponential moving average (EMA) of the trained weights, which is then what is validated
            and saved; 0 for none.
        base_dtype: how the frozen weights of the blocks are stored: "own" as they are computed, or as float8 ("fp8").
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
        keep_attention, offload: in how many blocks, from the first, the outputs of self-attention are kept, and kept
            tensors are offloaded to CPU RAM; null for all (`training.model.activations`).
        compile: compile the blocks with torch.compile.
        attention_backend: of diffusers' dispatcher, for self-attention; null for its default.
        mixed_precision: "bf16" computes the network in bfloat16, "no" in float32. Trained weights are always float32.
        deterministic: only kernels that give the same bits every time.
        seed: of everything that is drawn at random.

    Raises:
        ValueError: a value is not allowed, or a field is given by its old name too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: Path
    run: Path
    init_from: Path | None = None
    profile: str = "full"
    rank: int = Field(128, ge=1)
    alpha: float = Field(64.0, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(3e-2, ge=0)
    max_grad_norm: float = Field(0.05, gt=0)
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: int = Field(0, ge=0)
    num_train_epochs: int = Field(10, ge=1)
    max_train_steps: int | None = Field(None, ge=1)
    train_batch_size: int = Field(1, ge=1)
    gradient_accumulation_steps: int = Field(8, ge=1)
    flow_shift: float = Field(FLOW_SHIFT, gt=0)
    conditioning_dropout_prob: float = Field(0.1, ge=0, lt=1)
    loss: Mode = "normalised"
    loss_floor: float = Field(0.6, ge=0, lt=1)
    checkpointing_steps: int = Field(50, ge=1)
    checkpoints_total_limit: int = Field(2, ge=1)
    validation_steps: int = Field(0, ge=0)
    sample_every_n_steps: int = Field(0, ge=0)
    num_inference_steps: int = Field(20, ge=1)
    audio_encoder_rate: float = Field(0.0, ge=0)
    audio_injectors_rate: float = Field(0.0, ge=0)
    patch_embedding_rate: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    base_dtype: Literal["own", "fp8"] = "own"
    gradient_checkpointing: bool = True
    keep_attention: int | None = Field(0, ge=0)
    offload: int | None = Field(0, ge=0)
    compile: bool = False
    attention_backend: str | None = None
    mixed_precision: Literal["no", "bf16"] = "bf16"
    deterministic: bool = False
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, fields: Any) -> Any:
        return with_current_names(fields) if isinstance(fields, Mapping) else fields

    @property
    def part_rates(self) -> dict[str, float]:
        """Learning rates of the parts that are trained in full, by name; see `training.model.full_finetune`."""
        parts = ("audio_encoder", "audio_injectors", "patch_embedding")
        return {part: rate for part in parts if (rate := getattr(self, f"{part}_rate"))}

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step number `step`, from 0, of `steps`."""
        rise = min(1.0, (step + 1) / self.lr_warmup_steps) if self.lr_warmup_steps else 1.0
        if self.lr_scheduler == "constant":
            return self.learning_rate * rise
        return self.learning_rate * rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def with_current_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by their current names and values; one warning lists the old names among them.

    Raises:
        ValueError: a field is given by both names.
    """
    old = {name: OLD_NAMES[name] for name in fields if name in OLD_NAMES}
    if both := [f"{name} and {current}" for name, current in old.items() if current in fields]:
        raise ValueError(f"{', '.join(both)} are the same setting: remove the first, its old name.")
    if old:
        renamed = ", ".join(f"{name} is now {current}" for name, current in old.items())
        warnings.warn(
            f"Old names of training settings, read until the next release: {renamed}.", FutureWarning, stacklevel=2
        )
    found = {OLD_NAMES.get(name, name): value for name, value in fields.items()}
    if "precision" in old:
        found["mixed_precision"] = _OLD_PRECISIONS.get(fields["precision"], fields["precision"])
    return found

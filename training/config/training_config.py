"""The settings of a training run: one frozen table of plain values, saved in the run's folder as `config.json`.

Each field is also a flag of the command line (`training.config.arguments`), whose help is the text below the field.

Fields have the names that the training scripts of diffusers use, where those have one. Names of earlier releases
(`OLD_NAMES`) are read for one more release, with a warning.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import shown, suggestion
from wanavatar_lab.requests.speech_to_video import FLOW_SHIFT

Blocks = Annotated[int | None, BeforeValidator(lambda value: None if value == "all" else value)]  # None is all
Mode = Literal["paper", "normalised"]  # of the loss, see `training.loop.loss`
# What is fixed of the loss, here and not there so that a kernel can say it without torch. Each sample takes one branch:
# the whole frame, the face alone or the lips alone, most of them what speaks, as the predecessor has it.
BRANCHES = ("full", "face", "lip")
SHARES = (0.4, 0.1, 0.5)  # of the samples, by branch
MOTION_SHARE = 0.25  # of the loss, on differences between consecutive latents

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
    "profile rank alpha train_batch_size flow_shift loss loss_floor seed conditioning_dropout_prob ema_decay "
    "base_dtype optimizer".split()
)

# headings of the fields in `--help`, by the first field of each group
GROUPS = {
    "samples": "the run",
    "rank": "what is trained",
    "optimizer": "optimizer",
    "num_train_epochs": "steps and samples",
    "flow_shift": "noise and loss",
    "checkpointing_steps": "checkpoints and validation",
    "mixed_precision": "memory and speed",
}


class TrainingConfig(BaseModel):
    """All settings of a run; two runs with the same config and the same samples are the same run.

    Raises:
        ValueError: a value is not allowed, or a field is given by its old name too; see `problems_of`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    samples: Path
    """Folder of encoded samples, which training.encode wrote."""
    run: Path
    """Folder of the run: log, checkpoints, TensorBoard. The newest checkpoint in it is resumed."""
    init_from: Path | None = None
    """A checkpoint whose weights a new run starts with, of this project or of its predecessor. A run that resumes has
    to name the same one, and does not read it again."""
    profile: str = "full"
    """Whose speech_to_video network is fine-tuned: full (Wan2.2-S2V-14B) or pocket (the toy network)."""
    seed: int = Field(0, ge=0, le=2**32 - 1)  # NumPy's largest
    """Of everything that is drawn at random."""
    deterministic: bool = False
    """Use only kernels that give the same bits every time."""

    rank: int = Field(128, ge=1)
    """Rank of the LoRA."""
    alpha: float = Field(64.0, gt=0)
    """Alpha of the LoRA; its update is scaled by alpha / rank."""
    audio_encoder_rate: float = Field(0.0, ge=0)
    """Learning rate of the audio encoder, trained in full beside the LoRA; 0 freezes it."""
    audio_injectors_rate: float = Field(0.0, ge=0)
    """Learning rate of the audio injectors, trained in full beside the LoRA; 0 freezes them."""
    patch_embedding_rate: float = Field(0.0, ge=0)
    """Learning rate of the patch embedding, widened for inpainting and trained in full; 0 freezes it."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the exponential moving average (EMA) of the trained weights, which is then what is validated and saved;
    0 for none."""

    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """AdamW with its moments in float32 (adamw), or in 8 bits (adamw8bit), a quarter of the memory."""
    learning_rate: float = Field(1e-4, gt=0)
    """Learning rate of AdamW for the LoRA."""
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    """Constant, or a cosine down to a twentieth; both after a linear rise over lr_warmup_steps."""
    lr_warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(3e-2, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(0.05, gt=0)
    """Gradients are clipped to this norm, taken over all trained parameters."""
    skipped_steps_limit: int = Field(5, ge=1)
    """A step whose gradient is not finite is skipped; after so many in a row the training stops."""

    num_train_epochs: int = Field(10, ge=1)
    """Passes over all samples; max_train_steps, if set, decides instead."""
    max_train_steps: int | None = Field(None, ge=1)
    """Optimizer steps of the whole run; null for num_train_epochs."""
    train_batch_size: int = Field(1, ge=1)
    """Samples of a micro-batch on one process."""
    gradient_accumulation_steps: int = Field(8, ge=1)
    """Micro-batches per optimizer step on one process."""

    flow_shift: float = Field(FLOW_SHIFT, gt=0)
    """Shifts the noise levels of training and validation towards more noise, as in sampling. Sample clips have the
    shift of a request."""
    conditioning_dropout_prob: float = Field(0.1, ge=0, lt=1)
    """Share of the samples that are trained without reference, without audio and without text, each drawn
    independently; classifier-free guidance needs it."""
    loss: Mode = "normalised"
    """How the weights of face and lips are normalised, see training/loop/loss.py."""
    loss_floor: float = Field(0.2, ge=0, lt=1)
    """Share of the loss weight that is spread evenly over the frame, so that the rest of the picture is kept; a
    larger share leaves less to the lips, see docs/training.md."""

    checkpointing_steps: int = Field(50, ge=1)
    """Steps between checkpoints; the last step always has one."""
    checkpoints_total_limit: int = Field(2, ge=1)
    """How many of the newest checkpoints are kept; the best one is kept beside them."""
    metric_for_best_model: str | None = "auto"
    """The number of metrics.jsonl by which a checkpoint is the best, as kind/name. auto takes samples/lip_r, how well
    the lips of the sample clips follow their sound, where that is measured, and else validation/lip, the held-out error
    of the lips. null keeps the newest only. It counts for the checkpoint of the same step."""
    greater_is_better: bool | None = None
    """Whether the best checkpoint has the largest metric_for_best_model, and not the smallest; null knows it for auto
    and for samples/lip_r, and takes the smallest of other numbers."""
    early_stopping_patience: int = Field(0, ge=0)
    """Stop after so many values of metric_for_best_model in a row that are no better than the best before; 0 never."""
    validation_steps: int = Field(0, ge=0)
    """Steps between validations on held-out clips; 0 for the first and the last only."""
    sample_every_n_steps: int = Field(0, ge=0)
    """Steps between sample clips, which are also made before the first step and after the last; 0 for none."""
    num_inference_steps: int = Field(20, ge=1)
    """Denoising steps of a sample clip."""

    mixed_precision: Literal["no", "bf16"] = "bf16"
    """bf16 computes the network in bfloat16, no in float32. Trained weights are always float32."""
    base_dtype: Literal["own", "fp8"] = "own"
    """How the frozen weights of the blocks are stored: own as they are computed, or as float8 (fp8)."""
    swap_blocks: int = Field(0, ge=0)
    """In how many blocks, from the last, the frozen weights are in CPU RAM and are copied to the GPU while the block
    before computes; for one process, with gradient_checkpointing."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass instead of keeping them."""
    keep_attention: Blocks = Field(0, ge=0)
    """In how many blocks, from the first, outputs of self-attention are kept and not recomputed; all or a number."""
    offload: Blocks = Field(0, ge=0)
    """In how many blocks, from the first, kept tensors are offloaded to CPU RAM; all or a number."""
    compile: bool = False
    """Compile the blocks with torch.compile, once for every shape of samples."""
    attention_backend: str | None = None
    """Of self-attention: auto for the fastest of this GPU, sdpa, cudnn, flash3, flash4, or a name of diffusers'
    dispatcher; null for its default."""

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, fields: Any) -> Any:
        return with_current_names(fields) if isinstance(fields, Mapping) else fields

    @field_validator("profile")
    @classmethod
    def _check_profile(cls, profile: str) -> str:
        if profile not in PROFILES:
            raise ValueError(f"must be {' or '.join(PROFILES)}")
        return profile

    @field_validator("metric_for_best_model")
    @classmethod
    def _check_metric(cls, metric: str | None) -> str | None:
        if metric not in (None, "auto") and not all(metric.partition("/")):
            raise ValueError("must be auto, kind/name, as validation/lip, or null")
        return metric

    @model_validator(mode="after")
    def _check_that_metric_is_computed(self) -> Self:
        # a run without values of it would keep no best checkpoint and would never stop early, and say nothing
        metric, samples = self.metric_for_best_model, self.sample_every_n_steps
        if metric and metric.startswith("samples/") and not samples:
            raise ValueError(f"metric_for_best_model {metric} is of sample clips: set sample_every_n_steps too.")
        if self.early_stopping_patience:
            if metric is None:
                raise ValueError("early_stopping_patience needs a metric_for_best_model, which is null.")
            if not self.validation_steps and (metric.startswith("validation/") or (metric == "auto" and not samples)):
                raise ValueError("early_stopping_patience compares validations during the run: set validation_steps.")
        return self

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


def problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """What is wrong with the values of a `TrainingConfig`: (field, message); the field is empty if it is several."""
    problems = []
    for each in error.errors(include_url=False):
        name = ".".join(map(str, each["loc"]))
        if each["type"] == "missing":
            why = f"is missing; give --{name}"
        elif each["type"] == "extra_forbidden":
            why = f"is no setting; {suggestion(name, TrainingConfig.model_fields)}"
        else:
            why = each["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
            why += f" (got {shown(each['input'])})" if name else ""
        problems.append((name, why))
    return problems

"""What a training run is told: one frozen table of plain values, written into the run's folder."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["paper", "normalised"]  # of the loss, see `training.loop.loss`
# fields that have to be the same where a run goes on from a checkpoint
DECIDES = {"rank", "alpha", "batch", "shift", "loss", "floor", "seed", "dropout", "ema", "base"}


class TrainingConfig(BaseModel):
    """All that decides what a run does; two runs of one config and one set of samples are the same run.

    Attributes:
        samples: folder of encoded samples (`training.data.samples`).
        run: folder of the run: log, checkpoints, TensorBoard.
        start: a checkpoint whose weights the run begins with, of this project or of its predecessor
            (`training.loop.warm_start`).
        profile: whose speech_to_video network is fine-tuned.
        rank, alpha: of the LoRA; its update counts alpha / rank times.
        learning_rate, weight_decay, clip: of AdamW, and the largest norm of its gradient.
        schedule: constant, or a cosine down to a twentieth; both after `warm_up` steps.
        epochs: over all samples; `steps`, where given, ends the run earlier or later.
        batch, accumulation: samples of a micro-batch on one process, and micro-batches of a step.
        shift: of the noise levels towards more noise.
        dropout: share of the samples that go without reference, without audio and without text, each.
        loss, floor: see `training.loop.loss`.
        checkpoint_every, keep: steps between checkpoints, and how many are kept.
        validate_every: steps between validations; 0 for none but the first and the last.
        sample_every: steps between sample clips, made before the first step and after the last one too; 0 for none.
        sample_steps: denoising steps of a sample clip.
        audio_encoder_rate, audio_injectors_rate, patch_embedding_rate: learning rates of parts that are trained in full
            beside the LoRA (see `training.model.full_finetune`); 0 leaves a part as it is.
        ema: decay of the average of the weights, which is then what is validated and saved; 0 for none.
        base: how the frozen weights of the blocks are stored: as they are, or as float8.
        gradient_checkpointing: compute activations again instead of keeping them.
        keep_attention, offload, compile: see `training.model.activations`; the first two are numbers
            of blocks, null for all.
        attention_backend: of diffusers' dispatcher, for self-attention.
        precision: what the network computes in; what is trained is in float32.
        deterministic: only kernels that give the same bits every time.
        seed: of everything that is drawn at random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: Path
    run: Path
    start: Path | None = None
    profile: str = "full"
    rank: int = Field(128, ge=1)
    alpha: float = Field(64.0, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(3e-2, ge=0)
    clip: float = Field(0.05, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warm_up: int = Field(0, ge=0)
    epochs: int = Field(10, ge=1)
    steps: int | None = Field(None, ge=1)
    batch: int = Field(1, ge=1)
    accumulation: int = Field(8, ge=1)
    shift: float = Field(5.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    loss: Mode = "normalised"
    floor: float = Field(0.6, ge=0, lt=1)
    checkpoint_every: int = Field(50, ge=1)
    keep: int = Field(2, ge=1)
    validate_every: int = Field(0, ge=0)
    sample_every: int = Field(0, ge=0)
    sample_steps: int = Field(20, ge=1)
    audio_encoder_rate: float = Field(0.0, ge=0)
    audio_injectors_rate: float = Field(0.0, ge=0)
    patch_embedding_rate: float = Field(0.0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    base: Literal["own", "fp8"] = "own"
    gradient_checkpointing: bool = True
    keep_attention: int | None = Field(0, ge=0)
    offload: int | None = Field(0, ge=0)
    compile: bool = False
    attention_backend: str | None = None
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    deterministic: bool = False
    seed: int = Field(0, ge=0)

    @property
    def part_rates(self) -> dict[str, float]:
        """Learning rates of the parts that are trained in full, by name; see `training.model.full_finetune`."""
        rates = {
            "audio_encoder": self.audio_encoder_rate,
            "audio_injectors": self.audio_injectors_rate,
            "patch_embedding": self.patch_embedding_rate,
        }
        return {part: rate for part, rate in rates.items() if rate}

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step number `step`, from 0, of `steps`."""
        rise = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        if self.schedule == "constant":
            return self.learning_rate * rise
        return self.learning_rate * rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))

"""Distil the text_to_image transformer: four steps without guidance in place of many guided ones.

    python -m training.pocket.text_to_image.distil --run runs/training/text_to_image_distilled \\
        --pipeline runs/training/text_to_image/pipeline --out weights/pocket/text_to_image \\
        --minutes 1.2 --total-minutes 1.2

The teacher denoises from noise to pictures in small guided steps; the student, a copy of it, learns to jump in one step
from each of the pipeline's four noise levels to the next. This is progressive distillation (Salimans and Ho, 2022) with
the guidance distilled as well (Meng et al., 2023), done at once for the four final windows (PeRFlow, Yan et al., 2024):
the trajectory from a given noise is deterministic, so that a plain squared error gives sharp pictures. Run the same
command again to resume.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor
from transformers import Qwen3ForCausalLM

from training.pocket.graphs import GraphedLoss
from training.pocket.loop import Plan, Training, add_plan_arguments
from training.pocket.text_to_image.embedding import LENGTH, between, embed, flow_of, lengthened, noise_levels
from training.pocket.text_to_image.features import PATCH, counted, feature_patches, weighted
from training.pocket.text_to_image.networks import save_pipeline
from training.pocket.text_to_image.pictures import SHARES, Prompts, at_ease, padded, shapes, writers
from training.pocket.text_to_image.train import choose
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.figure import sheet_of

STEPS = 4
SAMPLED = 512  # avatars sampled for the mean positions of features
SMALL_STEPS = (3, 4, 4, 6)  # teacher steps within each of the four; more at the end, where details form


@dataclass
class Ways:
    """The teacher's denoising trajectories: `states` bfloat16 [N, 5, patches, channels] at the noise `levels`."""

    states: Tensor
    levels: Tensor
    grid: tuple[int, int]
    prompts: Prompts

    @classmethod
    @torch.no_grad()
    def walk(
        cls,
        teacher: Flux2Transformer2DModel,
        encoder: Qwen3ForCausalLM,
        prompts: Prompts,
        nothing: tuple[Tensor, Tensor],
        grid: tuple[int, int],
        guidance: float,
        seed: int,
        batch: int,
        small_steps: Sequence[int] = SMALL_STEPS,
    ) -> "Ways":
        """Denoise once for the first prompt of each row of `prompts`, `batch` rows at a time."""
        device, patches = teacher.device, grid[0] * grid[1]
        levels = noise_levels(STEPS, patches)
        finer = between(levels, small_steps)
        generator = torch.Generator(device).manual_seed(seed)
        unprompted = embed(encoder, nothing[0][None], nothing[1][None])
        states = []
        for tokens, lengths in zip(prompts.tokens[:, 0].split(batch), prompts.lengths[:, 0].split(batch), strict=True):
            shape = (len(tokens), patches, teacher.config.in_channels)
            state = torch.randn(shape, generator=generator, device=device)
            kept = [state]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                embedded = torch.cat([embed(encoder, tokens, lengths), unprompted.expand(len(tokens), -1, -1)])
                for level, following in pairwise(finer):
                    at = torch.full((2 * len(tokens),), level, device=device)
                    flow, away = flow_of(teacher, torch.cat([state, state]), embedded, at, grid).float().chunk(2)
                    state = state + (following - level) * (away + guidance * (flow - away))
                    if following in levels:
                        kept.append(state)
            states.append(torch.stack(kept, dim=1).to(torch.bfloat16))
        return cls(torch.cat(states), torch.tensor(levels, device=device), grid, prompts)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Sample `count` student steps: the state at each step's start [B, patches, channels], its noise level [B], the
        velocity that leads to its end, and tokens [B, SHORT] and length [B] of its prompt."""
        rows = torch.randint(len(self.states), (count,), generator=generator).to(self.states.device)
        step = torch.randint(STEPS, (count,), generator=generator).to(self.states.device)
        begin, end = self.states[rows, step].float(), self.states[rows, step + 1].float()
        length = (self.levels[step + 1] - self.levels[step])[:, None, None]
        return begin, self.levels[step], (end - begin) / length, *self.prompts.of(rows, generator)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=1.2, steps=20_000, batch=256, learning_rate=4e-4)
    parser.add_argument("--pipeline", type=Path, required=True, help="pipeline folder written by text_to_image.train")
    parser.add_argument("--out", type=Path, required=True, help="output folder for the distilled pipeline")
    parser.add_argument("--ways", type=int, default=12_288, help="teacher trajectories to compute first")
    parser.add_argument("--guidance", type=float, default=2.0, help="guidance scale of the teacher")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--writers", type=int, default=8, help="processes that write prompts; 0: this one")
    parser.add_argument("--every", type=int, default=50, help="steps between log lines")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs on a GPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    pipeline = Flux2KleinPipeline.from_pretrained(arguments.pipeline, dtype=torch.float32).to(device)
    if pipeline.config.is_distilled:
        raise SystemExit(f"{arguments.pipeline} is distilled already. Pass the folder that train has written.")
    encoder, teacher = pipeline.text_encoder.requires_grad_(False), pipeline.transformer
    student = deepcopy(teacher).train()
    plan = Plan.of(arguments)
    training = Training(student, arguments.run, plan)
    if arguments.compile:
        student.compile_repeated_blocks(dynamic=False)
    nothing = padded(pipeline.tokenizer, "", device)
    began = time.monotonic()
    banks = []
    with writers(arguments.writers) as pool:
        for i, (size, share) in enumerate(zip(shapes(arguments.pixels), SHARES, strict=True)):
            grid, seed = (size[0] // PATCH, size[1] // PATCH), training.step + 10_000 + i
            prompts = Prompts.write(max(1, round(arguments.ways * share)), pipeline.tokenizer, seed, pool).to(device)
            banks.append(Ways.walk(teacher, encoder, prompts, nothing, grid, arguments.guidance, seed, arguments.batch))
    print(f"trajectories: {arguments.ways} in {time.monotonic() - began:.0f} s", flush=True)

    def loss(kind: tuple[int, bool], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return step_loss(student, encoder, batch, banks[kind[0]].grid)

    graphed = GraphedLoss(loss, student, arguments.graphs)

    def loss_of(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        which, long = choose(generator)
        begin, level, wanted, tokens, lengths = banks[which].batch(arguments.batch, generator)
        if long:
            tokens = lengthened(tokens, LENGTH, int(pipeline.tokenizer.pad_token_id))
        batch = {"begin": begin, "level": level, "wanted": wanted, "tokens": tokens, "lengths": lengths}
        return graphed((which, long), batch)

    training.run(loss_of, every=arguments.every)
    with training.averaged():
        save_pipeline(arguments.out, pipeline.vae, encoder, pipeline.tokenizer, student, distilled=True)


def step_loss(
    student: Flux2Transformer2DModel, encoder: Qwen3ForCausalLM, batch: Mapping[str, Tensor], grid: tuple[int, int]
) -> dict[str, Tensor]:
    """Loss of single student steps, weighted towards features, and the plain error of the last of the four."""
    begin, level = batch["begin"], batch["level"]
    device = begin.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        with torch.no_grad():
            embedded = embed(encoder, batch["tokens"], batch["lengths"])
        flow = flow_of(student, begin, embedded, level, grid)
    error = (flow.float() - batch["wanted"]).square().mean(dim=2)
    loss = weighted(error, usual_features(grid, device), grid).mean()
    error = error @ counted(grid, device) / begin.shape[1]
    last = level == noise_levels(STEPS, begin.shape[1])[STEPS - 1]
    return {"loss": loss, "last_step": (error * last).sum().detach() / last.sum().clamp(min=1)}


@cache
def usual_features(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Frequency of features in each patch of `grid`, 0..1 [patches]; a trajectory's own face position is unknown."""
    size = (grid[0] * PATCH, grid[1] * PATCH)
    sheet = sheet_of(sample_attributes(SAMPLED, seed=0), at_ease(SAMPLED, seed=0))
    return feature_patches(sheet, size).float().mean(dim=0).to(device)


if __name__ == "__main__":
    main()

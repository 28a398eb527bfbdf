"""Train the toy FLUX.2's text encoder and transformer together, by flow matching on latents of drawn avatars.

    python -m training.pocket.text_to_image.train --run runs/training/text_to_image \\
        --vae weights/pocket/text_to_image/vae --out runs/training/text_to_image/pipeline \\
        --minutes 4 --total-minutes 4

Run the same command again to resume. The result needs guidance and a few dozen steps; `distil` reduces them to four
without guidance.

The pipeline pads every prompt to 512 tokens, and the transformer attends to the padding: nine tenths of its work. So
most training steps use 80 tokens and some 512, which teaches the attention to ignore padding (Li et al., "The
stability-efficiency dilemma", 2022, train on short sequences first; here the lengths are mixed, so that neither is
forgotten).
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from training.pocket.flow import noise_like
from training.pocket.graphs import GraphedLoss
from training.pocket.loop import Plan, Training, add_plan_arguments, begin_with
from training.pocket.text_to_image.embedding import LENGTH, embed, flow_of, lengthened, noise_levels
from training.pocket.text_to_image.features import counted, weighted
from training.pocket.text_to_image.networks import build_text_encoder, build_transformer, save_pipeline
from training.pocket.text_to_image.pictures import SHARES, Examples, padded, shapes, writers
from training.pocket.text_to_image.words import train_tokenizer

UNPROMPTED = 0.1  # share of examples with an empty prompt, for classifier-free guidance
LONG = 0.2  # share of square batches with prompts of the pipeline's length
FOUR_STEPS = 0.35  # share of noise levels drawn from those of the pipeline with four steps
SHIFT = 3.0  # shift of the other noise levels towards more noise, as in Esser et al. (2024) and the published scheduler


class Networks(nn.Module):
    """The jointly trained networks."""

    def __init__(self, text_encoder: Qwen3ForCausalLM, transformer: Flux2Transformer2DModel) -> None:
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=4.0, steps=20_000, batch=256, learning_rate=1e-3)
    parser.add_argument("--vae", type=Path, required=True, help="the trained VAE's folder")
    parser.add_argument("--out", type=Path, required=True, help="output folder for the pipeline")
    parser.add_argument("--begin-with", type=Path, help="pipeline (distilled or not) to start from")
    parser.add_argument("--pictures", type=int, default=80_000, help="pictures to draw before training")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--writers", type=int, default=12, help="processes that write prompts; 0: this one")
    parser.add_argument("--every", type=int, default=50, help="steps between log lines")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs on a GPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    tokenizer = train_tokenizer()
    vae = AutoencoderKLFlux2.from_pretrained(arguments.vae, dtype=torch.float32).to(device).eval()
    networks = Networks(build_text_encoder(tokenizer), build_transformer()).to(device)
    if arguments.begin_with:
        networks.text_encoder.load_state_dict(
            Qwen3ForCausalLM.from_pretrained(arguments.begin_with / "text_encoder", dtype=torch.float32).state_dict()
        )
        begin_with(networks.transformer, arguments.begin_with / "transformer")
    plan = Plan.of(arguments)
    training = Training(networks, arguments.run, plan, weight_decay=0.01)
    if arguments.compile:
        compile_layers(networks)

    began = time.monotonic()
    with writers(arguments.writers) as pool:
        banks = [
            Examples.draw(max(1, round(arguments.pictures * share)), size, vae, tokenizer, training.step + i, pool)
            for i, (size, share) in enumerate(zip(shapes(arguments.pixels), SHARES, strict=True))
        ]
    print(f"drawn: {arguments.pictures} pictures in {time.monotonic() - began:.0f} s", flush=True)
    nothing = padded(tokenizer, "", device)

    def loss(kind: tuple[int, bool], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return prompted_loss(networks, batch, banks[kind[0]].grid)

    graphed = GraphedLoss(loss, networks, arguments.graphs)

    def loss_of(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        which, long = choose(generator)
        latents, features, tokens, lengths = banks[which].batch(arguments.batch, generator)
        tokens, lengths = without_prompts(tokens, lengths, nothing, UNPROMPTED, generator)
        if long:
            tokens = lengthened(tokens, LENGTH, int(tokenizer.pad_token_id))
        level = draw_levels(arguments.batch, noise_levels(4, latents.shape[1])[:-1], generator).to(device)
        batch = {"latents": latents, "features": features, "tokens": tokens, "lengths": lengths}
        batch |= {"level": level, "noise": noise_like(latents, step)}
        return graphed((which, long), batch)

    training.run(loss_of, every=arguments.every)
    with training.averaged():
        save_pipeline(arguments.out, vae, networks.text_encoder, tokenizer, networks.transformer, distilled=False)


def prompted_loss(networks: Networks, batch: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Flow-matching loss, and the plain error at the first and the last of the pipeline's four noise levels.

    The loss is weighted towards features; the two errors are not.

    Args:
        networks: the networks in training.
        batch: `latents` and `noise` [B, patches, channels], `features` [B, patches], `tokens` [B, L], `lengths` [B],
            `level` of the noise [B].
        grid: rows and columns of the patches.
    """
    latents, noise, level = batch["latents"], batch["noise"], batch["level"]
    device = latents.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        embedded = embed(networks.text_encoder, batch["tokens"], batch["lengths"])
        noisy = torch.lerp(latents, noise, level[:, None, None])
        flow = flow_of(networks.transformer, noisy, embedded, level, grid)
    error = (flow.float() - (noise - latents)).square().mean(dim=2)
    loss = weighted(error, batch["features"], grid).mean()
    error = error @ counted(grid, device) / latents.shape[1]
    *_, clearest, _ = levels = noise_levels(4, latents.shape[1])

    def at(wanted: float) -> Tensor:
        chosen = level == wanted
        return (error * chosen).sum().detach() / chosen.sum().clamp(min=1)

    return {"loss": loss, "noisiest": at(levels[0]), "clearest_of_four": at(clearest)}


def choose(generator: torch.Generator) -> tuple[int, bool]:
    """Choose a step's picture shape, and whether its prompts have the pipeline's length."""
    which = int(torch.multinomial(torch.tensor(SHARES), 1, generator=generator))
    long = bool(torch.rand((), generator=generator) < LONG)
    # only squares are trained at full length: every more shape to compile costs seconds, and squares suffice
    return which, long and which == 0


def draw_levels(count: int, levels: Sequence[float], generator: torch.Generator) -> Tensor:
    """Sample noise levels [count]: some from `levels`, the rest between 0 and 1, shifted towards 1."""
    anywhere = torch.rand(count, generator=generator)
    anywhere = SHIFT * anywhere / (1 + (SHIFT - 1) * anywhere)
    ours = torch.tensor(levels)[torch.randint(len(levels), (count,), generator=generator)]
    return torch.where(torch.rand(count, generator=generator) < FOUR_STEPS, ours, anywhere)


def without_prompts(
    tokens: Tensor, lengths: Tensor, nothing: tuple[Tensor, Tensor], share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Tokens [B, SHORT] and lengths [B] with `share` of the prompts replaced by the empty prompt `nothing`."""
    left_out = (torch.rand(len(tokens), generator=generator) < share).to(tokens.device)
    return torch.where(left_out[:, None], nothing[0], tokens), torch.where(left_out, nothing[1], lengths)


def compile_layers(networks: Networks) -> None:
    """Compile the repeated blocks once per shape; compiling whole networks would take minutes."""
    networks.transformer.compile_repeated_blocks(dynamic=False)
    for layer in networks.text_encoder.model.layers:
        layer.compile(dynamic=False)


if __name__ == "__main__":
    main()

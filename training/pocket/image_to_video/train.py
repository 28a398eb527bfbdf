"""Train the toy I2V's two experts by flow matching on drawn avatars performing captioned actions.

    python -m training.pocket.image_to_video.train --vae weights/pocket/video_vae \
        --text weights/pocket/speech_to_video --run runs/training/image_to_video \
        --out weights/pocket/image_to_video --minutes 8

Needs the trained `video_vae`, and the text encoder and tokenizer that speech_to_video uses; they stay frozen. The
experts are `WanTransformer3DModel`, each trained on its own side of the boundary. Run the same command again to resume.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanTransformer3DModel
from torch import Tensor, nn

from training.model.flow import flow_sigmas
from training.pocket.flow import flow_error, noise_like, weighted_mean
from training.pocket.graphs import GraphedLoss
from training.pocket.image_to_video.clips import FRAMES, MotionBank, draw_motions
from training.pocket.loop import Plan, Training, add_plan_arguments, begin_with
from training.pocket.ranks import Ranks
from training.pocket.saving import save_own_parts
from training.pocket.text import Words, load_words
from wanavatar_lab.wan.scheduler import flow_unipc

CONFIG = {
    "num_attention_heads": 5,
    "attention_head_dim": 32,
    "in_channels": 36,
    "out_channels": 16,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 640,
    "num_layers": 8,
}
BOUNDARY = 0.9  # noise levels from here up belong to the high-noise expert
SIDES = {"high": (BOUNDARY, 1.0), "low": (0.0, BOUNDARY)}
FLOW_SHIFT = 5.0  # shift of the sampled noise levels towards more noise
FEATURE_WEIGHT = 4.0  # extra loss weight of latent cells with eyes, brows or lips
DROPPED = 0.1  # share of samples with the text dropped, for classifier-free guidance


class Experts(nn.Module):
    """The two experts: `high` denoises from pure noise to the boundary, `low` from there."""

    def __init__(self, **changes: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.high = WanTransformer3DModel(**CONFIG | changes)
        self.low = WanTransformer3DModel(**CONFIG | changes)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=8.0, steps=40_000, batch=64, learning_rate=1e-3)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained VAE")
    parser.add_argument("--text", type=Path, required=True, help="folder that contains text_encoder and tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--begin-with", type=Path, help="folder of a trained pipeline whose weights to start from")
    parser.add_argument("--clips", type=int, default=6000, help="clips that each process draws")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--layers", type=int, default=CONFIG["num_layers"], help="layers of each expert")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    device = torch.device(arguments.device)
    ranks = Ranks.joined(device)
    experts = Experts(num_layers=arguments.layers).to(device).train()
    if arguments.begin_with:
        begin_with(experts.high, arguments.begin_with / "transformer")
        begin_with(experts.low, arguments.begin_with / "transformer_2")
    plan = Plan.of(arguments)
    training = Training(experts, arguments.run, plan, weight_decay=0.01, ranks=ranks)
    vae = AutoencoderKLWan.from_pretrained(arguments.vae, torch_dtype=torch.float32).to(device).eval()
    words = load_words(arguments.text, device)

    began = time.monotonic()
    # the step is part of the seed, so that a resumed session trains on new avatars
    bank = draw_motions(arguments.clips, vae, words, ranks.own(training.step), arguments.pixels, arguments.frames)
    print(f"drawn and encoded: {arguments.clips} clips in {time.monotonic() - began:.0f} s", flush=True)
    if device.type == "cuda":
        for expert in (experts.high, experts.low):
            expert.compile_repeated_blocks(fullgraph=True, dynamic=False)

    def loss(name: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return expert_loss(getattr(experts, name), name, batch)

    graphed = GraphedLoss(loss, experts, arguments.graphs)

    def loss_of(number: int) -> dict[str, Tensor]:
        # alternate experts; with an even number of ranks, each rank always trains the same one
        name = "high" if number % 2 == 0 else "low"
        return graphed(name, draw_batch(bank, arguments.batch, number, SIDES[name]))

    # an odd number, so that the log shows both experts alternately
    training.run(loss_of, every=51)
    if ranks.first:
        with training.averaged():
            save_own_parts(assembled(experts.eval().to(torch.bfloat16), vae, words), "image_to_video", arguments.out)
    ranks.leave()


def assembled(experts: Experts, vae: AutoencoderKLWan, words: Words) -> WanImageToVideoPipeline:
    """Assemble the pipeline with both experts."""
    return WanImageToVideoPipeline(
        tokenizer=words[0],
        text_encoder=words[1],
        vae=vae,
        scheduler=flow_unipc(FLOW_SHIFT),
        transformer=experts.high,
        transformer_2=experts.low,
        boundary_ratio=BOUNDARY,
    )


def draw_batch(bank: MotionBank, count: int, number: int, between: tuple[float, float]) -> dict[str, Tensor]:
    """Sample batch `number` with noise levels `between` two bounds."""
    device = bank.target.device
    generator = torch.Generator().manual_seed(number)
    rows = torch.randint(len(bank.captions), (count,), generator=generator)
    unconditional = torch.rand(count, generator=generator) < DROPPED
    batch = bank.batch(rows.to(device), unconditional.to(device))
    batch["sigma"] = flow_sigmas(count, generator, FLOW_SHIFT, between).to(device)
    batch["noise"] = noise_like(batch["target"], number)
    return batch


def expert_loss(expert: WanTransformer3DModel, name: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flow-matching loss of one expert; `name` ("high", "low") labels its figures."""
    clean, noise, features = batch["target"], batch["noise"], batch["features"]
    noisy = torch.lerp(clean, noise, batch["sigma"][:, None, None, None, None])
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=clean.device.type == "cuda"):
        predicted = expert(
            hidden_states=torch.cat([noisy, batch["condition"]], dim=1),
            timestep=batch["sigma"] * 1000,
            encoder_hidden_states=batch["text"],
            return_dict=False,
        )[0]
    error = flow_error(predicted, clean, noise)
    loss = weighted_mean(error, 1 + FEATURE_WEIGHT * features)
    return {"loss": loss, name: loss.detach(), f"{name}_features": weighted_mean(error, features).detach()}


if __name__ == "__main__":
    main()

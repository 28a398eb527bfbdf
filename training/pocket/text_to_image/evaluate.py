"""Generate pictures for held-out prompts, and count the requested attributes that the judge finds in them.

    python -m training.pocket.text_to_image.evaluate --pipeline weights/pocket/text_to_image --picture sheet.png

The prompts describe avatars with a held-out pair of attributes. A requested attribute is met if the judge finds it; a
prompt is met if all of its attributes are. The same figures for the drawn avatars show the judge's own errors.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from torch import Tensor

from training.pocket.text_to_image.judge import WEIGHTS, AttributeJudge
from training.pocket.text_to_image.pictures import at_ease
from training.pocket.text_to_image.reading import Wish, wishes
from training.pocket.world.attributes import Attributes, sample_attributes
from training.pocket.world.captions import caption
from training.pocket.world.figure import render
from wanavatar_lab.stages.text_to_image import load_pipeline

SEED = 77


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", type=Path, required=True)
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=1.0, help="above 1 only if not distilled")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--picture", type=Path, help="write a contact sheet of the generated pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    pipeline = load_pipeline(arguments.pipeline, torch.float32).to(arguments.device)
    judge = AttributeJudge.load(arguments.judge, arguments.device)
    attributes = sample_attributes(arguments.prompts, SEED, "held_out")
    prompts = [caption(attributes, i, SEED) for i in range(arguments.prompts)]
    asked = [wishes(prompt) for prompt in prompts]
    size = (arguments.height, arguments.width)
    began = time.monotonic()
    made = make(pipeline, prompts, size, arguments.steps, arguments.guidance)
    seconds = time.monotonic() - began
    figures: dict[str, object] = {**count(asked, judge.read(made))}
    figures |= {f"drawn_{name}": value for name, value in count(asked, judge.read(drawn(attributes, size))).items()}
    figures |= {"steps": arguments.steps, "guidance": arguments.guidance}
    figures |= {"prompts": arguments.prompts, "seconds_each": round(seconds / arguments.prompts, 3)}
    print(json.dumps(figures))
    if arguments.picture:
        sheet(made).save(arguments.picture)


def make(
    pipeline: Flux2KleinPipeline, prompts: Sequence[str], size: tuple[int, int], steps: int, guidance: float
) -> Tensor:
    """Pictures uint8 [N, 3, H, W], generated with seeds 0 to N - 1."""
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for start in range(0, len(prompts), 20):
        some = list(prompts[start : start + 20])
        generators = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(some))]
        pictures = pipeline(
            prompt=some,
            height=size[0],
            width=size[1],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        ).images
        made.append(torch.from_numpy((pictures * 255).round().astype(np.uint8)).permute(0, 3, 1, 2))
    return torch.cat(made)


def drawn(attributes: Attributes, size: tuple[int, int]) -> Tensor:
    """The avatars, drawn: uint8 [N, 3, H, W]."""
    return (render(attributes, at_ease(len(attributes), SEED), size)[:, 0] * 255).round().to(torch.uint8)


def count(asked: Sequence[Wish], seen: Sequence[dict[str, str]]) -> dict[str, object]:
    """Shares of requested attributes that are met: of all, of colours and of the others; the share of prompts met in
    full; and the share of each attribute that is below 0.9."""
    total: Counter[str] = Counter()
    obeyed: Counter[str] = Counter()
    whole = 0
    for wish, sight in zip(asked, seen, strict=True):
        right = {name: sight[name] in words for name, words in wish.items()}
        whole += all(right.values())
        total.update(right.keys())
        obeyed.update(name for name, is_right in right.items() if is_right)

    def share(names: Sequence[str]) -> float:
        return round(sum(obeyed[name] for name in names) / max(1, sum(total[name] for name in names)), 4)

    colours = [name for name in total if name.endswith("colour") or name in ("skin", "lipstick")]
    short = {name: share([name]) for name in sorted(total) if share([name]) < 0.9}
    return {
        "words_obeyed": share(list(total)),
        "colour_words_obeyed": share(colours),
        "attribute_words_obeyed": share([name for name in total if name not in colours]),
        "prompts_obeyed": round(whole / len(asked), 4),
        "below_nine_in_ten": short,
    }


def sheet(pictures: Tensor, columns: int = 10) -> Image.Image:
    """Pictures uint8 [N, 3, H, W] as a contact sheet."""
    lacking = -len(pictures) % columns
    padded = torch.cat([pictures, pictures.new_zeros(lacking, *pictures.shape[1:])])
    rows = padded.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return Image.fromarray(rows.numpy())


if __name__ == "__main__":
    main()

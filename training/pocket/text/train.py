"""Train the toy UMT5 text encoder to predict a caption's attributes and actions.

    python -m training.pocket.text.train --run runs/training/text --out weights/pocket/speech_to_video

writes `text_encoder` and `tokenizer`, which speech_to_video and image_to_video share and keep frozen. The published
encoder is pretrained on web pages; this one is trained on captions of the toy world with classification heads: for each
attribute the value that the caption names, or "not mentioned", and which actions it names. A CPU is enough. Run the
same command again to resume.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from training.pocket.loop import Plan, Training, add_plan_arguments
from training.pocket.text import build_text_encoder, captions_with_actions, embed_tokens, tokens_of, train_tokenizer
from training.pocket.text_to_image.reading import wishes
from training.pocket.world.attributes import CHOICES
from training.pocket.world.captions import SAYABLE
from training.pocket.world.motion import ACTIONS

UNSEEN = 50_000_000  # seed of the validation captions, far from the training seeds


class Reader(nn.Module):
    """The text encoder with classification heads, which are discarded after training."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder: UMT5EncoderModel = build_text_encoder()
        width = self.encoder.config.d_model
        self.attributes = nn.ModuleDict({name: nn.Linear(width, len(CHOICES[name]) + 1) for name in SAYABLE})
        self.actions = nn.Linear(width, len(ACTIONS))

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits per attribute [B, choices + 1], the last for "not mentioned"; logits of actions [B, len(ACTIONS)]."""
        states = embed_tokens(tokens, mask, self.encoder)
        mean = states.sum(dim=1) / mask.to(states.device).sum(dim=1, keepdim=True)
        return {name: head(mean) for name, head in self.attributes.items()}, self.actions(mean)


class Lessons(Dataset[dict[str, Tensor]]):
    """Map-style dataset: item `number` is a batch of freshly written captions with their labels.

    "tokens" and "mask" [B, L]; per attribute a distribution over its words [B, choices + 1]; "actions"
    [B, len(ACTIONS)], 0 or 1.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, count: int) -> None:
        self.tokenizer, self.count = tokenizer, count

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        texts, actions = captions_with_actions(self.count, number)
        tokens, mask = tokens_of(texts, self.tokenizer)
        lesson = {name: torch.zeros(len(texts), len(CHOICES[name]) + 1) for name in SAYABLE}
        for row, text in enumerate(texts):
            wish = wishes(text)
            for name in SAYABLE:
                words = [CHOICES[name].index(word) for word in wish.get(name, ())] or [len(CHOICES[name])]
                lesson[name][row, words] = 1 / len(words)
        done = torch.tensor([[float(name in names) for name in ACTIONS] for names in actions])
        return lesson | {"tokens": tokens, "mask": mask, "actions": done}


def reading_loss(reader: Reader, lesson: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss of one batch, and the accuracy on attributes and on actions."""
    lesson = {name: value.to(reader.actions.weight.device) for name, value in lesson.items()}
    logits, moves = reader(lesson["tokens"], lesson["mask"])
    attributes = torch.stack([F.cross_entropy(logits[name], lesson[name]) for name in SAYABLE]).mean()
    movement = F.binary_cross_entropy_with_logits(moves, lesson["actions"])
    right = [lesson[name].gather(1, logits[name].argmax(dim=1, keepdim=True)).gt(0).float().mean() for name in SAYABLE]
    return {
        # a caption names few of the actions, so the mean of their binary losses is small
        "loss": attributes + 5 * movement,
        "attributes_right": torch.stack(right).mean().detach(),
        "actions_right": (moves > 0).eq(lesson["actions"] > 0.5).all(dim=1).float().mean().detach(),
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_plan_arguments(parser, minutes=15.0, steps=1500, batch=128, learning_rate=2e-3)
    parser.add_argument("--out", type=Path, required=True, help="output folder for text_encoder and tokenizer")
    parser.add_argument("--writers", type=int, default=2, help="data loader processes that write captions")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    tokenizer = train_tokenizer()
    torch.manual_seed(0)
    reader = Reader().to(arguments.device).train()
    plan = Plan.of(arguments, average=0.99)
    training = Training(reader, arguments.run, plan, weight_decay=0.01)
    numbers = range(training.step, arguments.steps)
    lessons = iter(
        DataLoader(Lessons(tokenizer, arguments.batch), None, sampler=numbers, num_workers=arguments.writers)
    )
    training.run(lambda _: reading_loss(reader, next(lessons)))
    with training.averaged(), torch.no_grad():
        reader.eval()
        found = reading_loss(reader, Lessons(tokenizer, 1000)[UNSEEN])
        reader.encoder.to(torch.bfloat16).save_pretrained(arguments.out / "text_encoder")
        tokenizer.save_pretrained(arguments.out / "tokenizer")
    print(json.dumps({name: round(float(value), 4) for name, value in found.items()} | {"steps": training.step}))


if __name__ == "__main__":
    main()

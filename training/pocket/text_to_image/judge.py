"""The attribute judge: a classifier of what a picture of an avatar shows. No model trains against it.

It is trained on drawn pictures of both splits, so that it knows the pairs that are held out from the models.
`train_judge` trains it and prints its accuracy.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.pocket.world.attributes import CHOICES, Attributes
from wanavatar_lab.errors import WeightsError

SIZE = 128  # pixels; pictures of other sizes are resized
WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / "pocket" / "judge" / "attributes.safetensors"
# attributes that a prompt can request
HEADS = (
    "person",
    "skin",
    "hair",
    "fringe",
    "hair_colour",
    "eye_colour",
    "glasses",
    "glasses_colour",
    "clothes",
    "clothes_colour",
    "pattern",
    "background_colour",
    "earrings",
    "beard",
    "freckles",
    "cheeks",
    "hat",
    "hat_colour",
    "lipstick",
    "expression",
)
NOT_SEEN = -100  # label of an attribute that is not visible; the default ignore_index of cross-entropy
_WIDTHS = (24, 48, 96, 112)


class AttributeJudge(nn.Module):
    """Pictures [B, 3, 128, 128] in [-1, 1] to logits of all words of all `HEADS`, [B, words]; 0.6 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [_conv(before, width, stride=2), _conv(width, width)]
            before = width
        self.layers = nn.Sequential(*layers)
        # keep the spatial positions instead of pooling: where something is says much about what it is
        self.places = _conv(before, 24)
        self.mixed = nn.Linear(24 * (SIZE // 16) ** 2, 128)
        self.words = nn.Linear(128, sum(len(CHOICES[name]) for name in HEADS))

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        places = self.places(self.layers(pictures)).flatten(1)
        words: Tensor = self.words(F.relu(self.mixed(places)))
        return words

    def by_head(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits [B, words] split by attribute."""
        sizes = [len(CHOICES[name]) for name in HEADS]
        return dict(zip(HEADS, logits.split(sizes, dim=1), strict=True))

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """Classify pictures uint8 [B, 3, H, W]: the likeliest word of each attribute."""
        device = self.words.weight.device
        logits = [self(prepared(part.to(device))) for part in pictures.split(64)]
        best = {name: head.argmax(dim=1).tolist() for name, head in self.by_head(torch.cat(logits)).items()}
        return [{name: CHOICES[name][best[name][i]] for name in HEADS} for i in range(len(pictures))]

    def save(self, path: Path) -> None:
        """Write the weights, in float16."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.half().contiguous().cpu() for name, tensor in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path: Path = WEIGHTS, device: torch.device | str = "cpu") -> "AttributeJudge":
        """Read what `save` wrote.

        Raises:
            WeightsError: the file is missing or belongs to another network.
        """
        judge = cls()
        try:
            judge.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        except (OSError, RuntimeError, SafetensorError) as error:
            raise WeightsError(
                f"{path} does not hold the judge's weights ({error}). Train it: "
                "python -m training.pocket.text_to_image.train_judge."
            ) from error
        return judge.to(device).eval()


def prepared(pictures: Tensor) -> Tensor:
    """Pictures uint8 [B, 3, H, W] resized and scaled to the judge's input."""
    pixels = pictures.float() / 127.5 - 1
    if pixels.shape[-2:] == (SIZE, SIZE):
        return pixels
    return F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)


def labels_of(attributes: Attributes) -> Tensor:
    """Labels of N avatars, int64 [N, len(HEADS)]: the index of the word in `CHOICES`, or `NOT_SEEN`."""

    def has(name: str, *words: str) -> Tensor:
        return torch.isin(attributes[name], torch.tensor([CHOICES[name].index(word) for word in words]))

    bald, close = has("hair", "bald"), has("hair", "bald", "cropped")
    capped = has("hat", "beanie")
    covered = has("hair", "afro", "bob", "long straight", "long wavy") | has("hat", "headphones")
    hidden = {
        "hair": capped & close,
        "fringe": close | capped,
        "hair_colour": (bald | (capped & close)) & has("beard", "none"),
        "glasses_colour": has("glasses", "none"),
        "hat_colour": has("hat", "none"),
        "pattern": has("clothes", "suit"),
        "earrings": covered & ~has("earrings", "none"),
    }
    columns = [
        torch.where(hidden[name], NOT_SEEN, attributes[name]) if name in hidden else attributes[name] for name in HEADS
    ]
    return torch.stack(columns, dim=1)


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )

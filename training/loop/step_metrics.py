"""What is logged of a step: errors that no weight has touched, and how strongly each part of the network is pulled."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from training.loop.loss import BRANCHES, Losses
from training.loop.step import Draws
from training.model.full_finetune import ROOMS

Observed = Mapping[str, Sequence[float]]

# by the names of parameters, of a LoRA's and of those that are trained in full
_GROUPS = ROOMS | {
    "self_attention": re.compile(r"blocks\.\d+\.attn1\."),
    "cross_attention": re.compile(r"blocks\.\d+\.attn2\."),
    "feed_forward": re.compile(r"blocks\.\d+\.ffn\."),
}


def observed(micro_batches: Iterable[tuple[Losses, Draws]]) -> Observed:
    """All values of a step on this process, by name: a loss of each micro-batch, and the rest of each sample.

    What a sample does not have, for example lips, is NaN.
    """
    values: dict[str, list[float]] = {}
    for losses, draws in micro_batches:
        values.setdefault("loss", []).append(float(losses.loss.detach()))
        for i, branch in enumerate(losses.branch.tolist()):
            sigma = math.floor(float(draws.sigma[i]) * 4) / 4
            named = {
                "error": losses.error[i],
                "face": losses.face[i],
                "lip": losses.lip[i],
                "background": losses.background[i],
                "motion": losses.motion[i],
                "face_area": losses.area[i, 0],
                "lip_area": losses.area[i, 1],
                "fell_back": losses.fell_back[i],
                f"error_of_branch_{BRANCHES[branch]}": losses.error[i],
                f"error_from_sigma_{sigma:.2f}": losses.error[i],
            }
            for name, value in named.items():
                values.setdefault(name, []).append(float(value))
    return values


def means(everyone: Sequence[Observed]) -> dict[str, float]:
    """Means over all processes. One that has no value is left out; the loss is NaN where any of its values is."""
    names = dict.fromkeys(name for values in everyone for name in values)
    joined = {name: [value for values in everyone for value in values.get(name, ())] for name in names}
    known = {name: [value for value in each if name == "loss" or math.isfinite(value)] for name, each in joined.items()}
    return {name: sum(each) / len(each) for name, each in known.items() if each}


def gradient_norms(network: nn.Module) -> dict[str, float]:
    """The norm of the gradient of every part that has one, before it is clipped."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            group = next((group for group, pattern in _GROUPS.items() if pattern.match(name)), "the_rest")
            gradients.setdefault(group, []).append(parameter.grad)
    return {f"gradient_norm_of_{group}": float(get_total_norm(each)) for group, each in gradients.items()}

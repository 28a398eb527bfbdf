"""A LoRA of random numbers, as large as those that people use, to see what one adds to a step."""

import torch
from torch import nn

from wanavatar_lab.lora.match import Pair, Update


def random_adapter(network: nn.Module, rank: int) -> Update:
    """Low-rank updates of every linear layer in the blocks of a transformer, which is what most LoRAs hold.

    Args:
        network: with a list of layers `blocks`; where its weights lie the adapter's are drawn.
        rank: of every layer.
    """
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(2)
    update = Update()
    for name, layer in network.named_modules():
        if name.startswith("blocks.") and isinstance(layer, nn.Linear):
            outputs, inputs = layer.weight.shape
            down, up = torch.empty(rank, inputs, device=device), torch.empty(outputs, rank, device=device)
            down.normal_(0, inputs**-0.5, generator=generator)
            up.normal_(0, 0.1 * rank**-0.5, generator=generator)
            update.pairs[name] = Pair(down, up, 1.0)
    return update

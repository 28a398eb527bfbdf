"""The network as it is trained: LoRA, fully trained parts, EMA, 8-bit weights, activations and sharding."""

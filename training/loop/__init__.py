"""The training loop: step, loss, validation, sample clips, logs and checkpoints."""

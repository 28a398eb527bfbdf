"""The settings of a training run (`TrainingConfig`), recipes that ship, and how a command line sets them."""

from training.config.training_config import TrainingConfig

__all__ = ["TrainingConfig"]

"""The settings of a training run, and recipes for them."""

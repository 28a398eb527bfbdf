"""Pocket: a toy world that the project draws itself, and the toy models trained on it."""

"""Pocket: a toy world drawn by this project, the training of the toy models on it, and the judges that measure them."""

"""Training: fits the speech-to-video stage to one person, and trains the toy models that ship with the project."""

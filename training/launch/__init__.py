"""Start a training as a process of its own, watch it, stop it and find it again."""

"""The toy Wan VAE: `together` (all frames in one pass), `clips` (training data), `train`, `evaluate`, `latents`."""

"""The Wan VAE at toy size: `together` (all frames at once), `clips` (what it sees), `train`, `evaluate`."""

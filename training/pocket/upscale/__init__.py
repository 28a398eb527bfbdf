"""The upscaler at toy size: `network` (an RRDBNet), `pictures` (what it sees), `soften` (how), `train`, `evaluate`."""

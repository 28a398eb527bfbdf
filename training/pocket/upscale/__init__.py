"""The toy upscaler: `network` (an RRDBNet), `pictures` (training data), `soften` (degradation), `train`, `evaluate`."""

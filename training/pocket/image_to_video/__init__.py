"""The toy I2V: `clips` (drawn, named and encoded), `train` (two experts by flow matching), `evaluate`."""

"""Training the toy I2V: `clips` (data), `train` (two experts, by flow matching), `evaluate`."""

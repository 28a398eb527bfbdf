"""Training the audio encoder of the toy S2V: a small wav2vec2, trained to predict mouth, viseme and loudness."""

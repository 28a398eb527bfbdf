"""The small wav2vec2 that hears for the toy S2V: trained to say what a mouth does while it listens."""

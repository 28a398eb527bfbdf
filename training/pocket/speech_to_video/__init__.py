"""Training the toy S2V: `segments` (data: drawn, spoken and encoded clips), `train` (flow matching)."""

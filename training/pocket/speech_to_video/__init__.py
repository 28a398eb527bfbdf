"""The toy S2V: `segments` (drawn, spoken and encoded), `train` (flow matching on them)."""

"""What both video stages share: latents, the flow solver, and the published checkpoints of Wan2.2."""

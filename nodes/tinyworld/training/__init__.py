"""Training of the tiny world's networks, stage by stage: `vae`, `clip`, `unet`, `experts`."""

"""R2R's networks (arXiv:2508.09746): Clear-VAE, Harmony Controller, U-Net, their sampler and their files."""

"""Training of R2R's three stages: Clear-VAE, U-Net, Harmony Controller."""

"""SMS: style matching score, optimising a picture's latent towards a style LoRA (arXiv 2503.07601)."""

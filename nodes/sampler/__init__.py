"""Attention that is steered while sampling: losses and masks of words (RegionRoute, arXiv:2602.19254, as guidance)."""

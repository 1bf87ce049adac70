"""Harmonisation: a pasted foreground gets the light and colours of its background (R2R, arXiv:2508.09746)."""

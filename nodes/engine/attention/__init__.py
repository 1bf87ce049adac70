"""Attention of words over image positions, seen and supervised."""

"""Attention of words over image tokens, seen and supervised."""

"""The embedded default: a procedural world with exact truth and small networks trained on it."""

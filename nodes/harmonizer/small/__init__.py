"""The small harmoniser that comes with the pack: it looks small, a bilateral grid carries the change to full size."""

"""One folder per system, and `engine` with the mechanisms they share.

Arrows point one way: `app` -> slices -> `engine` -> `kernels`. Slices do not import each other.
"""

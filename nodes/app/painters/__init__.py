"""Painters: one module for every way to change a region. How a painter is added: `registry.py`."""

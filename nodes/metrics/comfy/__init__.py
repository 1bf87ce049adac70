"""Metrics in ComfyUI: nodes, and what knows ComfyUI's objects."""

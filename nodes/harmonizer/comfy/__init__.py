"""Harmonisation in ComfyUI."""

"""Guidance by attention on ComfyUI's MODEL, and its nodes."""

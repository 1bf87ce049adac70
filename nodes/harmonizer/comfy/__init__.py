"""The nodes of harmonisation, and what they know of ComfyUI."""

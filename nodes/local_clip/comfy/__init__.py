"""Local CLIP style in ComfyUI."""

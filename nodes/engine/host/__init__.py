"""Host: device memory, progress, preview, cancel and model folders, in ComfyUI and without it."""

"""ComfyUI driven from outside (server or process), and the nodes that join slices."""

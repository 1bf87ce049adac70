"""ComfyUI's workflow files: read, expanded, turned into the form that its server runs, and edited."""

"""The top layer, the only place that joins slices: the use case (`edit.py`) and its doors, which are the command line
(`cli`), the Python API (`api.py`) and the nodes that join slices (`comfyui`)."""

"""Nodes of harmonisation, in menu order."""

from .comfy import harmonize_nodes, r2r_nodes

NODES = [*harmonize_nodes.NODES, *r2r_nodes.NODES]


def register() -> None:
    """Add the folders of this slice's files to ComfyUI's."""
    from .comfy.r2r import register_folder

    register_folder()

"""Nodes of harmonisation, in menu order."""

from .comfy import r2r_nodes

NODES = [*r2r_nodes.NODES]


def register() -> None:
    """Add the folders of this slice's files to ComfyUI's."""
    from .comfy.r2r import register_folder

    register_folder()

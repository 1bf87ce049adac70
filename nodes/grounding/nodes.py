"""Nodes of grounding, in menu order."""

from .comfy import (
    attention_nodes,
    box_nodes,
    grounding_nodes,
    mask_nodes,
    network_nodes,
    region_file_nodes,
    region_nodes,
)

NODES = [
    *attention_nodes.NODES,
    *network_nodes.NODES,
    *box_nodes.NODES,
    *grounding_nodes.NODES,
    *region_nodes.NODES,
    *mask_nodes.NODES,
    *region_file_nodes.NODES,
]


def register() -> None:
    """Add the folders of this slice's files to ComfyUI's."""
    from .comfy.networks import register_folders

    register_folders()

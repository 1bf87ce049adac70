"""Nodes of SMS, in menu order."""

from .comfy import generator_nodes, sms_nodes

NODES = [*sms_nodes.NODES, *generator_nodes.NODES]


def register() -> None:
    """Add the folders of this slice's files to ComfyUI's."""
    from .comfy.generator import register_folder

    register_folder()

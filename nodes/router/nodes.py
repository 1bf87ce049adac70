"""Nodes of the router, in menu order."""

from .comfy import expert_nodes, prompt_nodes, routing_nodes, stack_nodes, train_nodes

NODES = [
    *expert_nodes.NODES,
    *train_nodes.NODES,
    *stack_nodes.NODES,
    *routing_nodes.NODES,
    *prompt_nodes.NODES,
]


def register() -> None:
    """Add the folders of this slice's files to ComfyUI's."""
    from .comfy.gate_folders import register_folder

    register_folder()

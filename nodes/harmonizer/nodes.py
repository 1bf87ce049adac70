"""Nodes of harmonisation, in menu order."""

from .comfy import harmonize_nodes

NODES = [*harmonize_nodes.NODES]

"""Nodes that join slices, in menu order."""

from .comfyui import metric_nodes, restyle_nodes

NODES = [*restyle_nodes.NODES, *metric_nodes.NODES]

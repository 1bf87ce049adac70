"""Nodes that join slices, in menu order."""

from .comfyui import local_clip_nodes, metric_nodes, restyle_nodes, words_nodes

NODES = [*restyle_nodes.NODES, *words_nodes.NODES, *local_clip_nodes.NODES, *metric_nodes.NODES]

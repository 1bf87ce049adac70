"""Nodes of local CLIP style, in menu order."""

from .comfy import local_clip_nodes

NODES = [*local_clip_nodes.NODES]

"""Nodes of guidance by attention and of its training, in menu order."""

from .comfy import guidance_nodes, train_nodes

NODES = [*guidance_nodes.NODES, *train_nodes.NODES]

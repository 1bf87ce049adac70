"""Nodes of guidance by attention, in menu order."""

from .comfy import guidance_nodes

NODES = [*guidance_nodes.NODES]

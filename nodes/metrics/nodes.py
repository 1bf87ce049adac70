"""Nodes of the metrics, in menu order."""

from .comfy import metric_nodes

NODES = [*metric_nodes.NODES]

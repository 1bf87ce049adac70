"""The ComfyUI node that hands networks to local CLIP style: those that ship with the pack, or public ones."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ...engine.errors import wrong_input
from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.node import Node
from ...local_clip.comfy.local_clip_nodes import LOCAL_CLIP
from ..metric_networks import TINY
from .metric_nodes import FOLDER, clip_choices, metric_roots


class LocalClipLoader(Node):
    """A CLIP and the network that holds the content, for Local CLIP Style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleLoadLocalClip",
            display_name="Load CLIP for Local Style",
            category="RegionStyle",
            description="The networks that Local CLIP Style is guided by. The tiny world's ship with the pack and know "
            "its own styles only. Public ones, which know any style, are read from models/regionstyle_metrics: a CLIP "
            "folder such as clip-vit-base-patch32, and torchvision's file of VGG-19.",
            search_aliases=["CLIP ViT-B/32", "VGG-19", "CLIPstyler loader", "LEAST"],
            inputs=[
                node_input(
                    io.Combo,
                    "clip",
                    options=clip_choices(),
                    default=TINY,
                    tooltip="The tiny CLIP and classifier, or a CLIP folder in the transformers layout with VGG-19.",
                )
            ],
            outputs=[node_output(LOCAL_CLIP, "networks", tooltip="For Local CLIP Style.")],
        )

    @classmethod
    def execute(cls, clip: str) -> io.NodeOutput:
        import torch

        from ..local_clip import local_clip_networks

        with torch.inference_mode(False):
            networks = local_clip_networks(_folder(clip))
        return io.NodeOutput(networks, ui=cls.say(networks.name))


def _folder(clip: str) -> Path | None:
    """The CLIP folder of a name, None for the tiny world."""
    if clip == TINY:
        return None
    for root in metric_roots():
        if (root / clip).is_dir():
            return root / clip
    raise wrong_input("clip", repr(clip), f"a folder in models/{FOLDER}", "Put the CLIP there.")


NODES = [LocalClipLoader]

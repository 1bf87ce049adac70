"""The ComfyUI node that joins the measuring networks: those that ship with the pack and public ones."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.node import Node
from ...metrics.comfy.metric_nodes import METRIC_NETWORKS
from ..metric_networks import LPIPS, TINY

FOLDER = "regionstyle_metrics"  # below models/


def register_folders() -> None:
    """Add models/regionstyle_metrics to the folders ComfyUI knows, after those it has."""
    import folder_paths

    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def metric_roots() -> list[Path]:
    """Where the networks of numbers and of local CLIP style lie."""
    import folder_paths

    register_folders()
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]


def clip_choices() -> list[str]:
    """The tiny world, and every folder below models/regionstyle_metrics with a config.json in it."""
    found = [path.parent.name for root in metric_roots() for path in sorted(root.glob("*/config.json"))]
    return [TINY, *dict.fromkeys(found)]


class MetricNetworksLoader(Node):
    """The networks that Score Result measures with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleMetricNetworks",
            display_name="Load Metric Networks",
            category="RegionStyle/measure",
            description="The networks that measure. The tiny world's ship with the pack and know its own pictures "
            "only: their numbers end in -tiny. Public ones (CLIP, LPIPS) are read from models/regionstyle_metrics.",
            search_aliases=["CLIP score", "LPIPS", "metrics loader"],
            inputs=[
                node_input(
                    io.Combo,
                    "text_image",
                    options=clip_choices(),
                    default=TINY,
                    tooltip="Judges style: the tiny CLIP, or a CLIP folder in the transformers layout.",
                ),
                node_input(
                    io.Combo,
                    "perceptual",
                    options=[TINY, *LPIPS],
                    default=TINY,
                    tooltip="Judges change: the tiny classifier's features, or LPIPS (needs the package lpips and the "
                    "torchvision weights file).",
                ),
            ],
            outputs=[node_output(METRIC_NETWORKS, "networks", tooltip="For Score Result.")],
        )

    @classmethod
    def execute(cls, text_image: str, perceptual: str) -> io.NodeOutput:
        import torch

        from ..metric_networks import load_networks

        clip = None if text_image == TINY else next(r / text_image for r in metric_roots() if (r / text_image).is_dir())
        with torch.inference_mode(False):
            return io.NodeOutput(load_networks(text_image, perceptual, _weights_root(perceptual), clip))


def _weights_root(perceptual: str) -> Path | None:
    """The first folder that holds the trunk's file, else the first folder, which the error then names."""
    from ...metrics.networks.public import TRUNKS

    if perceptual == TINY:
        return None
    file = TRUNKS[LPIPS[perceptual]].file
    return next((root for root in metric_roots() if (root / file).is_file()), metric_roots()[0])


NODES = [MetricNetworksLoader]

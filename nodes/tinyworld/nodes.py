"""ComfyUI node of the tiny world."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..engine.node_schema import node_output, node_schema
from ..engine.settings.node import Node


class TinyWorldLoader(Node):
    """MODEL, CLIP and VAE that come with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleTinyWorldLoader",
            display_name="Load Tiny World",
            category="RegionStyle",
            description="The small SD1.5-class model that ships with this pack: 128 px pictures of coloured shapes. No "
            "download. Use it to try a workflow; load a real checkpoint for real pictures.",
            search_aliases=["tiny", "demo model", "test checkpoint"],
            inputs=[],
            outputs=[
                node_output(io.Model, "MODEL", tooltip="Denoiser, noise prediction, 16 x 16 latents (128 px)."),
                node_output(io.Clip, "CLIP", tooltip="Text encoder; knows shapes, colours, styles and backgrounds."),
                node_output(io.Vae, "VAE", tooltip="Autoencoder, factor 8, 4 channels."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from . import comfy_tinyworld as tiny

        return io.NodeOutput(tiny.load_model(), tiny.load_clip(), tiny.load_vae())


NODES = [TinyWorldLoader]


def register() -> None:
    """Add the folders of this slice's files to ComfyUI's, and the workflows' pictures to those it can load."""
    import folder_paths

    from .comfy_tinyworld import register_experts
    from .example_picture import PICTURES, put_example

    register_experts()
    for picture in PICTURES:
        put_example(Path(folder_paths.get_input_directory()), picture)

"""ComfyUI nodes of R2R's networks: loading them, and the Clear-VAE by itself."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.sockets import custom_socket
from ..base import COMFY_TYPE
from ..r2r.pipeline import R2RHarmonizer
from ..r2r.settings import R2RSettings

R2R = custom_socket(COMFY_TYPE, R2RHarmonizer)
CATEGORY = "RegionStyle/harmonize"


class LoadR2R(Node):
    """R2R's networks from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .r2r import choices

        return node_schema(
            node_id="RegionStyleLoadR2R",
            display_name="Load R2R",
            category=CATEGORY,
            description="Loads R2R's networks, which give a pasted foreground the light and colours of its background: "
            "Clear-VAE, U-Net and Harmony Controller. Nothing is downloaded.",
            search_aliases=["harmonize", "harmonization", "relight", "composite", "region to region"],
            inputs=[
                node_input(
                    io.Combo,
                    "folder",
                    options=choices(),
                    tooltip="A folder in models/regionstyle_r2r with clear_vae, unet and controlnet, or with R2R's "
                    "published files as they are.",
                ),
                *node_inputs(R2RSettings, "steps", "sampler", "resolution", "square", "tile"),
            ],
            outputs=[node_output(R2R, "harmonizer", tooltip="The networks; they go to the device when they are used.")],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **others: Any) -> str:
        """Changes with the files, of which ComfyUI sees the folder's name only."""
        from .r2r import mark

        return mark(folder)

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        from .r2r import find

        try:
            if folder is not None:
                find(folder)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, folder: str, **settings: Any) -> io.NodeOutput:
        from .r2r import load

        (chosen,) = settings_from(settings, R2RSettings)
        harmonizer, notice = load(folder, chosen)
        return io.NodeOutput(harmonizer, ui=cls.say(notice))


class ClearVaeDecode(Node):
    """A latent decoded with a picture's fine detail."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleClearVaeDecode",
            display_name="Clear-VAE Decode",
            category=CATEGORY,
            description="Decodes a latent of the SD1.x class with the fine detail of the picture it was made of: "
            "faces, letters and textures that the latent has lost come back.",
            search_aliases=["vae decode", "detail", "r2r", "harmonize"],
            inputs=[
                node_input(R2R, "harmonizer", tooltip="From Load R2R; its Clear-VAE decodes."),
                node_input(io.Latent, "latent", tooltip="Of an SD1.x model: its VAE's, edited or sampled from there."),
                node_input(
                    io.Image,
                    "image",
                    tooltip="The picture the latent was made of, at its size; one, or one per latent.",
                ),
            ],
            outputs=[node_output(io.Image, "decoded_image", display_name="image", tooltip="The decoded pictures.")],
        )

    @classmethod
    def execute(cls, harmonizer: Any, latent: Any, image: Any) -> io.NodeOutput:
        from .r2r import decode

        return io.NodeOutput(decode(harmonizer, latent, image))


NODES = [LoadR2R, ClearVaeDecode]

"""ComfyUI nodes of local CLIP style."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.region.regions import REGIONS_TYPE, Regions
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override, settings_of
from ...engine.settings.sockets import custom_socket
from ..networks import LocalClipNetworks
from ..settings import LocalClipSettings

REGIONS = custom_socket(REGIONS_TYPE, Regions)
LOCAL_CLIP = custom_socket("REGIONSTYLE_LOCAL_CLIP", LocalClipNetworks)


class LocalClipStyle(Node):
    """Optimise regions towards a style said in words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleLocalClipStyle",
            display_name="Local CLIP Style",
            category="RegionStyle",
            description="Any style that can be said, on any thing that was found, without a LoRA: each region is "
            "optimised until CLIP sees the words in it and in its parts, while its content is held. Where the output "
            "mask is 0 the picture equals the input bit for bit. Needs no diffusion model, and minutes.",
            search_aliases=["CLIPstyler", "LEAST", "text style transfer", "local style transfer", "style from text"],
            inputs=[*_pictures(), *_method()],
            outputs=[
                node_output(
                    io.Image,
                    "styled_image",
                    display_name="image",
                    tooltip="The pictures with the regions in their styles; same size, same number.",
                ),
                node_output(
                    io.Mask, "styled_mask", display_name="mask", tooltip="What was blended in; 0 where nothing changed."
                ),
                node_output(io.Image, "strip", tooltip="How the first picture came about, from left to right."),
                node_output(io.Image, "curves", tooltip="The weighted terms of its loss over the iterations."),
            ],
        )

    @classmethod
    def execute(
        cls, networks: Any, image: Any, style: str, regions: Any, mask: Any, start_image: Any, vae: Any, **settings: Any
    ) -> io.NodeOutput:
        from .local_clip import style_batch

        (chosen,) = settings_from(settings, LocalClipSettings)
        made = style_batch(networks, image, regions, mask, style, chosen, start_image, vae)
        said = cls.say(made.notice, warning=made.warning)
        return io.NodeOutput(made.image, made.mask, made.strip, made.curves, ui=said)


def _pictures() -> list[Any]:
    return [
        node_input(LOCAL_CLIP, "networks", tooltip="CLIP and the content's network (Load CLIP for Local Style)."),
        node_input(io.Image, "image", tooltip="The picture; any size. A batch is done picture by picture."),
        node_input(
            io.String,
            "style",
            default="",
            multiline=True,
            tooltip="The style in words, 'Starry Night by Van Gogh': for the mask, and for regions that carry none.",
        ),
        node_input(
            REGIONS, "regions", optional=True, tooltip="Things found elsewhere; each is done in the style it carries."
        ),
        node_input(
            io.Mask,
            "mask",
            optional=True,
            tooltip="Instead of regions: 1 = restyle, 0 = keep bit for bit. Without either the whole picture changes.",
        ),
        node_input(
            io.Image,
            "start_image",
            optional=True,
            tooltip="What the regions are at first: another method's result for the same picture. Best with 'pixels'.",
        ),
        node_input(io.Vae, "vae", optional=True, tooltip="The autoencoder whose latent is optimised; for 'latent'."),
    ]


def _method() -> list[Any]:
    shown = ("iterations", "optimise", "order", "content_weight", "patch_weight", "patch", "feather", "seed")
    seen = {name: override(advanced=False) for name in shown}
    hidden = [name for name in settings_of(LocalClipSettings) if name not in shown]
    return [*node_inputs(LocalClipSettings, **seen), *node_inputs(LocalClipSettings, *hidden)]


NODES = [LocalClipStyle]

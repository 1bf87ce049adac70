"""The ComfyUI node that edits by words alone."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override
from ...grounding.settings import Finding
from ...tinyworld.settings import WordsEditSettings

COMPOSITE = (
    "On: lay what was drawn over the picture by the mask that attention found, so that the rest stays bit for bit. "
    "Off: no mask takes part, and the rest is close to what it was."
)


class EditByWords(Node):
    """The tiny world draws a picture anew as an instruction wants it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleEditByWords",
            display_name="Edit by Words",
            category="RegionStyle",
            description="Edits a picture of the tiny world by an instruction alone: the model is shown the picture, "
            "reads what to make of it, and decides itself where that is. All of the picture is drawn anew. For Load "
            "Tiny World only; Restyle by Sentence works with every model and keeps the rest bit for bit.",
            search_aliases=["instruct pix2pix", "kontext", "instruction edit", "mask-free", "edit by instruction"],
            inputs=[
                node_input(io.Model, "model", tooltip="What Load Tiny World gives; other models are refused."),
                node_input(io.Clip, "clip", tooltip="The text encoder of Load Tiny World."),
                node_input(io.Vae, "vae", tooltip="The autoencoder of Load Tiny World."),
                node_input(io.Image, "image", tooltip="Pictures of the tiny world, 128 x 128 pixels."),
                node_input(
                    io.String,
                    "instruction",
                    default="make the orange triangle mosaic",
                    multiline=True,
                    tooltip="A shape, with or without its colour, and a style. Several are followed one after the "
                    "other: 'make the star mosaic and the blue moon neon'.",
                ),
                *node_inputs(WordsEditSettings, "seed", "steps", "cfg"),
                node_input(io.Boolean, "composite", default=False, tooltip=COMPOSITE),
                *node_inputs(Finding, strict=override(advanced=True)),
            ],
            outputs=[
                node_output(
                    io.Image,
                    "edited_image",
                    display_name="image",
                    tooltip="The pictures as the instruction wants them.",
                ),
                node_output(
                    io.Image,
                    "attention",
                    tooltip="Where the words of the instruction looked, over each picture; yellow is high.",
                ),
                node_output(
                    io.Mask,
                    "where",
                    tooltip="How much of each place the model wanted new, 0 to 1; it was found without any mask.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        instruction: str,
        composite: bool,
        strict: bool,
        **settings: Any,
    ) -> io.NodeOutput:
        from .words import edit_pictures

        (chosen,) = settings_from(settings, WordsEditSettings)
        made = edit_pictures(model, clip, vae, image, instruction, chosen, composite=composite, strict=strict)
        said = cls.say(made.notice, warning=made.warning)
        return io.NodeOutput(made.image, made.attention, made.where, ui=said)


NODES = [EditByWords]

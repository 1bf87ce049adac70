"""ComfyUI nodes of the style matching score."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override
from ..presets import REFERENCE
from ..settings import Framing, SmsSettings, StyleStrength


class SmsStylize(Node):
    """Optimise a picture towards the attached style while its content stays."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSmsStylize",
            display_name="SMS Stylize",
            category="RegionStyle",
            description="Optimises the picture itself, iteration by iteration, until the style expert takes it for one "
            "of its own, while a relevance map and the low frequencies hold its content (style matching score). Slower "
            "than Restyle Region, and keeps more. Without a mask the whole picture changes.",
            search_aliases=["style matching score", "style transfer", "distillation"],
            inputs=[*_pictures(), *_method(), *_details(), *_added()],
            outputs=[
                node_output(
                    io.Image, "stylized_image", display_name="image", tooltip="The picture in the style; same size."
                ),
                node_output(
                    io.Mask,
                    "stylized_mask",
                    display_name="mask",
                    tooltip="The mask it was blended with: 0 where nothing changed; 1 everywhere without a mask.",
                ),
                node_output(io.Image, "strip", tooltip="How the first picture came about, from left to right."),
                node_output(io.Image, "curves", tooltip="The three losses over the iterations."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        caption: str,
        style: str,
        mask: Any,
        strength: float,
        base: Any,
        **settings: Any,
    ) -> io.NodeOutput:
        from .sms import match_batch

        chosen, framing = settings_from(settings, SmsSettings, Framing)
        made = match_batch(model, clip, vae, image, mask, caption, style, strength, chosen, framing, base)
        said = cls.say(made.notice, warning=made.warning)
        return io.NodeOutput(made.image, made.mask, made.strip, made.curves, ui=said)


def _pictures() -> list[Any]:
    return [
        node_input(io.Model, "model", tooltip="The denoiser with style experts attached (Attach Style Expert)."),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(
            io.Image, "image", tooltip="The picture; any size. The pictures of a batch are optimised side by side."
        ),
        node_input(
            io.String, "caption", default="", multiline=True, tooltip="What the picture shows. It may be empty."
        ),
        node_input(
            io.String,
            "style",
            default="watercolor",
            tooltip="The style in words, as the expert was trained on; Attach Style Expert gives it.",
        ),
        node_input(
            io.Mask,
            "mask",
            optional=True,
            tooltip="1 = stylise, 0 = keep bit for bit. Without a mask the whole picture changes.",
        ),
    ]


def _method() -> list[Any]:
    usual = {"balance": override(default=REFERENCE.balance), "guidance": override(default=REFERENCE.guidance)}
    ranges = {"iterations": override(high=10000), "rate": override(low=1e-5)}
    names = ("iterations", "balance", "guidance", "rate", "seed")
    return [*node_inputs(StyleStrength, "strength"), *node_inputs(SmsSettings, *names, **usual, **ranges)]


def _details() -> list[Any]:
    method = node_inputs(SmsSettings, "preset", "schedule", "relevance", "fake_rate", "tolerance")
    return [*method, *node_inputs(Framing, "margin", "feather")]


def _added() -> list[Any]:
    """Inputs that older workflows do not have."""
    return [
        node_input(
            io.Model,
            "base",
            optional=True,
            tooltip="A plain model that the picture and the source are compared on, where the style's experts are on "
            "another checkpoint (as published). Unconnected: the model without its experts.",
        ),
        *node_inputs(SmsSettings, start=override(optional=True)),
        *node_inputs(Framing, "detail"),
    ]


NODES = [SmsStylize]

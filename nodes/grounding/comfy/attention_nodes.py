"""ComfyUI nodes that find things in pictures."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ..settings import AttentionSettings, Finding


class AttentionMask(Node):
    """A mask for a phrase, from the model's own attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleAttentionMask",
            display_name="Find by Attention",
            category="RegionStyle",
            description="Finds the thing a phrase names with the model's own cross-attention, without another network. "
            "A phrase that is not found gives an empty mask and a notice, or an error when strict.",
            search_aliases=["text2mask", "text to mask", "clipseg", "phrase mask", "attention map", "grounding"],
            inputs=[*model_inputs(), *_phrase_inputs(), *search_inputs()],
            outputs=[
                node_output(io.Mask, "mask", tooltip="1 inside the thing, 0 elsewhere, soft edge; one per image."),
                node_output(io.Image, "attention", tooltip="The attention laid over the picture: yellow is high."),
                node_output(
                    io.Float,
                    "score",
                    tooltip="How sure it is for the first image, 0 to 1 (see min_score), of what was not found too.",
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
        phrase: str,
        caption: str,
        strict: bool,
        **settings: Any,
    ) -> io.NodeOutput:
        from .attention import find_in_batch

        (chosen,) = settings_from(settings, AttentionSettings)
        found = find_in_batch(model, clip, vae, image, phrase, caption, chosen, strict)
        said = cls.say(found.notice, warning=found.warning)
        return io.NodeOutput(found.masks, found.pictures, found.score, ui=said)


def model_inputs() -> list[Any]:
    """The sockets every node that looks with a model has."""
    return [
        node_input(io.Model, "model", tooltip="The denoiser that looks for the thing: SD1.5 class (eps or v)."),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(io.Image, "image", tooltip="The picture; any size. It is looked at once, at the model's own size."),
    ]


def _phrase_inputs() -> list[Any]:
    return [
        node_input(
            io.String, "phrase", default="red star", tooltip="Words for the thing, as they stand in the caption."
        ),
        node_input(
            io.String,
            "caption",
            default="",
            tooltip="A sentence with the phrase in it. Empty: 'a PHRASE'. Naming "
            "what else is there helps to tell things apart.",
        ),
    ]


def search_inputs() -> list[Any]:
    """How attention looks, for every node that finds by it."""
    return [
        *node_inputs(AttentionSettings, "bias", "noise_samples", "seed"),
        *node_inputs(Finding, "strict"),
        *node_inputs(AttentionSettings, "min_score"),
    ]


NODES = [AttentionMask]

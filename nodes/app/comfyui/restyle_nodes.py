"""ComfyUI nodes that join slices: finding and restyling in one."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.errors import wrong_input
from ...engine.language.region_prompt import TEMPLATE
from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override
from ...grounding.comfy.region_nodes import REGIONS, regions_input
from ...grounding.settings import AttentionSettings, Finding
from ...router.comfy.expert_nodes import detail_inputs, restyle_settings_inputs
from ...router.settings import RestyleSettings


class RestyleSentence(Node):
    """Restyle everything a sentence names; everything else stays bit for bit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRestyleSentence",
            display_name="Restyle by Sentence",
            category="RegionStyle",
            description="Finds every thing a sentence names, restyles each by its own mask with the attached expert of "
            "its style, and leaves the rest. Where the output mask is 0 the picture equals the input bit for bit.",
            search_aliases=[
                "inpaint style",
                "cartoon",
                "watercolor",
                "text style transfer",
                "edit by instruction",
                "regional style",
            ],
            inputs=[
                *_sockets(),
                *_words(),
                *restyle_settings_inputs(own=True),
                *_looking(),
                *detail_inputs(),
                *_afterwards(),
            ],
            outputs=[
                node_output(
                    io.Image,
                    "restyled_image",
                    display_name="image",
                    tooltip="The pictures with the regions restyled; same size, same number.",
                ),
                node_output(
                    io.Mask,
                    "restyled_mask",
                    display_name="mask",
                    tooltip="What was blended in, of all regions together; 0 where nothing changed.",
                ),
                node_output(
                    REGIONS,
                    "restyled_regions",
                    display_name="regions",
                    tooltip="What was found for every thing; not found: empty mask, score 0.",
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
        sentence: str,
        template: str,
        negative: str,
        bias: float,
        strict: bool,
        regions: Any,
        harmonize: bool,
        **settings: Any,
    ) -> io.NodeOutput:
        from .sentence import SentenceRequest, restyle_sentence

        if regions is not None and bias != 0:
            remedy = "Set it to 0, or leave regions unconnected."
            raise wrong_input("bias", bias, "0 with regions, since attention is not used then", remedy)
        (chosen,) = settings_from(settings, RestyleSettings)
        request = SentenceRequest(sentence, template, negative, regions, strict, harmonize)
        looking = AttentionSettings(seed=chosen.seed, bias=bias)
        made = restyle_sentence(model, clip, vae, image, request, chosen, looking)
        said = cls.say(made.notice, warning=made.warning)
        return io.NodeOutput(made.image, made.mask, made.regions, ui=said)


def _sockets() -> list[Any]:
    return [
        node_input(
            io.Model,
            "model",
            tooltip="The denoiser with a style expert attached for every style the sentence may use. Without any, the "
            "prompt alone makes the style.",
        ),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(io.Image, "image", tooltip="The picture; any size. A batch is done picture by picture."),
        regions_input(
            optional=True,
            tooltip="Things found elsewhere: the sentence's words are looked up among theirs, and attention is not "
            'used. With an empty sentence their own styles count; a style alone, such as "mosaic", is for all of '
            "them.",
        ),
    ]


def _words() -> list[Any]:
    return [
        node_input(
            io.String,
            "sentence",
            default="make the red star mosaic and the moon neon",
            multiline=True,
            tooltip="What to restyle, and how: 'make the leftmost cat a watercolor, the sky pixel art, keep the dog'.",
        ),
        node_input(
            io.String,
            "template",
            default=TEMPLATE,
            tooltip="The prompt for each region: {phrase} is its thing, {style} its style. Add a LoRA's trigger here.",
            advanced=True,
        ),
        node_input(
            io.String,
            "negative",
            default="",
            tooltip="What no region shall show; acts when cfg is not 1.",
            advanced=True,
        ),
        *node_inputs(RestyleSettings, seed=override(help="Seed of all noise.")),
    ]


def _looking() -> list[Any]:
    bias = "Moves the threshold of masks found by attention: higher gives smaller masks. In log-odds."
    strict = "On: a thing that is not found stops the workflow with an error. Off: it is left out and named."
    return [
        *node_inputs(AttentionSettings, bias=override(help=bias)),
        *node_inputs(Finding, strict=override(help=strict)),
    ]


def _afterwards() -> list[Any]:
    return [
        node_input(
            io.Boolean,
            "harmonize",
            default=False,
            optional=True,
            tooltip="On: what was restyled is then fitted to the light around it, by the pack's small harmoniser.",
        )
    ]


NODES = [RestyleSentence]

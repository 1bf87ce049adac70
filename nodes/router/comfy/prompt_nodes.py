"""ComfyUI node that keeps the words of routed styles in their own regions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.node import Node
from .stack_nodes import CATEGORY

PROMPT_MODES = ("own prompts", "own words", "shared")


class RegionalPrompts(Node):
    """Style words that are read in their own region only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRegionalPrompts",
            display_name="Regional Prompts",
            category=CATEGORY,
            description="Keeps the words of each routed style in its own regions: other places do not read them. Use "
            "both outputs together.",
            search_aliases=["attention couple", "regional prompt", "attention isolation", "prompt per mask"],
            inputs=[
                node_input(io.Model, "model", tooltip="A model from Route Experts by Regions."),
                node_input(io.Clip, "clip", tooltip="The model's text encoder."),
                node_input(
                    io.String,
                    "prompt",
                    default="a picture",
                    multiline=True,
                    tooltip="With own prompts: what is outside all regions. Otherwise the whole prompt, which must "
                    "hold the words of every routed style.",
                ),
                node_input(
                    io.String,
                    "template",
                    default="a {phrase} in {style} style",
                    tooltip="With own prompts: the prompt of each style's regions; {phrase} is their things, {style} "
                    "the style. Add a LoRA's trigger here.",
                ),
                node_input(
                    io.Combo,
                    "isolation",
                    options=list(PROMPT_MODES),
                    default=PROMPT_MODES[0],
                    tooltip="own prompts: a prompt for each style, read in its regions only. own words: one prompt, "
                    "whose style and thing words are read in their regions only. shared: one prompt, read everywhere; "
                    "experts act on their own words (SD3, FLUX).",
                ),
            ],
            outputs=[
                node_output(io.Model, "MODEL", tooltip="The model that keeps the prompts apart; for KSampler."),
                node_output(io.Conditioning, "positive", tooltip="The prompt to use with that model as positive."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, prompt: str, template: str, isolation: str) -> io.NodeOutput:
        from .prompts import regional_prompts

        patched, positive, notice = regional_prompts(model, clip, prompt, template, isolation)
        said = cls.say("", warning=notice) if patched is model else cls.say(notice)  # the same: no thing was found
        return io.NodeOutput(patched, positive, ui=said)


NODES = [RegionalPrompts]

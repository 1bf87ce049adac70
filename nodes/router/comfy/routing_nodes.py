"""ComfyUI nodes that route a stack of style experts by regions or by prompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.region.regions import REGIONS_TYPE, Regions
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.sockets import custom_socket
from ..settings import NearestStyles, NoiseRange, RegionRouting
from .stack_nodes import CATEGORY, EXPERTS, GATE

REGIONS = custom_socket(REGIONS_TYPE, Regions)
MODES = ("named styles", "nearest styles", "learnt gate")


class RouteByRegions(Node):
    """Each region's style by its own expert, in one pass."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRouteByRegions",
            display_name="Route Experts by Regions",
            category=CATEGORY,
            description="Lets the expert of each region's style act inside that region's mask, all of them in one pass "
            "of the model. The model's weights are never changed; remove the node and it is the same bit for bit.",
            search_aliases=["regional lora", "lora mask", "multi style", "mixture of loras"],
            inputs=[
                _model(),
                _experts(),
                node_input(
                    REGIONS,
                    "regions",
                    tooltip="Regions with styles; one mask per picture of the batch. Regions of one style share its "
                    "expert. Where masks overlap, styles share the place.",
                ),
                *node_inputs(RegionRouting, "edge"),
                *_when(),
            ],
            outputs=[
                node_output(io.Model, "MODEL", tooltip="The model with the experts routed; the one given is unchanged.")
            ],
        )

    @classmethod
    def execute(cls, model: Any, experts: Any, regions: Any, edge: int, **when: Any) -> io.NodeOutput:
        from .routing import NOT_FOUND, by_regions

        patched, notice = by_regions(model, experts, regions, edge, *settings_from(when, NoiseRange))
        lost = "\n".join(line for line in notice.splitlines() if line.endswith(NOT_FOUND))
        return io.NodeOutput(patched, ui=cls.say(notice, warning=lost))


class RouteByPrompt(Node):
    """The experts a prompt means, everywhere."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRouteByPrompt",
            display_name="Route Experts by Prompt",
            category=CATEGORY,
            description="Chooses experts by the words of a prompt: those it names, those whose style is nearest in "
            "meaning, or what a learnt gate says. They act on the whole picture, in shares that sum to 1 at most.",
            search_aliases=["lora by prompt", "auto lora", "mixture of loras", "style router"],
            inputs=[
                _model(),
                _experts(),
                node_input(
                    io.String,
                    "prompt",
                    default="a red star in mosaic style",
                    multiline=True,
                    tooltip="The prompt, or only the words for the style. For nearest styles, fewer other words tell "
                    "styles apart better.",
                ),
                node_input(
                    io.Combo,
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="named styles: the experts whose phrases stand in the prompt, in equal shares. nearest "
                    "styles: by meaning, with the text encoder; needs clip.",
                ),
                *node_inputs(NearestStyles, "top_k", "temperature", "floor"),
                *_when(),
                node_input(
                    io.Clip,
                    "clip",
                    optional=True,
                    tooltip="The model's text encoder, for nearest styles and a learnt gate.",
                ),
                node_input(
                    GATE,
                    "gate",
                    optional=True,
                    tooltip="For learnt gate: one trained for the experts of this stack, from Load Learnt Gate.",
                ),
            ],
            outputs=[
                node_output(io.Model, "MODEL", tooltip="The model with the experts; the one given is unchanged."),
                node_output(io.String, "weights", tooltip="Every expert and its share, one per line."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        experts: Any,
        prompt: str,
        mode: str,
        clip: Any,
        gate: Any,
        **settings: Any,
    ) -> io.NodeOutput:
        from ..gates.learnt_gate import checked_with_mode
        from .routing import NO_EXPERT, by_prompt

        checked_with_mode(gate, mode == MODES[2])
        nearest, when = settings_from(settings, NearestStyles, NoiseRange)
        soft = {MODES[0]: None, MODES[1]: (nearest.top_k, nearest.temperature, nearest.floor), MODES[2]: gate}[mode]
        patched, weights = by_prompt(model, clip, experts, prompt, soft, when)
        said = cls.say(weights, warning=NO_EXPERT if weights.endswith(NO_EXPERT) else "")
        return io.NodeOutput(patched, weights, ui=said)


def _model() -> Any:
    return node_input(
        io.Model,
        "model",
        tooltip="The denoiser: SD1.5, SD2, SDXL, SD3 or FLUX.1. Experts attached before stay.",
    )


def _experts() -> Any:
    return node_input(EXPERTS, "experts", tooltip="A stack from Stack Style Expert. Those not needed are not loaded.")


def _when() -> list[Any]:
    """During which part of the denoising experts act."""
    return node_inputs(NoiseRange, "start", "end")


NODES = [RouteByRegions, RouteByPrompt]

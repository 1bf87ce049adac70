"""ComfyUI nodes that stack style experts and route them by regions or by prompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.region.regions import REGIONS_TYPE, Regions
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override
from ...engine.settings.sockets import custom_socket
from ..experts import EXPERTS_TYPE, Experts
from ..gates.learnt_gate import GATE_TYPE, LearntGate
from ..settings import ExpertSettings, NearestStyles, NoiseRange, RegionRouting

EXPERTS = custom_socket(EXPERTS_TYPE, Experts)
REGIONS = custom_socket(REGIONS_TYPE, Regions)
GATE = custom_socket(GATE_TYPE, LearntGate)
CATEGORY = "RegionStyle/experts"
MODES = ("named styles", "nearest styles", "learnt gate")
PROMPT_MODES = ("own prompts", "own words", "shared")
STACKED_STRENGTH = "How strongly the style acts where it is routed to: 0 off, 1 as trained, negative away."


class ExpertStack(Node):
    """One more expert on a stack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .experts import expert_choices

        return node_schema(
            node_id="RegionStyleExpertStack",
            display_name="Stack Style Expert",
            category=CATEGORY,
            description="Puts a style LoRA on a stack, with the words that mean its style. Chain nodes for more; route "
            "the stack by regions or by prompt. Nothing is loaded here.",
            search_aliases=["lora stack", "style lora", "experts"],
            inputs=[
                node_input(
                    io.Combo,
                    "expert",
                    options=expert_choices(),
                    tooltip="A LoRA file from models/loras; those under tinyworld/ come with the pack and fit its tiny "
                    "world only.",
                ),
                node_input(
                    io.String,
                    "phrases",
                    default="",
                    tooltip="The words that mean this style, commas between them; the first is the usual one. Empty: "
                    "what the file says, else its name.",
                ),
                *node_inputs(ExpertSettings, strength=override(help=STACKED_STRENGTH)),
                node_input(
                    io.String,
                    "name",
                    default="",
                    tooltip="What the expert is called in notices, and another way to ask for it. Empty: its style.",
                    advanced=True,
                ),
                node_input(EXPERTS, "experts", optional=True, tooltip="The stack to add to; none begins a new one."),
            ],
            outputs=[
                node_output(
                    EXPERTS,
                    "stacked_experts",
                    display_name="experts",
                    tooltip="The stack given, then this expert.",
                ),
                node_output(io.String, "style", tooltip="This expert's usual style words, for prompts."),
            ],
        )

    @classmethod
    def execute(cls, expert: str, phrases: str, strength: float, name: str, experts: Any) -> io.NodeOutput:
        from .routing import stacked

        made = stacked(experts, expert, name, phrases, strength)
        return io.NodeOutput(made, made.items[-1].phrases[0])


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
        from .routing import by_regions

        patched, notice = by_regions(model, experts, regions, edge, *settings_from(when, NoiseRange))
        return io.NodeOutput(patched, ui=ui.PreviewText(notice))


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
        from .routing import by_prompt

        checked_with_mode(gate, mode == MODES[2])
        nearest, when = settings_from(settings, NearestStyles, NoiseRange)
        soft = {MODES[0]: None, MODES[1]: (nearest.top_k, nearest.temperature, nearest.floor), MODES[2]: gate}[mode]
        patched, weights = by_prompt(model, clip, experts, prompt, soft, when)
        return io.NodeOutput(patched, weights, ui=ui.PreviewText(weights))


class LoadLearntGate(Node):
    """A learnt gate from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .gate_folders import gate_choices

        return node_schema(
            node_id="RegionStyleLoadGate",
            display_name="Load Learnt Gate",
            category=CATEGORY,
            description="Loads a small network that reads the prompt and says how much each expert acts, for Route "
            "Experts by Prompt. Nothing is downloaded.",
            search_aliases=["router", "mixture of experts", "lora router", "style router"],
            inputs=[
                node_input(
                    io.Combo,
                    "file",
                    options=gate_choices(),
                    tooltip="A .safetensors in models/regionstyle_gates, trained by regionstyle train gate. Those "
                    "under tinyworld/ come with the pack and know its seven styles.",
                )
            ],
            outputs=[
                node_output(GATE, "gate", tooltip="The gate, for Route Experts by Prompt in the mode learnt gate."),
                node_output(io.String, "styles", tooltip="The experts it knows, one per line, in its order."),
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from .gate_folders import load

        gate = load(file)
        styles = "\n".join(gate.experts)
        return io.NodeOutput(gate, styles, ui=ui.PreviewText(styles))


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
        return io.NodeOutput(patched, positive, ui=ui.PreviewText(notice))


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


NODES = [ExpertStack, RouteByRegions, RouteByPrompt, LoadLearntGate, RegionalPrompts]

"""ComfyUI nodes that bring what routing works with: a stack of style experts, a learnt gate."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override
from ...engine.settings.sockets import custom_socket
from ..experts import EXPERTS_TYPE, Experts
from ..gates.learnt_gate import GATE_TYPE, LearntGate
from ..settings import ExpertSettings

EXPERTS = custom_socket(EXPERTS_TYPE, Experts)
GATE = custom_socket(GATE_TYPE, LearntGate)
CATEGORY = "RegionStyle/experts"
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
            search_aliases=["lora stack", "style lora", "regional lora", "experts"],
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
    def fingerprint_inputs(cls, expert: str | None = None, **others: Any) -> str:
        """Changes with the file, of which ComfyUI sees the name only."""
        from ...engine.io.expert_files import expert_mark

        return expert_mark(expert)

    @classmethod
    def validate_inputs(cls, expert: str | None = None) -> bool | str:
        """Names with "/" are right on Windows too, whose lists hold others."""
        from .experts import missing_expert

        return missing_expert(expert)

    @classmethod
    def execute(cls, expert: str, phrases: str, strength: float, name: str, experts: Any) -> io.NodeOutput:
        from .routing import stacked

        made = stacked(experts, expert, name, phrases, strength)
        return io.NodeOutput(made, made.items[-1].phrases[0])


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
    def fingerprint_inputs(cls, file: str | None = None, **others: Any) -> str:
        """Changes with the file, of which ComfyUI sees the name only."""
        from ...engine.io.comfy_files import chosen_mark
        from .gate_folders import KIND

        return chosen_mark(KIND, file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from .gate_folders import load

        gate = load(file)
        styles = "\n".join(gate.experts)
        return io.NodeOutput(gate, styles, ui=cls.say(styles))


NODES = [ExpertStack, LoadLearntGate]

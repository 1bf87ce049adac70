"""What every node that trains an expert shows alike: the expert's name, going on, and what comes out."""

from __future__ import annotations

from typing import Any

from ..node_schema import node_input, node_output


def name_input() -> Any:
    """The file name of the expert."""
    from comfy_api.latest import io

    return node_input(
        io.String,
        "name",
        default="",
        tooltip="File name of the expert in models/loras/regionstyle; empty: the style's words. An existing file "
        "is never replaced: the new one gets a number.",
    )


def resume_input() -> Any:
    """Whether to go on with a training of that name."""
    from comfy_api.latest import io

    return node_input(
        io.Boolean,
        "resume",
        default=False,
        tooltip="Go on where a training of this name was stopped, or add steps to a finished one. Everything but "
        "steps must be as it was.",
    )


def trained_outputs(previews: str) -> list[Any]:
    """The fields of `TrainedOnComfy`; previews: the tooltip that says what is drawn."""
    from comfy_api.latest import io

    return [
        node_output(io.Model, "trained_model", display_name="model", tooltip="The model with the new expert on it."),
        node_output(io.String, "file", tooltip="The LoRA file as Attach Style Expert and other loaders list it."),
        node_output(io.Image, "previews", tooltip=previews),
        node_output(io.Image, "curve", tooltip="The loss over the steps, smoothed."),
    ]

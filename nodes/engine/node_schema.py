"""Node schemas and inputs that read the same on every supported ComfyUI.

ComfyUI 0.3.64 raises a TypeError for keywords that later versions added. The
functions here leave exactly those keywords out where they are unknown; a keyword that no version knows still fails,
so that a typing error is not swallowed.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

# Added to io.Schema and to the inputs after 0.3.64. None of them changes what a node computes.
LATER_SCHEMA_FIELDS = frozenset({"search_aliases", "essentials_category", "is_dev_only", "has_intermediate_output"})
LATER_INPUT_FIELDS = frozenset({"advanced", "extra_dict", "gradient_stops", "raw_link"})


def node_schema(**fields: Any) -> Any:
    """`io.Schema(**fields)` without the later fields that this ComfyUI does not know.

    TypeError where an input and an output have one id: 0.3.64 would leave out that node and all after it.
    """
    from comfy_api.latest import io

    inputs, outputs = ({slot.id for slot in fields.get(side, ())} for side in ("inputs", "outputs"))
    if shared := sorted(inputs & outputs):
        raise TypeError(f"{fields['node_id']}: {', '.join(shared)}: an input and an output with one id.")
    return io.Schema(**known_fields(io.Schema, fields, LATER_SCHEMA_FIELDS))


def node_input(kind: Any, name: str, **options: Any) -> Any:
    """`kind.Input(name, **options)`, for example `node_input(io.Float, "strength", default=0.6, advanced=True)`."""
    return kind.Input(name, **known_fields(kind.Input, options, LATER_INPUT_FIELDS))


def node_output(kind: Any, name: str, **options: Any) -> Any:
    """`kind.Output(...)` with its display name set, which 0.3.64 would otherwise replace by the type's name."""
    return kind.Output(**{"id": name, "display_name": name, **options})


def known_fields(call: Callable[..., Any], fields: dict[str, Any], later: Iterable[str]) -> dict[str, Any]:
    """`fields` without those of `later` that `call` has no parameter for."""
    known = inspect.signature(call).parameters
    return {name: value for name, value in fields.items() if name in known or name not in later}

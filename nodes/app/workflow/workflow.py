"""ComfyUI workflow files in their two forms, read into the one form that a server runs.

UI form is what Save in the browser writes: `nodes` with values by position, and `links` (`docs.comfy.org`, workflow
JSON). API form is what File > Export (API) writes: node id -> class and inputs by name. Only API form can be run, so
UI form is converted as the browser does it when it queues; for that the definitions of the nodes (`/object_info`) are
needed. Subgraphs become their nodes, with ids such as "7:3" for node 3 of subgraph node 7.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engine.errors import RegionStyleError
from .levels import Level, Node, executed, expand
from .links import source_of
from .promoted import Promoted, Value
from .widgets import as_constant
from .workflow_shape import check_api_form, check_circles, check_ui_form, is_ui_form

Prompt = dict[str, dict[str, Any]]


def read_workflow(path: Path) -> dict[str, Any]:
    """The JSON in the file, with or without a byte-order mark; RegionStyleError when it is no workflow."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of the encoding too
        raise RegionStyleError(f"{path}: not a JSON file ({error}). Save the workflow from ComfyUI.") from error
    except RecursionError:
        raise RegionStyleError(f"{path}: nested too deeply for a workflow. Save it again from ComfyUI.") from None
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]  # the body of a POST /prompt
    if not isinstance(data, dict) or not data:
        raise RegionStyleError(f"{path}: not a ComfyUI workflow. Save it from ComfyUI: Save, or Export (API).")
    try:
        (check_ui_form if is_ui_form(data) else check_api_form)(data)
    except RegionStyleError as error:
        raise RegionStyleError(f"{path}: {error}") from None
    return data


def class_types(data: Mapping[str, Any]) -> set[str]:
    """The node classes that must be known to run the workflow, in either form."""
    if is_ui_form(data):
        return {node["type"] for level in expand(data) for _, node in executed(level)}
    return {node["class_type"] for node in data.values()}


def to_api_form(data: Mapping[str, Any], definitions: Mapping[str, Any]) -> Prompt:
    """The workflow in API form; `definitions` is `/object_info` for at least `class_types(data)`.

    RegionStyleError for links from nothing, links in a circle, and what only the browser can convert.
    """
    if is_ui_form(data):
        promoted = Promoted(definitions)
        prompt = {
            node_id: _convert(level, node, promoted) for level in expand(data) for node_id, node in executed(level)
        }
        check_circles(prompt)
        return prompt
    return {str(node_id): {**node, "inputs": dict(node.get("inputs") or {})} for node_id, node in data.items()}


def _convert(level: Level, node: Node, promoted: Promoted) -> dict[str, Any]:
    definition = promoted.definition(node)
    inputs = {name: as_constant(value) for name, value in promoted.widgets(level, node).items()}
    for slot in node.get("inputs") or []:
        source = source_of(level, node, slot, promoted)
        if source is not None:
            inputs[slot["name"]] = as_constant(source.value) if isinstance(source, Value) else source
    title = node.get("title") or definition.get("display_name") or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}

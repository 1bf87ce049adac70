"""ComfyUI's refusals and failures as one line that names the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine.errors import RegionStyleError
from ..workflow.workflow import Prompt
from ..workflow.workflow_edit import describe_node


def refused(prompt: Prompt, error: Any, node_errors: Mapping[str, Any]) -> RegionStyleError:
    """The answer to a prompt that did not pass ComfyUI's validation.

    error: `{"message", "details", ...}` or text; node_errors: `{node id: {"errors": [...]}}`.
    """
    problems = [
        _node_problem(prompt, node_id, problem) for node_id, e in node_errors.items() for problem in e["errors"]
    ]
    if not problems:
        problems = [_text(error)]
    return RegionStyleError(f"ComfyUI refuses the workflow: {'; '.join(problems)}")


def left_out(prompt: Prompt, node_errors: Mapping[str, Any]) -> list[str]:
    """One sentence for each node that kept branches from being run: which branches, and what is wrong with it."""
    sentences = []
    for node_id, error in node_errors.items():
        branches = ", ".join(describe_node(prompt, str(branch)) for branch in error.get("dependent_outputs") or ["?"])
        problems = "; ".join(_node_problem(prompt, node_id, problem) for problem in error["errors"])
        sentences.append(f"left out: node {branches}, because of {problems}")
    return sentences


def _node_problem(prompt: Prompt, node_id: str, problem: Mapping[str, Any]) -> str:
    return f"node {describe_node(prompt, str(node_id))}: {_text(problem)}"


def _text(error: Any) -> str:
    if not isinstance(error, Mapping):
        return str(error)
    parts = [str(error.get(key, "")).strip() for key in ("message", "details")]
    return ": ".join(part for part in parts if part)


def failed(prompt: Prompt, event: Mapping[str, Any]) -> RegionStyleError:
    """The `execution_error` of a node: its own words, which are the message when the pack raised it."""
    kind = str(event.get("exception_type", "")).rsplit(".", 1)[-1]
    words = " ".join(str(event.get("exception_message", "")).split())
    own = kind == RegionStyleError.__name__
    node = describe_node(prompt, str(event.get("node_id", "?")))
    return RegionStyleError(f"node {node} failed: {words if own else f'{kind}: {words}'}")


def interrupted() -> RegionStyleError:
    return RegionStyleError("the workflow was interrupted in ComfyUI; what it made before that is written")


def missing_nodes(names: set[str], place: str) -> RegionStyleError:
    return RegionStyleError(
        f"{place} has no node {', '.join(sorted(names))}. Install the pack that brings it into that ComfyUI and start "
        "it again; for a node that lives in the browser only, as Get and Set nodes do, save with File > Export (API)."
    )

"""Changing a workflow from the command line: `--input NAME=FILE` and `--set NODE.INPUT=VALUE`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...engine.errors import RegionStyleError
from .widgets import input_specs, input_type
from .workflow import Prompt

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def node_title(prompt: Prompt, node_id: str) -> str:
    node = prompt[node_id]
    return str((node.get("_meta") or {}).get("title") or node["class_type"])


def describe_node(prompt: Prompt, node_id: str) -> str:
    """How messages name a node: its title and its id."""
    return f'"{node_title(prompt, node_id)}" ({node_id})' if node_id in prompt else f"({node_id})"


def find_nodes(prompt: Prompt, name: str) -> list[str]:
    """Ids of the nodes with this id or, if there is none, with this title in any case."""
    if name in prompt:
        return [name]
    return [node_id for node_id in prompt if node_title(prompt, node_id).lower() == name.lower()]


def _one(prompt: Prompt, nodes: list[str], option: str, name: str, candidates: list[str]) -> str:
    if len(nodes) == 1:
        return nodes[0]
    problem = "several nodes are called" if nodes else "no node is called"
    names = ", ".join(describe_node(prompt, node_id) for node_id in nodes or candidates)
    raise RegionStyleError(f"{option} {name}: {problem} {name!r}. Give the number of one of: {names or 'none'}.")


def set_input_file(
    prompt: Prompt, definitions: Mapping[str, Any], name: str, file: Path, upload: Callable[[Path], str]
) -> None:
    """Puts `file` into the load node called `name`: its id, its title, or the file that it holds now.

    upload: hands the file to ComfyUI and returns the name it has there.
    """
    if not file.is_file():
        raise RegionStyleError(f"--input {name}: there is no file {file}. Check the path.")
    loaders = {node_id: key for node_id in prompt if (key := _file_input(prompt[node_id], definitions))}
    nodes = [node_id for node_id in find_nodes(prompt, name) if node_id in loaders]
    nodes = nodes or [i for i, key in loaders.items() if _holds_file(prompt[i]["inputs"].get(key), name)]
    node_id = _one(prompt, nodes, "--input", name, list(loaders))
    prompt[node_id]["inputs"][loaders[node_id]] = upload(file)


def _holds_file(value: Any, name: str) -> bool:
    """Whether a file input holds `name`, with or without the folder and the trailing "[input]" of its value."""
    return isinstance(value, str) and name in (value, Path(value.rsplit(" [", 1)[0]).name)


def _file_input(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> str | None:
    """The input of a node that takes an uploaded file."""
    for name, (_, options) in input_specs(definitions[node["class_type"]]):
        if any(key.endswith("_upload") and value for key, value in options.items()):
            return name
    return None


def set_value(prompt: Prompt, definitions: Mapping[str, Any], target: str, text: str) -> None:
    """`target` is NODE.INPUT; the text becomes what the input's type asks for."""
    name, dot, key = target.rpartition(".")
    if not dot or not name or not key:
        raise RegionStyleError(f"--set {target}: give NODE.INPUT=VALUE, for example 3.seed=7.")
    node_id = _one(prompt, find_nodes(prompt, name), "--set", name, list(prompt))
    specs = dict(input_specs(definitions[prompt[node_id]["class_type"]]))
    if key not in specs:
        known = ", ".join(specs) or "none"
        node = describe_node(prompt, node_id)
        raise RegionStyleError(f"--set {target}: node {node} has no input {key!r}. It has: {known}.")
    prompt[node_id]["inputs"][key] = convert_value(text, specs[key], target)


def convert_value(text: str, spec: list[Any], target: str) -> Any:
    """The text as the value of an input of this type; `target` names the option in the error."""
    kind = input_type(spec)
    if kind == "STRING":
        return text
    if kind == "COMBO":
        return _choice(text, spec[0] if isinstance(spec[0], list) else spec[1].get("options", []), target)
    if kind == "BOOLEAN" and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    expected = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}.get(kind)
    if expected is None:
        raise RegionStyleError(f"--set {target}: this input takes a {kind} from another node, not a value.")
    try:
        return {"INT": int, "FLOAT": float}[kind](text)
    except (KeyError, ValueError):
        raise RegionStyleError(f"--set {target}: {text!r} is not {expected}.") from None


def _choice(text: str, choices: list[Any], target: str) -> Any:
    """The choice that reads like the text; a combo without a list (filled by the browser) takes any text."""
    if not choices:
        return text
    for choice in choices:
        if str(choice) == text:
            return choice
    raise RegionStyleError(f"--set {target}: {text!r} is not a choice. Choose one of: {', '.join(map(str, choices))}.")

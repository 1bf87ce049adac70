"""`regionstyle run`: a ComfyUI workflow without the browser, on a running server or the ComfyUI of this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ...engine.errors import RegionStyleError
from ..comfyui.connect import Comfy, connect
from ..comfyui.errors import missing_nodes
from ..comfyui.progress import RunProgress
from ..comfyui.workflow import Prompt, class_types, read_workflow, to_api_form
from ..comfyui.workflow_edit import set_input_file, set_value
from ..files import free_name


def run_workflow(args: argparse.Namespace) -> int:
    """Runs `args.workflow` with the changes asked for; writes its images to `args.out` and their paths to stdout."""
    workflow = read_workflow(args.workflow)
    with closing(connect(args.server)) as comfy:
        prompt = prepare(comfy, workflow, inputs=args.input, values=args.set)
        with RunProgress(prompt) as progress:
            outputs = comfy.execute(prompt, progress.on_event)
        written = write_images(comfy, outputs, args.out)
    if not written:
        raise RegionStyleError(f"{args.workflow}: the workflow ran, but no node of it saves or shows an image.")
    for path in written:
        sys.stdout.write(f"{path}\n")
    return 0


def prepare(
    comfy: Comfy, workflow: Mapping[str, Any], *, inputs: list[tuple[str, str]], values: list[tuple[str, str]]
) -> Prompt:
    """The workflow in API form with `--input` and `--set` applied; files are uploaded on the way."""
    names = class_types(workflow)
    definitions = comfy.definitions(names)
    if missing := names - set(definitions):
        raise missing_nodes(missing, comfy.place)
    prompt = to_api_form(workflow, definitions)
    for target, text in values:
        set_value(prompt, definitions, target, text)
    for name, file in inputs:
        set_input_file(prompt, definitions, name, Path(file), comfy.upload)
    return prompt


def write_images(comfy: Comfy, outputs: Mapping[str, Any], folder: Path) -> list[Path]:
    """Every image that a node saved or showed, in `folder`; an earlier file is never overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for image in _images(outputs):
        place = free_name(folder / Path(image["filename"]).name)
        place.write_bytes(comfy.read(image))
        written.append(place)
    return written


def _images(outputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for output in outputs.values():
        for image in output.get("images", []):
            # Nodes that only load a picture may list the input file itself.
            if isinstance(image, Mapping) and image.get("type") in ("output", "temp"):
                yield image

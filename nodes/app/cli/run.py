"""`regionstyle run`: a ComfyUI workflow without the browser, on a running server or the ComfyUI of this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ...engine.errors import wrong_input
from ..comfyui.connect import Comfy, connect
from ..comfyui.errors import left_out, missing_nodes
from ..comfyui.progress import RunProgress
from ..comfyui.results import deliver
from ..workflow.workflow import Prompt, class_types, read_workflow, to_api_form
from ..workflow.workflow_edit import set_input_file, set_value
from .arguments import DONE, NOTHING_TO_DO, PARTLY_FAILED
from .console import say


def run_workflow(args: argparse.Namespace) -> int:
    """Runs `args.workflow` with the changes asked for; writes what it makes to `args.out` and the paths to stdout.

    What was made before a failure or Ctrl-C is written too.
    """
    workflow = read_workflow(args.workflow)
    with closing(connect(args.server)) as comfy:
        prompt = prepare(comfy, workflow, inputs=args.input, values=args.set)
        written: list[Path] = []
        with RunProgress(prompt) as progress, _delivered(comfy, args.out, written):
            node_errors = comfy.execute(prompt, progress.on_event, partial=args.partial)
            for node, text in comfy.texts():
                progress.say(node, text)
    for sentence in left_out(prompt, node_errors):
        say(sentence)
    if not written:
        say(f"nothing was made: no node of {args.workflow} saves or shows a file")
    if node_errors:
        return PARTLY_FAILED
    return NOTHING_TO_DO if args.strict and not written else DONE


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


@contextmanager
def _delivered(comfy: Comfy, folder: Path, written: list[Path]) -> Iterator[None]:
    """Writes what was made when the block ends, in whatever way; adds the paths to `written` and prints them."""
    try:
        yield
    finally:
        for state in comfy.unfinished():
            say(f"an unfinished training is kept in {state}: run the workflow again with resume switched on")
        try:
            for path in deliver(comfy.results(), folder):
                written.append(path)
                sys.stdout.write(f"{path}\n")
        except OSError as error:
            kept = comfy.keep()
            remedy = f"What was made is kept in {kept}." if kept else "What was made is kept on the server."
            raise wrong_input("--out", f"{folder} ({error.strerror or error})", "a place with room", remedy) from error

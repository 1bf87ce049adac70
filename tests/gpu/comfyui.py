"""ComfyUI for the parts of a run: where it is, a server of it, prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry import LeftOut, Run

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows" / "api"


def find() -> tuple[Path, Path]:
    """ComfyUI's folder and its Python; LeftOut where there is none."""
    from regionstyle.nodes.app.comfyui.install import comfy_python, find_comfy
    from regionstyle.nodes.engine.errors import RegionStyleError

    try:
        folder = find_comfy()
        return folder, comfy_python(folder)
    except RegionStyleError as error:
        raise LeftOut(str(error)) from error


@contextmanager
def serving(run: Run, *flags: str) -> Iterator[Any]:
    """A server on the run's device, stopped at the end; its log goes to the run's."""
    import sys

    from comfy_server import ComfyServer

    folder, python = find()
    flags = (*flags, *(() if run.device == "cuda" else ("--cpu",)))
    server = ComfyServer(folder, python, run.scratch / "server", flags=flags)
    try:
        yield server
    finally:
        server.stop()
        sys.stdout.write(server.log_text())


def workflow(name: str, seed: int) -> dict[str, Any]:
    """A workflow of the pack with another seed, so that nothing of it comes from ComfyUI's cache."""
    prompt: dict[str, Any] = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        node["inputs"] |= {key: seed for key in ("seed", "noise_seed") if key in node["inputs"]}
        if "Train" in node["class_type"] and "name" in node["inputs"]:
            node["inputs"]["name"] += f" {seed}"
    return prompt


def shortened(prompt: dict[str, Any], most: int) -> dict[str, Any]:
    """The same with fewer iterations and steps."""
    for node in prompt.values():
        long = {key: min(value, most) for key, value in node["inputs"].items()
                if key in ("iterations", "warm_up", "steps") and isinstance(value, int)}  # fmt: skip
        node["inputs"] |= long
    return prompt

"""Runs a script inside ComfyUI's own interpreter, with its modules and this pack importable."""

import json
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# ComfyUI reads the command line when comfy.cli_args is first imported, so --cpu must be there before.
# `utils` must be imported before `nodes`: on 0.3.64 the name would otherwise resolve to comfy/utils.py.
# The pack is a module made from the repository's __init__.py: its folder may have any name.
PREAMBLE = """
import importlib.util, json, os, sys
sys.argv = ["script", *json.loads(os.environ["REGIONSTYLE_TEST_ARGS"])]
sys.path.insert(0, os.environ["REGIONSTYLE_TEST_COMFY"])
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config
_root = os.environ["REGIONSTYLE_TEST_PACK"]
_spec = importlib.util.spec_from_file_location(
    "regionstyle", os.path.join(_root, "__init__.py"), submodule_search_locations=[_root])
regionstyle = importlib.util.module_from_spec(_spec)
sys.modules["regionstyle"] = regionstyle
_spec.loader.exec_module(regionstyle)
"""


def run_script(
    comfy: Path, python: Path, script: str, *, args: tuple[str, ...] = (), seconds: float = 600, cpu: bool = True
) -> dict:
    """What the script writes as JSON on its last line of stdout.

    args: further ComfyUI options, for example ("--base-directory", str(folder)); without `cpu` ComfyUI takes a GPU.
    """
    done = subprocess.run(
        [str(python), "-c", PREAMBLE + script],
        cwd=comfy, env=environment_of(comfy, args, cpu), capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    return result_of(done)


def environment_of(comfy: Path, args: tuple[str, ...] = (), cpu: bool = True) -> dict[str, str]:
    """What `PREAMBLE` reads, and this process's own variables."""
    environment = {
        **os.environ,
        "REGIONSTYLE_TEST_ARGS": json.dumps(["--cpu", *args] if cpu else list(args)),
        "REGIONSTYLE_TEST_COMFY": str(comfy),
        "REGIONSTYLE_TEST_PACK": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("PYTHONPATH", None)
    return environment


def result_of(done: subprocess.CompletedProcess) -> dict:
    """The last line's JSON; AssertionError with what the script said when it failed or wrote nothing."""
    if done.returncode:
        raise AssertionError(f"the script failed ({done.returncode}):\n{done.stderr[-6000:]}\n{done.stdout[-2000:]}")
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise AssertionError(f"the script wrote nothing on stdout:\n{done.stderr[-4000:]}")
    return json.loads(lines[-1])


def each_once(run: Callable[..., dict], start: str = "") -> Callable[[str], dict]:
    """`call(script)`: the result of `run(start + script)`, which runs each script only the first time."""
    return cache(lambda script: run(start + script))


@cache
def has_gpu(python: Path) -> bool:
    """Whether the torch of an interpreter sees a GPU."""
    script = "import torch; print(torch.cuda.is_available())"
    return subprocess.run([str(python), "-c", script], capture_output=True, text=True).stdout.strip() == "True"

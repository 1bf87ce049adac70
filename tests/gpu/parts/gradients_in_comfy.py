"""Part 2: gradients through models that ComfyUI streams, against finite differences, in prompts of its server.

Tests of the pack that are skipped where there is no GPU, in a dry run too: the same ones run on the CPU by themselves.
"""

from comfyui import find
from device_tests import run_tests
from registry import Run, part


@part("server-gradients", order=22, seconds=80)
def gradients(run: Run) -> None:
    find()
    run_tests(run, "engine/adapters/test_comfy_dynamic_memory.py", options=("-k", "finite and gpu"))


@part("attention-maps", order=23, seconds=60)
def maps(run: Run) -> None:
    """Maps of every family that ComfyUI runs, of prompts of different length and under its memory management."""
    find()
    run_tests(run, "engine/families/test_comfy_family_maps.py", options=("-k", "on_gpu"))

"""Workflows for weights that are not here, with what ships in their place: for thumbnails, where noise says nothing.

The tiny world stands in for a checkpoint and its experts for LoRAs, with its usual values. FLUX.1 Kontext is shown by
the same edit in the tiny world: the painted thing redrawn by a pixel art expert.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from regionstyle.nodes.tinyworld.bundled import expert_files

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
RESTYLES = {"steps": 6, "cfg": 1.0, "enlarge": 1.0, "feather": 2}
SAMPLES = {"steps": 12, "cfg": 4.0}


def load(name: str) -> dict[str, Any]:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def standing_in(name: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """The workflow to run for a thumbnail; most are the given one itself."""
    if name == "detect_and_segment":  # the small vision-language model knows where the things are
        reader = load("read_request_with_vlm")
        return {**prompt, "2": reader["2"], "3": reader["3"]}
    if name == "kontext_with_published_experts":
        edit = load("checkpoint_lora_painted_mask")
        edit["3"]["inputs"]["expert"] = "pixel_art.safetensors"
        edit["4"]["inputs"]["prompt"] = "an orange triangle in pixel art style"
        return with_tiny_world(edit)
    loads = any(node["class_type"] == "CheckpointLoaderSimple" for node in prompt.values())
    return with_tiny_world(prompt) if loads else prompt


def with_tiny_world(prompt: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(prompt)
    for node in made.values():
        inputs = node["inputs"]
        if node["class_type"] == "CheckpointLoaderSimple":
            node |= {"class_type": "RegionStyleTinyWorldLoader", "inputs": {}}
        elif node["class_type"] == "RegionStyleExpert":
            style = Path(inputs["expert"]).stem.replace("_", " ")
            inputs["expert"] = f"tinyworld/{expert_files()[style].name}"
        elif "enlarge" in inputs:  # by a sentence each style's own strength counts
            inputs |= {**RESTYLES, "strength": 0.0 if "sentence" in inputs else 0.5}
        elif node["class_type"] == "KSampler":
            inputs |= SAMPLES
        elif node["class_type"] == "EmptyLatentImage":
            inputs |= {"width": 128, "height": 128}
    return _in_its_words(made)


def _in_its_words(prompt: dict[str, Any]) -> dict[str, Any]:
    """With a thing that the tiny world knows where a workflow draws a new one."""
    for node in prompt.values():
        if node["class_type"] == "RegionStyleAttentionGuidance":
            node["inputs"]["prompt"] = "a red star on plain background"
            prompt[node["inputs"]["regions"][0]]["inputs"]["phrase"] = "red star"
    return prompt

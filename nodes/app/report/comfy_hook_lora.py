"""ComfyUI's own way to give a region its style: a hook LoRA on a masked conditioning, run in ComfyUI itself."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.lora.style_key import style_slug
from ...tinyworld.comfy_tinyworld import FOR_ALL
from ..comfyui.connect import connect
from ..local_model import tiny_settings
from ..pictures import save_image
from ..workflow.workflow import Prompt


def hook_lora_workflow(image: str, mask: str, expert: str, task: Any) -> Prompt:
    """The workflow in API form: the styled prompt with its hook inside the mask, a plain prompt elsewhere."""
    settings = tiny_settings(task.style, seed=task.seed)
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "1": ("RegionStyleTinyWorldLoader", {}),
        "2": ("LoadImage", {"image": image}),
        "3": ("LoadImageMask", {"image": mask, "channel": "red"}),
        "4": ("CreateHookLora", {"lora_name": expert, "strength_model": 1.0, "strength_clip": 0.0}),
        "5": ("CLIPTextEncode", {"clip": ["1", 1], "text": task.prompt}),
        "6": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a picture"}),
        "7": ("CLIPTextEncode", {"clip": ["1", 1], "text": ""}),
        "8": (
            "ConditioningSetProperties",
            {"cond_NEW": ["5", 0], "strength": 1.0, "set_cond_area": "default", "mask": ["3", 0], "hooks": ["4", 0]},
        ),
        "9": ("ConditioningSetDefaultCombine", {"cond": ["8", 0], "cond_DEFAULT": ["6", 0]}),
        "10": ("VAEEncode", {"pixels": ["2", 0], "vae": ["1", 2]}),
        "11": (
            "KSampler",
            {
                "model": ["1", 0], "positive": ["9", 0], "negative": ["7", 0], "latent_image": ["10", 0],
                "seed": settings.seed, "steps": settings.steps, "cfg": settings.cfg, "sampler_name": "ddim",
                "scheduler": "normal", "denoise": settings.strength,
            },
        ),
        "12": ("VAEDecode", {"samples": ["11", 0], "vae": ["1", 2]}),
        "13": ("SaveImage", {"images": ["12", 0], "filename_prefix": "RegionStyle"}),
    }  # fmt: skip
    return {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}


@contextmanager
def _loras_for_all() -> Iterator[None]:
    """A process started here lists the shipped LoRAs for ComfyUI's own hook node too."""
    before = os.environ.get(FOR_ALL)
    os.environ[FOR_ALL] = "1"
    try:
        yield
    finally:
        os.environ.pop(FOR_ALL)
        if before is not None:
            os.environ[FOR_ALL] = before


class ComfyHookLora:
    """An installed ComfyUI that restyles with hook LoRAs. RegionStyleError when there is none, or it does not start.

    Numbers differ from the other methods in the last digits already because its pictures come back as 8-bit files.
    """

    def __init__(self) -> None:
        with _loras_for_all():
            self._comfy = connect(None)
        self._folder = tempfile.TemporaryDirectory(prefix="regionstyle-report-")

    def __enter__(self) -> ComfyHookLora:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._comfy.close()
        self._folder.cleanup()

    def restyle(self, predictor: Any, task: Any) -> Tensor:
        """One task's picture `[1,3,H,W]` in 0..1."""
        image, mask = Path(self._folder.name) / "source.png", Path(self._folder.name) / "mask.png"
        save_image(task.image, image)
        save_image(task.mask, mask)
        expert = f"tinyworld/{style_slug(task.style)}.safetensors"
        prompt = hook_lora_workflow(self._comfy.upload(image), self._comfy.upload(mask), expert, task)
        return self._picture(prompt)

    def _picture(self, prompt: Prompt) -> Tensor:
        """The picture `[1,3,H,W]` in 0..1 that the one Save Image of a workflow writes."""
        from PIL import Image

        self._comfy.execute(prompt, lambda kind, data: None)
        file = Path(self._folder.name) / "result.png"
        self._comfy.results()[0].write(file)  # what the last prompt's nodes list comes first
        with Image.open(file) as image:
            array = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
        return torch.from_numpy(array).permute(2, 0, 1)[None]

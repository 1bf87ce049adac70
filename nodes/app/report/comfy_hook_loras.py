"""ComfyUI's own way to give several regions their styles: one masked conditioning with a hook LoRA each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ...engine.lora.style_key import style_slug
from ..pictures import save_image
from ..workflow.workflow import Prompt
from .comfy_hook_lora import ComfyHookLora

SAVED = "save"


def hook_loras_workflow(image: str, masks: list[str], task: Any, steps: int) -> Prompt:
    """The workflow in API form: every thing's prompt with its hook and mask, a plain prompt elsewhere."""
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "world": ("RegionStyleTinyWorldLoader", {}),
        "image": ("LoadImage", {"image": image}),
        "base": ("CLIPTextEncode", {"clip": ["world", 1], "text": "a picture"}),
        "empty": ("CLIPTextEncode", {"clip": ["world", 1], "text": ""}),
        "latent": ("VAEEncode", {"pixels": ["image", 0], "vae": ["world", 2]}),
    }
    together: list[Any] = []
    for index, (mask, style, thing) in enumerate(zip(masks, task.styles, task.scene.objects, strict=True)):
        lora = f"tinyworld/{style_slug(style)}.safetensors"
        nodes[f"mask {index}"] = ("LoadImageMask", {"image": mask, "channel": "red"})
        nodes[f"hook {index}"] = ("CreateHookLora", {"lora_name": lora, "strength_model": 1.0, "strength_clip": 0.0})
        nodes[f"text {index}"] = (
            "CLIPTextEncode",
            {"clip": ["world", 1], "text": f"a {thing.phrase} in {style} style"},
        )
        own = {"strength": 1.0, "set_cond_area": "default", "mask": [f"mask {index}", 0], "hooks": [f"hook {index}", 0]}
        if together:
            kind, given = "ConditioningSetPropertiesAndCombine", {"cond": together, "cond_NEW": [f"text {index}", 0]}
        else:
            kind, given = "ConditioningSetProperties", {"cond_NEW": [f"text {index}", 0]}
        nodes[f"part {index}"] = (kind, {**given, **own})
        together = [f"part {index}", 0]
    nodes |= {
        "positive": ("ConditioningSetDefaultCombine", {"cond": together, "cond_DEFAULT": ["base", 0]}),
        "sampled": (
            "KSampler",
            {
                "model": ["world", 0], "positive": ["positive", 0], "negative": ["empty", 0],
                "latent_image": ["latent", 0], "seed": task.seed, "steps": steps, "cfg": 1.0, "sampler_name": "ddim",
                "scheduler": "normal", "denoise": task.strength,
            },
        ),
        "decoded": ("VAEDecode", {"samples": ["sampled", 0], "vae": ["world", 2]}),
        SAVED: ("SaveImage", {"images": ["decoded", 0], "filename_prefix": "RegionStyle"}),
    }  # fmt: skip
    return {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}


class ComfyHookLoras(ComfyHookLora):
    """An installed ComfyUI that restyles several things with hook LoRAs. RegionStyleError when there is none."""

    def __enter__(self) -> ComfyHookLoras:
        return self

    def restyle(self, task: Any, steps: int) -> Tensor:  # type: ignore[override]
        """One scene's picture `[1,3,H,W]` in 0..1, from 8-bit files."""
        folder = Path(self._folder.name)
        save_image(task.image, folder / "source.png")
        names = []
        for index, region in enumerate(task.regions):
            save_image(region.mask, folder / f"mask{index}.png")
            names.append(self._comfy.upload(folder / f"mask{index}.png"))
        prompt = hook_loras_workflow(self._comfy.upload(folder / "source.png"), names, task, steps)
        return self._picture(prompt)

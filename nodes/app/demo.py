"""The demo: one sentence, one picture, every step as an image, measured against the exact truth; and a photograph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.errors import RegionStyleError
from ..engine.host.base import Host
from ..engine.io.heatmap import overlay
from ..engine.language.instruction import EditRequest
from ..engine.region.regions import region_of
from ..grounding.finders.attention import AttentionSettings, Grounding
from ..grounding.finders.attention_finder import ground_by_attention
from ..grounding.language.prompt import parse_prompt
from ..metrics.pixels import equal_outside, mask_iou, masked_psnr
from ..tinyworld.bundled import expert_files
from ..tinyworld.clip import TinyClip, region_crop
from ..tinyworld.world import Scene, restyle_object
from .demo_photo import PhotoResult, run_photo
from .edit import EditResult, EditSettings, edit
from .evaluation.scenes import as_image
from .local_model import TINY, open_model
from .painters.registry import PainterContext, painter_named
from .pictures import save_image, sheet, side_in_row, stacked, whole_steps

DEFAULT_SCENE = 4
DEFAULT_STYLE = "halftone"


@dataclass(frozen=True)
class DemoResult:
    """What the demo made: images `[1,3,H,W]`, maps `[H,W]`, and the numbers of metrics.json."""

    input: Tensor
    truth: Tensor
    grounding: Grounding
    edited: EditResult
    metrics: dict[str, Any]
    photo: PhotoResult


def measured(
    scene: Scene, index: int, request: EditRequest, image: Tensor, grounding: Grounding, edited: EditResult
) -> tuple[Tensor, dict[str, Any]]:
    """The truth and how near the result came to it."""
    truth = as_image(restyle_object(scene, index, request.style))
    true_mask = torch.from_numpy(scene.objects[index].mask)[None]
    clip = TinyClip()
    score = clip.style_probabilities(region_crop(edited.image, scene.objects[index].box))[request.style]
    return truth, {
        "mask_iou": round(float(mask_iou(grounding.mask[None].cpu(), true_mask)), 4),
        "psnr_region_input": round(float(masked_psnr(image, truth, true_mask)), 3),
        "psnr_region_result": round(float(masked_psnr(edited.image, truth, true_mask)), 3),
        "style_score": round(float(score), 4),
        "background_equal": bool(equal_outside(edited.image, image, edited.mask[0])),
    }


def run(scene: Scene, style: str, seed: int, host: Host) -> DemoResult:
    """Find the scene's largest object by its words, restyle it, measure."""
    index = max(range(len(scene.objects)), key=lambda i: float(scene.objects[i].mask.sum()))
    prompt = f"make the {scene.objects[index].phrase} {style}"
    request = parse_prompt(prompt, list(expert_files()))
    model, image, settings = open_model(TINY, host, styles=[request.style]), as_image(scene), EditSettings(seed=seed)
    with model.predictor.loaded():
        grounding = ground_by_attention(model.predictor, image, request.phrase, settings=AttentionSettings(seed=seed))
        _check_found(grounding, request.phrase)
        region = region_of(request.phrase, grounding.mask, style=request.style)
        edited = edit(image, [region], painter_named("expert", PainterContext(model, settings)), settings)
    truth, numbers = measured(scene, index, request, image, grounding, edited)
    asked = {"seed": seed, "prompt": prompt, "phrase": request.phrase, "style": request.style}
    photo = run_photo(seed, host)
    return DemoResult(image, truth, grounding, edited, asked | numbers | {"photo": photo.numbers}, photo)


def _check_found(grounding: Grounding, phrase: str) -> None:
    if not grounding.found:
        raise RegionStyleError(
            f"demo: the model's attention did not find {phrase!r} in this picture. Choose another with --scene N, or "
            "draw other noise with --seed N."
        )


def write(result: DemoResult, folder: Path) -> None:
    """Write every picture and metrics.json into a folder."""
    numbers, panels, photo = result.metrics, _panels(result), result.photo
    for name, panel in panels.items():
        save_image(panel, folder / f"{name}.png")
    for name, panel in photo.panels.items():
        save_image(panel, folder / f"photo-{name.split()[0]}.png")
    notes = [
        f"mask IoU {numbers['mask_iou']:.2f}   style score {numbers['style_score']:.2f}   PSNR to the truth inside "
        f"the region: input {numbers['psnr_region_input']:.1f} dB, result {numbers['psnr_region_result']:.1f} dB   "
        f"background equal: {'yes' if numbers['background_equal'] else 'NO'}"
    ]
    styles = " and ".join(f'"{style}"' for style in photo.edited)
    title = f"{styles} on a photograph at its own size, outlined by {photo.numbers['outline']}"
    second = sheet(photo.panels, title, side=side_in_row(len(photo.panels), len(panels)))
    stacked([sheet(panels, f'"{numbers["prompt"]}"', notes), second]).save(folder / "sheet.png")
    (folder / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def _panels(result: DemoResult) -> dict[str, Tensor]:
    return {
        "input": result.input,
        "attention": overlay(result.input, result.grounding.logodds),
        "mask": whole_steps(result.edited.mask[0]),
        "result": result.edited.image,
        "truth": result.truth,
    }

"""`regionstyle demo`: one sentence, one picture, every step as an image, measured against the exact truth."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError
from ...engine.host.base import Host
from ...engine.io.heatmap import overlay
from ...engine.region.regions import region_of
from ...grounding.finders.attention import AttentionSettings, Grounding, ground_by_attention
from ...grounding.language.prompt import EditRequest, parse_prompt
from ...metrics.pixels import equal_outside, mask_iou, masked_psnr
from ...router.restyle import Restyled, RestyleSettings
from ...tinyworld.bundled import STRENGTHS, USUAL_STRENGTH, expert_files, load_bundled_expert, load_predictor
from ...tinyworld.clip import TinyClip, region_crop
from ...tinyworld.world import Scene, restyle_object, scene
from ..measure import peak_memory_mb
from ..pictures import save_image, sheet, whole_steps
from ..sentence import WHOLE, restyle_with_expert
from .console import console_host

DEFAULT_SCENE = 4
DEFAULT_STYLE = "halftone"


@dataclass(frozen=True)
class DemoResult:
    """What the demo made: images `[1,3,H,W]`, maps `[H,W]`, and the numbers of metrics.json."""

    input: Tensor
    truth: Tensor
    grounding: Grounding
    restyled: Restyled
    metrics: dict[str, Any]


def demo_scene(number: int) -> Scene:
    """A picture of the demo: a held-out photograph with one or two named objects in it."""
    return scene(number, split="held-out", count=2, background_kind=("cat", "coffee")[number % 2])


def as_image(made: Scene) -> Tensor:
    """A scene's picture `[1,3,H,W]`."""
    return torch.from_numpy(made.image.copy()).permute(2, 0, 1)[None]


def tiny_settings(style: str, **chosen: Any) -> RestyleSettings:
    """The tiny world's settings for a style; whatever is chosen replaces them."""
    return RestyleSettings(**{"strength": STRENGTHS.get(style, USUAL_STRENGTH), **chosen})


def stylize_tiny(
    predictor: Any, image: Tensor, mask: Tensor, request: EditRequest, settings: RestyleSettings
) -> Restyled:
    """Restyle a thing, or with an empty phrase a picture, with the attached expert of the style."""
    region = region_of(request.phrase or WHOLE, mask, style=request.style)
    return restyle_with_expert(predictor, image, region, settings)


def measured(
    made: Scene, index: int, request: EditRequest, image: Tensor, grounding: Grounding, restyled: Restyled
) -> tuple[Tensor, dict[str, Any]]:
    """The truth and how near the result came to it."""
    truth = as_image(restyle_object(made, index, request.style))
    true_mask = torch.from_numpy(made.objects[index].mask)[None]
    clip = TinyClip()
    score = clip.style_probabilities(region_crop(restyled.image, made.objects[index].box))[request.style]
    return truth, {
        "mask_iou": round(float(mask_iou(grounding.mask[None].cpu(), true_mask)), 4),
        "psnr_region_input": round(float(masked_psnr(image, truth, true_mask)), 3),
        "psnr_region_result": round(float(masked_psnr(restyled.image, truth, true_mask)), 3),
        "style_score": round(float(score), 4),
        "background_equal": bool(equal_outside(restyled.image, image, restyled.mask)),
    }


def run(made: Scene, style: str, seed: int, host: Host) -> DemoResult:
    """Find the scene's largest object by its words, restyle it, measure."""
    index = max(range(len(made.objects)), key=lambda i: float(made.objects[i].mask.sum()))
    prompt = f"make the {made.objects[index].phrase} {style}"
    request = parse_prompt(prompt, list(expert_files()))
    predictor, image = load_predictor(host, [load_bundled_expert(request.style)]), as_image(made)
    with predictor.loaded():
        grounding = ground_by_attention(predictor, image, request.phrase, settings=AttentionSettings(seed=seed))
        _check_found(grounding, request.phrase)
        restyled = stylize_tiny(predictor, image, grounding.mask, request, tiny_settings(request.style, seed=seed))
    truth, numbers = measured(made, index, request, image, grounding, restyled)
    asked = {"seed": seed, "prompt": prompt, "phrase": request.phrase, "style": request.style}
    return DemoResult(image, truth, grounding, restyled, asked | numbers)


def _check_found(grounding: Grounding, phrase: str) -> None:
    if not grounding.found:
        raise RegionStyleError(
            f"demo: the model's attention did not find {phrase!r} in this picture. Choose another with --scene N, or "
            "draw other noise with --seed N."
        )


def write(result: DemoResult, folder: Path) -> None:
    """Write every picture and metrics.json into a folder."""
    numbers, panels = result.metrics, _panels(result)
    for name, panel in panels.items():
        save_image(panel, folder / f"{name}.png")
    notes = [
        f"mask IoU {numbers['mask_iou']:.2f}   style score {numbers['style_score']:.2f}   PSNR to the truth inside "
        f"the region: input {numbers['psnr_region_input']:.1f} dB, result {numbers['psnr_region_result']:.1f} dB   "
        f"background equal: {'yes' if numbers['background_equal'] else 'NO'}"
    ]
    sheet(panels, f'"{numbers["prompt"]}"', notes).save(folder / "sheet.png")
    (folder / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def _panels(result: DemoResult) -> dict[str, Tensor]:
    return {
        "input": result.input,
        "attention": overlay(result.input, result.grounding.logodds),
        "mask": whole_steps(result.restyled.mask),
        "result": result.restyled.image,
        "truth": result.truth,
    }


def run_demo(args: argparse.Namespace) -> int:
    """`regionstyle demo`."""
    began = time.monotonic()
    number = DEFAULT_SCENE if args.scene is None else args.scene
    result = run(demo_scene(number), args.style or DEFAULT_STYLE, args.seed, console_host(args.device))
    result.metrics.update(scene=number, seconds=round(time.monotonic() - began, 2), peak_memory_mb=peak_memory_mb())
    write(result, args.out)
    sys.stdout.write(
        f"{result.metrics['prompt']}: wrote {args.out / 'sheet.png'} "
        f"(style score {result.metrics['style_score']:.2f}, "
        f"background equal: {str(result.metrics['background_equal']).lower()})\n"
    )
    return 0

"""How well attention alone finds a thing: object words in held-out scenes, against the exact visible masks.

Two ways, both without any second network: the plain attention a word gets, as other work reads it, and what this pack
uses (log-odds against the other words, over the layers that know best where things end).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.attention.tap import AttentionTap
from ...engine.host.base import Host
from ...grounding.finders.attention import AttentionSettings, otsu, phrase_groups
from ...grounding.finders.attention_finder import ground_by_attention
from ...metrics.pixels import mask_iou
from ...tinyworld.world import Scene
from .scenes import as_image


def plain_attention_mask(predictor: Any, image: Tensor, phrase: str, settings: AttentionSettings) -> Tensor:
    """The mask `[H,W]`, 0 or 1, of a phrase in a picture `[1,3,H,W]`: its tokens' share of the softmax over all
    tokens, start and padding included, mean over all layers, levels and noises, cut by Otsu's threshold."""
    text = predictor.encode_text([f"a {phrase}"])
    group, _ = phrase_groups(text, phrase)
    latent = predictor.encode(image)
    random, maps = torch.Generator().manual_seed(settings.seed), []
    for level in [level for level in settings.levels for _ in range(settings.noise_samples)]:
        noise = torch.randn(latent.shape, generator=random).to(latent)
        with AttentionTap(predictor, groups=group, quantity="share") as tap:
            predictor.predict(predictor.add_noise(latent, noise, level), level, text)
        maps.append(tap.mean(size=(latent.shape[-2], latent.shape[-1]))[:, :1])
    share = F.interpolate(torch.stack(maps).mean(0).float(), image.shape[-2:], mode="bicubic")[0, 0]
    return (share > otsu(share)).float()


def attention_iou(predictor: Any, scene_of: Callable[[int], Scene], count: int, host: Host) -> dict[str, Any]:
    """Mean IoU over one object phrase per scene, both ways, and how often the second way says it found the thing."""
    settings, rows = AttentionSettings(), []
    progress = host.progress(count, "attention of object words")
    for number in range(count):
        scene = scene_of(number)
        thing, image = scene.objects[number % len(scene.objects)], as_image(scene)
        truth = torch.from_numpy(thing.mask)[None]
        grounding = ground_by_attention(predictor, image, thing.phrase, settings=settings)
        plain = plain_attention_mask(predictor, image, thing.phrase, settings)
        scores = [float(mask_iou(mask[None].float().cpu(), truth)) for mask in (plain, grounding.mask)]
        rows.append((*scores, grounding.found))
        progress.update(number + 1)
    plain_iou, logodds_iou, found_share = (round(float(value), 3) for value in np.mean(rows, axis=0))
    return {"mean_iou": plain_iou, "mean_iou_logodds": logodds_iou, "found": found_share, "scenes": count}

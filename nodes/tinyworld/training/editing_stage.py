"""Stage `editing`: the adapter that edits by words, on exact local pairs.

A pair is a scene and the same scene with one object filtered inside its exact mask. The network is shown the first,
reads "make the red star mosaic", and learns to denoise the second. The attention of the object's and of the style's
words is held to the mask in some steps (RegionRoute, arXiv:2602.19254: Focus and Cover on log-odds).
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...engine.attention.tap import AttentionTap
from ..editing import EditingAdapter
from ..networks import scheduler
from ..styles import STYLES
from ..world import restyle_object
from .latents import encode
from .pool import Pool
from .unet_stage import ATTENTION_EVERY, Caption, TextBatch, attention_loss

ATTENTION_WEIGHT = 0.03


def drawn_pair(fact: dict, index: int) -> tuple[int, str]:
    """Which object of the pool's scene `index` is restyled, and how; it follows from the index alone."""
    random = np.random.default_rng([17, index])
    return int(random.integers(len(fact["objects"]))), str(list(STYLES)[int(random.integers(len(STYLES)))])


def edited_latents(path: Path, vae: Any, pool: Pool, count: int) -> np.ndarray:
    """Latents `[count,4,16,16]` float16 of the pool's scenes with one object restyled, kept in `path`."""
    if path.exists() and len(kept := np.load(path)) >= count:
        return kept[:count]  # type: ignore[no-any-return]
    device, parts = next(vae.parameters()).device, []
    for start in range(0, count, 32):
        numbers = range(start, min(start + 32, count))
        made = [restyle_object(pool.scene(i), *drawn_pair(pool.facts[i], i)).image for i in numbers]
        parts.append(encode(vae, np.stack(made), device))
    latents = np.concatenate(parts)
    np.save(path, latents)
    return latents


class EditingLoss:
    """Draws pairs and scores the denoiser with its adapter; `self(step)` is what `Trainer` calls.

    source, edited: latents `[N,4,16,16]` of the same scenes; masks `[N,3,16,16]`: of their objects.
    """

    def __init__(
        self,
        unet: nn.Module,
        adapter: EditingAdapter,
        text_tower: Any,
        source: np.ndarray,
        edited: np.ndarray,
        masks: Tensor,
        facts: list[dict],
        size: int = 16,
        seed: int = 5,
    ) -> None:
        self.unet, self.adapter, self.text = unet, adapter, TextBatch(text_tower)
        self.source, self.edited, self.masks, self.facts = source, edited, masks, facts
        self.size, self.seed = size, seed
        self.device = next(unet.parameters()).device
        self.alphas = scheduler().alphas_cumprod.to(self.device)

    def _captions(self, index: np.ndarray, random: np.random.Generator) -> tuple[list[Caption], Tensor]:
        """What is asked for, and where: the object's mask for its own words and for the style's."""
        captions, places = [], torch.zeros(len(index), 3, *self.masks.shape[-2:])
        for row, i in enumerate(index):
            thing, style = drawn_pair(self.facts[i], int(i))
            shape, color, _ = self.facts[i]["objects"][thing]
            words = f"{color} {shape}"
            end = " style" if random.random() < 0.3 else ""
            captions.append(Caption(f"make the {words} {style}{end}", [(words, 0), (style, 1)]))
            places[row, :2] = self.masks[i, thing]
        return captions, places

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        random = np.random.default_rng([self.seed, step])
        index = random.integers(0, len(self.edited), self.size)
        captions, places = self._captions(index, random)
        ids, states = self.text.states([caption.text for caption in captions])
        groups, valid, weight = (x.to(self.device) for x in self.text.groups(ids, captions))
        z, s = (torch.from_numpy(x[index]).float().to(self.device) for x in (self.source, self.edited))
        t = torch.from_numpy(random.integers(0, 1000, self.size)).to(self.device)
        alpha_bar, noise = self.alphas[t][:, None, None, None], torch.randn_like(s)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        supervised = step % ATTENTION_EVERY == 0
        looking = AttentionTap(self.unet, groups=groups, valid=valid) if supervised else nullcontext()
        with looking as tap, self.adapter.showing(z):
            predicted = self.unet(alpha * s + sigma * noise, t, states).sample
        # In units of the edited latent, bounded where the noise is strong: there the shown picture tells it.
        level = (sigma / alpha).clamp(max=3.0) ** 2 + 0.05
        error = ((predicted - noise).square() * level).mean()
        if tap is None:
            return error, {"noise": float(error.detach())}
        seen = attention_loss(tap.maps, places.to(self.device), weight)
        return error + ATTENTION_WEIGHT * seen, {"attention": float(seen.detach())}

"""Latents of a pool, encoded once: denoiser and experts never run the autoencoder while they train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .pool import Pool


@torch.no_grad()
def encode(vae: Any, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Latents `[N,4,16,16]` float16 of images `[N,128,128,3]`, float32 in 0..1."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device) * 2 - 1
    return vae.encode(x).latents.half().cpu().numpy()


def latent_file(
    path: Path, vae: Any, pool: Pool, count: int, change: Callable[[np.ndarray], np.ndarray] = lambda image: image
) -> np.ndarray:
    """Latents of the pool's first `count` pictures after `change`, kept in `path`; `[count,4,16,16]` float16."""
    if path.exists():
        kept = np.load(path)
        if len(kept) >= count:
            return kept[:count]
    device = next(vae.parameters()).device
    parts = []
    for start in range(0, count, 32):
        pictures = pool.images[start : min(start + 32, count)].astype(np.float32) / 255
        parts.append(encode(vae, np.stack([change(p) for p in pictures]), device))
    latents = np.concatenate(parts)
    np.save(path, latents)
    return latents


def grid_masks(pool: Pool, count: int, size: int = 16) -> Tensor:
    """Object masks averaged to the latent grid, `[count,3,size,size]` float32 in 0..1."""
    parts = [
        F.adaptive_avg_pool2d(torch.from_numpy(np.array(pool.masks[s : min(s + 256, count)])).float() / 255, size)
        for s in range(0, count, 256)
    ]
    return torch.cat(parts)

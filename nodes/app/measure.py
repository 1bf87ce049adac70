"""What a run cost and how near it came: memory, PSNR, IoU."""

from __future__ import annotations

import math
import sys

from torch import Tensor


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process in MiB; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def psnr(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images `[1,3,H,W]` in 0..1, inside mask `[H,W]` > 0.5 if given."""
    error = (image - truth).square().mean(1)[0]
    mean = float(error.mean() if mask is None else error[mask > 0.5].mean())
    return math.inf if mean == 0 else -10 * math.log10(mean)


def iou(found: Tensor, truth: Tensor) -> float:
    """Intersection over union of two masks `[H,W]` cut at 0.5; 1 when both are empty."""
    a, b = found > 0.5, truth > 0.5
    union = float((a | b).sum())
    return float((a & b).sum()) / union if union else 1.0


def equal_outside(result: Tensor, original: Tensor, mask: Tensor) -> bool:
    """Whether images `[1,3,H,W]` are equal bit for bit wherever the composited mask `[H,W]` is exactly 0."""
    outside = (mask == 0).expand_as(result)
    return bool((result[outside] == original[outside]).all())

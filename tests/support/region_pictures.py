"""Pictures of noise, masks of boxes, and boxes at every edge of a frame."""

import torch


def picture(height, width, seed=0, dtype=torch.float32):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mask_of(box, size):
    x0, y0, x1, y1 = box
    mask = torch.zeros(size)
    mask[y0:y1, x0:x1] = 1
    return mask


def places(height, width):
    """Regions at every edge and corner of a frame, one pixel, thin lines and the whole: name -> box."""
    h, w = max(1, height // 3), max(1, width // 3)
    x, y = min(w, width - 1), min(h, height - 1)
    return {
        "top": (x, 0, x + w, h), "bottom": (x, height - h, x + w, height),
        "left": (0, y, w, y + h), "right": (width - w, y, width, y + h),
        "top left": (0, 0, w, h), "bottom right": (width - w, height - h, width, height),
        "top right": (width - w, 0, width, h), "bottom left": (0, height - h, w, height),
        "first pixel": (0, 0, 1, 1), "last pixel": (width - 1, height - 1, width, height),
        "a pixel": (width // 2, height // 2, width // 2 + 1, height // 2 + 1),
        "row": (0, height // 2, width, height // 2 + 1), "column": (width // 2, 0, width // 2 + 1, height),
        "frame": (0, 0, width, height),
    }  # fmt: skip

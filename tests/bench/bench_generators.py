"""The bundled generators on photographs nobody trained on, beside the expert: python tests/bench/bench_generators.py

Prints, per style and photograph, the PSNR to the exact filter: of the photograph as it was, of the generator's picture
at full size, and of the expert's at 128 px, enlarged (what `regionstyle stylize --whole --generator off` gives); and in
how many of 16 crops the tiny CLIP recognises the style before and after. Not a test: nothing here fails.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regionstyle.nodes.app.cli.main import main as command_line
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.pixels import psnr
from regionstyle.nodes.sms.generator.apply import apply_generator
from regionstyle.nodes.sms.generator.files import bundled_generators, load_generator
from regionstyle.nodes.tinyworld.backgrounds import HELD_OUT_PHOTOS, photograph, photograph_path
from regionstyle.nodes.tinyworld.clip import TinyClip
from regionstyle.nodes.tinyworld.styles import apply_style

CROPS, SIDE = 16, 128


def image_of(array: np.ndarray) -> Tensor:
    """`[H,W,3]` in 0..1 to `[1,3,H,W]`."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).permute(2, 0, 1)[None]


def enlarged_expert(filename: str, style: str) -> Tensor:
    """What the style's expert makes of the whole photograph, through the command line."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.png"
        options = ["--whole", "--generator", "off", "-o", str(out)]
        if code := command_line(["stylize", str(photograph_path(filename)), f"make it {style}", *options]):
            raise SystemExit(code)
        return image_of(np.asarray(Image.open(out).convert("RGB"), dtype=np.float32) / 255)


def crops(image: Tensor) -> Tensor:
    """`[16,3,128,128]`: the same windows of any two pictures of one size."""
    random = np.random.default_rng(3)
    corners = [
        (random.integers(0, image.shape[2] - SIDE), random.integers(0, image.shape[3] - SIDE)) for _ in range(CROPS)
    ]
    return torch.cat([image[:, :, top : top + SIDE, left : left + SIDE] for top, left in corners])


def recognised(clip: TinyClip, image: Tensor, style: str) -> float:
    """Share of the crops that show the style with a probability of 0.5 or more."""
    return float((clip.style_probabilities(crops(image))[style] >= 0.5).float().mean())


def row(clip: TinyClip, style: str, file: Path, word: str) -> str:
    """One line of the table."""
    photo = photograph(HELD_OUT_PHOTOS[word])
    before, truth = image_of(photo), image_of(apply_style(photo, style))
    after, _ = apply_generator(load_generator(file), before, LocalHost("cpu"))
    expert = enlarged_expert(HELD_OUT_PHOTOS[word], style)
    decibels = [float(psnr(image, truth)) for image in (before, after, expert)]
    shares = [recognised(clip, image, style) for image in (before, after)]
    return f"{style:<12} {word:<8} " + " ".join(f"{x:7.1f}" for x in decibels) + "".join(f" {x:8.0%}" for x in shares)


def main() -> None:
    clip = TinyClip()
    sys.stdout.write("style        photo     before   after  expert   before    after\n")
    for style, file in bundled_generators().items():
        for word in HELD_OUT_PHOTOS:
            sys.stdout.write(row(clip, style, file, word) + "\n")


if __name__ == "__main__":
    main()

"""Times of harmonisation: python tests/bench/bench_harmony.py [--threads N] [--quick]

Poisson blending beside OpenCV's seamlessClone (where it is installed), with the relative residual of both in our
equations; the bundled harmoniser at 4000 x 3000 px. Medians of five runs after one to warm up. Not a test.
"""

from __future__ import annotations

import argparse
import sys

import torch
from bench_main import median_seconds
from torch import Tensor

from regionstyle.kernels import poisson_blend
from regionstyle.nodes.harmonizer.paste import paste_back
from regionstyle.nodes.harmonizer.small.harmonizer import SmallHarmonizer

CPU = torch.device("cpu")


def disc(height: int, width: int, radius: float) -> Tensor:
    """A disc in the middle, its radius a share of the height."""
    y, x = torch.arange(height)[:, None] - height / 2, torch.arange(width)[None] - width / 2
    return ((y**2 + x**2) < (radius * height) ** 2).float()[None, None]


def residual(result: Tensor, source: Tensor, target: Tensor, mask: Tensor) -> float:
    """Norm of the equations' residual inside, relative to that of the target as it is."""

    def excess(f: Tensor) -> Tensor:
        d = f - source
        inner = 4 * d[..., 1:-1, 1:-1] - d[..., :-2, 1:-1] - d[..., 2:, 1:-1] - d[..., 1:-1, :-2] - d[..., 1:-1, 2:]
        return inner * mask[..., 1:-1, 1:-1]

    return float(excess(result).norm() / excess(target).norm())


def poisson(side: int) -> str:
    """One line of the table."""
    random = torch.Generator().manual_seed(0)
    source, target = (torch.rand(1, 3, side, side, generator=random) for _ in range(2))
    mask = disc(side, side, 0.35)
    ours = median_seconds(lambda: poisson_blend(source, target, mask), CPU)
    line = (
        f"| {side} | {1000 * ours:.0f} ms | {residual(poisson_blend(source, target, mask), source, target, mask):.1e} |"
    )
    try:
        import cv2
    except ImportError:
        return f"{line} not installed | |"
    cv2.setNumThreads(torch.get_num_threads())
    given = [(x[0].permute(1, 2, 0) * 255).byte().numpy().copy() for x in (source, target)]
    shape = (mask[0, 0] * 255).byte().numpy()
    clone = lambda: cv2.seamlessClone(*given, shape, (side // 2, side // 2), cv2.NORMAL_CLONE)  # noqa: E731
    theirs = median_seconds(clone, CPU)
    made = torch.from_numpy(clone()).permute(2, 0, 1)[None] / 255
    pair = [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in given]
    return f"{line} {1000 * theirs:.0f} ms | {residual(made, *pair, mask):.1e} |"


def bundled(width: int, height: int) -> str:
    random = torch.Generator().manual_seed(0)
    picture, harmonizer = torch.rand(1, 3, height, width, generator=random), SmallHarmonizer()
    lines = []
    for radius in (0.1, 0.35, 0.49):
        mask = disc(height, width, radius)
        seconds = median_seconds(lambda m=mask: paste_back(picture, harmonizer.harmonize(picture, m), m), CPU)
        lines.append(f"| bundled, {width} x {height}, disc of radius {radius} of the height | {seconds:.2f} s |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small pictures only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sides = (256, 512) if args.quick else (256, 512, 1024)
    sys.stdout.write("| side | poisson_blend | residual | seamlessClone | residual |\n|---|---|---|---|---|\n")
    for side in sides:
        sys.stdout.write(poisson(side) + "\n")
    sys.stdout.write(bundled(1000, 750) if args.quick else bundled(4000, 3000))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

"""Times of the kernels and of their plain definitions: python tests/bench/bench_kernels.py [--device cuda] [--large]

Prints a table: milliseconds forward, forward and backward, and of the `*_reference` where that finishes in reasonable
time (some loop over pixels). The two are compared first; a kernel that disagrees is not timed. Not a test.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from bench_main import median_seconds
from torch import Tensor

from regionstyle import kernels
from regionstyle.kernels import attention, dct, filters, logodds, lora, modulation, poisson, pool


@dataclass(frozen=True)
class Row:
    """One kernel at one size: the shapes of its tensors, the call, and the same call of the plain definition."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., Tensor]
    reference: Callable[..., Tensor] | None = None


def disc(side: int, device: torch.device) -> Tensor:
    """A mask `[1,1,side,side]` whose disc covers a good half of the frame."""
    axis = torch.linspace(-1, 1, side, device=device)
    return ((axis[:, None] ** 2 + axis**2) < 0.7).float()[None, None]


def dct_by_fft(x: Tensor) -> Tensor:
    """Orthonormal DCT over the last axis from a Fourier transform of the reordered values, as usual."""
    n = x.shape[-1]
    spectrum = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1))
    angle = torch.arange(n, dtype=x.dtype, device=x.device) * (math.pi / (2 * n))
    result = 2 * (spectrum.real * torch.cos(angle) + spectrum.imag * torch.sin(angle))
    scale = torch.full_like(angle, math.sqrt(1 / (2 * n)))
    scale[0] = math.sqrt(1 / (4 * n))
    return result * scale


def spectrum_distance_by_fft(a: Tensor, b: Tensor, cutoff: int) -> Tensor:
    """The published way to the same number: both latents through Fourier transforms, tables made at every call."""

    def low(x: Tensor) -> Tensor:
        coefficients = dct_by_fft(dct_by_fft(x).transpose(-1, -2)).transpose(-1, -2)
        u, v = (torch.arange(side, device=x.device) for side in x.shape[-2:])
        return coefficients * (u[:, None] + v <= cutoff)

    return (low(a) - low(b)).abs().mean()


def rows(device: torch.device, large: bool) -> list[Row]:
    """Sizes as they occur: attention of an SD1.5-class layer, latents, features, pictures."""
    found = []
    for n in (1024, 4096) if large else (256, 1024):
        q, k = (2, 8, n, 40), (2, 8, 77, 40)
        groups = torch.eye(2, 77, dtype=torch.bool, device=device)
        found += [
            Row("token_attention", (q, k), lambda q, k: kernels.token_attention(q, k, [3, 4]),
                lambda q, k: attention.token_attention_reference(q, k, [3, 4])),
            Row("token_logodds", (q, k), lambda q, k, g=groups: kernels.token_logodds(q, k, g),
                lambda q, k, g=groups: logodds.token_logodds_reference(q, k, g)),
            Row("routed_lora", ((2, n, 320), (4, 8, 320), (4, 320, 8), (2, n, 4), (4,)), kernels.routed_lora,
                lora.routed_lora_reference),
        ]  # fmt: skip
    for side in (64, 128) if large else (32, 64):
        latent, feature = (2, 4, side, side), (1, 128, side, side)
        mask = disc(side, device)
        found += [
            Row("dct2", (latent,), kernels.dct2, dct.dct2_reference if side == 32 else None),
            *(Row(f"spectrum_distance {cutoff}", ((1, 4, side, side),) * 2,
                  lambda a, b, cutoff=cutoff: kernels.spectrum_distance(a, b, cutoff),
                  lambda a, b, cutoff=cutoff: spectrum_distance_by_fft(a, b, cutoff))
              for cutoff in (20, side - 1, 2 * side - 2)),
            Row("masked_pool", (feature,), lambda x, m=mask: kernels.masked_pool(x, m),
                lambda x, m=mask: pool.masked_pool_reference(x, m)),
            Row("modulate", (feature, (1, 128), (1, 128)), lambda x, a, b, m=mask: kernels.modulate(x, a, b, m),
                lambda x, a, b, m=mask: modulation.modulate_reference(x, a, b, m)),
            Row("adaptive_filter", (feature, (9,), (1,)), kernels.adaptive_filter, filters.adaptive_filter_reference),
        ]  # fmt: skip
    for side in (64, 128, 256, 512, 1024) if large else (32, 64, 256):
        picture, mask = (1, 3, side, side), disc(side, device)
        box = torch.tensor([[0, 0, side, side]])
        found += [
            Row("poisson_blend", (picture, picture), lambda s, t, m=mask: kernels.poisson_blend(s, t, m),
                (lambda s, t, m=mask: poisson.poisson_blend_reference(s, t, m)) if side == 32 else None),
            Row("sample_patches", (picture,), lambda x, b=box: kernels.sample_patches(x, b, 8, 24, 32)),
        ]  # fmt: skip
    picture, box = (1, 3, 512, 512), torch.tensor([[80, 76, 430, 436]])
    found.append(Row("sample_patches 64, 224", (picture,), lambda x, b=box: kernels.sample_patches(x, b, 64, 128, 224)))
    found.append(Row("  torchvision's loop", (picture,), lambda x, b=box: patches_in_a_loop(x, b, 64, 128, 224)))
    return found


def patches_in_a_loop(image: Tensor, box: Tensor, count: int, crop: int, size: int) -> Tensor:
    """The published way: crop, perspective and resize, patch by patch."""
    from torchvision import transforms

    x0, y0, x1, y1 = box[0].tolist()
    cut = transforms.RandomCrop(crop)
    seen = transforms.Compose([transforms.RandomPerspective(0.5, p=1, fill=0), transforms.Resize(size)])
    return torch.cat([seen(cut(image[:, :, y0:y1, x0:x1])) for _ in range(count)])


def milliseconds(action: Callable[[], object], device: torch.device, runs: int = 3) -> float:
    """The median of `runs`, or of 100 where one takes less than a millisecond."""
    once = 1000 * median_seconds(action, device, 1)
    return 1000 * median_seconds(action, device, 100 if once < 1 else runs)


def line(row: Row, device: torch.device) -> str:
    """One row of the table; ValueError when kernel and definition disagree."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in row.shapes]

    def backward() -> None:
        torch.autograd.grad(row.call(*tensors).square().sum(), tensors)

    plain = "-"
    if row.reference is not None:
        got, expected = row.call(*tensors).detach(), row.reference(*tensors).detach()
        if not torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            raise ValueError(f"{row.name} {row.shapes[0]} disagrees with its definition: no time for a wrong result.")
        with torch.no_grad():
            plain = f"{milliseconds(lambda: row.reference(*tensors), device, 1):.3f}"
    with torch.no_grad():
        forward = milliseconds(lambda: row.call(*tensors), device)
    shape = " x ".join(map(str, row.shapes[0]))
    return f"{row.name:22} {shape:20} {forward:10.3f} {milliseconds(backward, device):10.3f} {plain:>12}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--large", action="store_true", help="the sizes of real networks and pictures")
    args = parser.parse_args()
    device = torch.device(args.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    sys.stdout.write(f"torch {torch.__version__}, {machine}, milliseconds\n")
    sys.stdout.write(f"{'kernel':22} {'first tensor':20} {'forward':>10} {'with grad':>10} {'definition':>12}\n")
    for row in rows(device, args.large):
        sys.stdout.write(line(row, device) + "\n")


if __name__ == "__main__":
    main()

"""Each term against a transcription of its formula, written out number by number in float64."""

import math

import pytest
import torch

from regionstyle.nodes.local_clip.losses import (
    content_loss,
    direction_losses,
    total_variation,
    unit,
    without_satisfied,
)


def plain_direction(after, before, direction):
    moved = [a - b for a, b in zip(after, before, strict=True)]
    dot = sum(m * d for m, d in zip(moved, direction, strict=True))
    return 1 - dot / math.sqrt(sum(m * m for m in moved)) / math.sqrt(sum(d * d for d in direction))


def plain_variation(x):
    sums = [0.0] * 4
    _, channels, height, width = x.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                for index, (di, dj) in enumerate(((0, 1), (1, 0), (1, -1), (1, 1))):
                    if i + di < height and 0 <= j + dj < width:
                        sums[index] += float(x[0, c, i, j] - x[0, c, i + di, j + dj]) ** 2
    return sum(math.sqrt(s) for s in sums)


@pytest.mark.parametrize("shared", [True, False])
def test_direction(shared):
    after, before = unit(torch.randn(5, 7).double()), unit(torch.randn(1 if shared else 5, 7).double())
    direction = torch.randn(7).double()
    expected = [
        plain_direction(after[i].tolist(), before[0 if shared else i].tolist(), direction.tolist()) for i in range(5)
    ]
    got = direction_losses(after, before, direction)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
    single = direction_losses(after.float(), before.float(), direction.float())
    torch.testing.assert_close(single.double(), got, atol=1e-5, rtol=0)


def test_what_has_not_moved_has_no_direction_but_a_bounded_gradient():
    """A picture that is its own start: the published formula divides 0 by 0 there."""
    before = unit(torch.randn(2, 7).double())
    after = before.clone().requires_grad_()
    losses = direction_losses(after, before, torch.randn(7).double())
    torch.testing.assert_close(losses, torch.ones(2).double())
    gradient = torch.autograd.grad(losses.sum(), after)[0]
    assert gradient.isfinite().all()
    assert 0 < gradient.abs().max() <= 100


def test_satisfied_patches_are_left_alone():
    losses = torch.tensor([0.2, 0.7, 0.69999, 1.5], dtype=torch.float64, requires_grad=True)
    kept = without_satisfied(losses, 0.7)
    assert kept.tolist() == [0, 0.7, 0, 1.5]
    kept.sum().backward()
    assert losses.grad.tolist() == [0, 1, 0, 1]
    assert torch.equal(without_satisfied(losses.detach(), 0.0), losses.detach())


def test_content():
    maps = [torch.randn(1, 3, 4, 5).double(), torch.randn(1, 6, 2, 2).double()]
    before = [torch.randn_like(m) for m in maps]
    squares = [[(x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
               for a, b in zip(maps, before, strict=True)]  # fmt: skip
    mean = sum(sum(s) / len(s) for s in squares)
    norm = sum(math.sqrt(sum(s)) for s in squares)
    assert float(content_loss(maps, before, "mean square")) == pytest.approx(mean, rel=1e-12)
    assert float(content_loss(maps, before, "norm")) == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("size", [(6, 5), (8, 1), (1, 1)])
def test_total_variation(size):
    x = torch.randn(1, 2, *size).double()
    assert float(total_variation(x)) == pytest.approx(plain_variation(x), rel=1e-12)
    flat = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
    gradient = torch.autograd.grad(total_variation(flat), flat)[0]
    assert torch.equal(gradient, torch.zeros_like(gradient))  # a norm has none at 0

"""The small harmoniser's network: it weighs what the border says, and corrects what follows from it.

Where a foreground's border runs through what was one picture, the colours on its two sides tell the change exactly;
where it is a thing's outline they say little. The network judges each place of the border, an affine map of colours is
fitted to those it trusts, what that map leaves of the border's steps is carried inwards as a membrane, and a U-Net
decides place by place how far to follow both, and adds a correction of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .look import Look, membrane

WIDTHS = (24, 40, 64, 96)
LARGEST_CORRECTION = 0.35
# Of `hesitant`: chosen on composites of the training photographs, where it gives the least fMSE.
DOUBT = 8.0


class SmallHarmonizerNetwork(nn.Module):
    """`Look` at some grid, sides multiples of 16 -> harmonised foreground colours `[B,3,h,w]` at that grid."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Sequential(
            nn.Conv2d(12, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.SiLU(),
            nn.Conv2d(16, 16, 3, padding=4, dilation=4), nn.SiLU(), nn.Conv2d(16, 1, 1),
        )  # fmt: skip
        self.caution = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 2))
        self.unet = _UNet(15, 6)
        _silence(self.judge[-1])

    def forward(self, seen: Look) -> Tensor:
        """The answer, held back where the border contradicts it."""
        answer, _, unexplained = self.everything(seen)
        return hesitant(seen, answer, unexplained)

    def both(self, seen: Look) -> tuple[Tensor, Tensor]:
        """The answer, and what the affine map alone makes of the foreground, which training looks at too."""
        return self.everything(seen)[:2]

    def everything(self, seen: Look) -> tuple[Tensor, Tensor, Tensor]:
        """As `both`, and the mean square of what one map for the whole border leaves at its trusted places, `[B]`."""
        usual = seen.mask.new_full((len(seen.mask), 2), -3.0)
        first = _affine(seen, seen.seam, usual)
        left = seen.outer - _applied(first, seen.inner)
        told = torch.cat([seen.inner - 0.5, seen.outer - 0.5, left, 20 * seen.rough, seen.seam, seen.mask], 1)
        size = seen.mask.shape[-2:]
        judged = F.interpolate(self.judge(F.avg_pool2d(told * (seen.seam > 0), 2)), size, mode="bilinear")
        trust = seen.seam * torch.sigmoid(judged)
        fitted = _affine(seen, trust, self.caution(_summary(seen, trust, left)) + usual)
        mapped = _applied(fitted, seen.foreground)
        hung = membrane(seen.outer - _applied(fitted, seen.inner), trust)
        views = (seen.foreground - 0.5, seen.background - 0.5, mapped - seen.foreground, hung)
        given = torch.cat([*views, seen.mask, seen.seam, trust], 1)
        out = F.interpolate(self.unet(F.avg_pool2d(given, 2)), size, mode="bilinear")
        usually = out.new_tensor([2.0, 1.0, 0.0]).view(1, 3, 1, 1)
        follow, border, certain = torch.sigmoid(out[:, :3] + usually).split(1, 1)
        change = mapped - seen.foreground + border * hung
        answer = seen.foreground + follow * change + certain * LARGEST_CORRECTION * torch.tanh(out[:, 3:])
        return answer, mapped, _unexplained(trust, left)


def hesitant(seen: Look, answer: Tensor, unexplained: Tensor) -> Tensor:
    """The answer drawn towards the foreground as it is, the more, the less the border bears it out.

    c^2 / (c^2 + (DOUBT e)^2) of the change is kept, c its root mean square and e what one colour map leaves unexplained
    at the border: what was jittered is explained by one map, a thing's own outline is not, and there a small change is
    more likely wrong than right.
    """
    change = (answer.clamp(0, 1) - seen.foreground) * seen.mask
    size = change.square().sum((1, 2, 3)) / (3 * seen.mask.sum((1, 2, 3))).clamp_min(1e-6)
    kept = size / (size + (DOUBT * unexplained).square()).clamp_min(1e-12)
    return seen.foreground + kept[:, None, None, None] * (answer - seen.foreground)


def new_network(seed: int) -> SmallHarmonizerNetwork:
    """A network of random weights that follow from a seed; torch's own generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallHarmonizerNetwork()


def _summary(seen: Look, trust: Tensor, left: Tensor) -> Tensor:
    """Six numbers of a picture: how much border is trusted, how well it is explained, how large the foreground is."""
    total = trust.sum((1, 2, 3))
    share = total / (seen.seam.sum((1, 2, 3)) + 1e-3)
    error = _unexplained(trust, left)
    mean = (trust * seen.inner).sum((2, 3)) / (total[:, None] + 1e-3)
    spread = (trust * (seen.inner - mean[:, :, None, None]).square().mean(1, keepdim=True)).sum((1, 2, 3))
    jump = (trust * (seen.outer - seen.inner).square().mean(1, keepdim=True)).sum((1, 2, 3)) / (total + 1e-3)
    numbers = (total.log1p() / 5, share, error * 20, spread / (total + 1e-3) * 10, jump * 10, seen.mask.mean((1, 2, 3)))
    return torch.stack(numbers, 1)


def _unexplained(trust: Tensor, left: Tensor) -> Tensor:
    return (trust * left.square().mean(1, keepdim=True)).sum((1, 2, 3)) / (trust.sum((1, 2, 3)) + 1e-3)


def _affine(seen: Look, weight: Tensor, caution: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The affine map that takes `inner` to `outer` best under a weight: (matrix [B,3,3], centre, shift [B,3,1]).

    Ridge regression towards the identity; caution `[B,2]`: logarithms of how strongly slope and shift are held there,
    in units of the weight's sum at 32 places.
    """
    inner, outer, weight = (x.flatten(2) for x in (seen.inner, seen.outer, weight))
    total = weight.sum(-1, keepdim=True)
    safe = total.clamp_min(1e-3)
    centre, goal = ((weight * x).sum(-1, keepdim=True) / safe for x in (inner, outer))
    x, d = inner - centre, (outer - goal) - (inner - centre)
    slope_hold, shift_hold = (caution.exp() * 32).unbind(1)
    gram = (weight * x) @ x.mT
    # The slope is held in units of a colour's variance, 0.03: a flat foreground cannot tell it.
    hold = (slope_hold * 0.03 + 1e-5)[:, None, None] * torch.eye(3, dtype=x.dtype, device=x.device)
    slope = torch.linalg.solve(gram + hold, x @ (weight * d).mT).mT
    shift = (goal - centre) * (total / (total + shift_hold[:, None, None] + 1e-3))
    return slope, centre, shift


def _applied(affine: tuple[Tensor, Tensor, Tensor], colours: Tensor) -> Tensor:
    slope, centre, shift = affine
    flat = colours.flatten(2)
    return (flat + slope @ (flat - centre) + shift).view_as(colours)


def _silence(layer: nn.Module) -> None:
    """All weights 0: training begins with what is known without any."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class _UNet(nn.Module):
    """Four sizes; at the smallest one a global mean joins in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = _Block(inputs, WIDTHS[0])
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.everywhere = nn.Sequential(nn.Linear(WIDTHS[-1], WIDTHS[-1]), nn.SiLU(), nn.Linear(WIDTHS[-1], WIDTHS[-1]))
        self.up = nn.ModuleList(_Block(a + b, a) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.leave = nn.Conv2d(WIDTHS[0], outputs, 1)
        _silence(self.leave)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.enter(x)]
        for block in self.down:
            kept.append(block(F.avg_pool2d(kept[-1], 2)))
        x = kept.pop()
        x = x + self.everywhere(x.mean((-2, -1)))[:, :, None, None]
        for block, skip in zip(reversed(self.up), reversed(kept), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, skip.shape[-2:], mode="bilinear")], 1))
        return self.leave(x)


class _Block(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.SiLU(),
        )  # fmt: skip

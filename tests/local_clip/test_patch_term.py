"""The patch loss in parts, and only where it counts, against all of it at once, in float64."""

import pytest
import torch
from local_clip_networks import SmallTowers

from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.local_clip.losses import direction_losses, unit, without_satisfied
from regionstyle.nodes.local_clip.patch_term import CPU_PART, PatchTerm
from regionstyle.nodes.local_clip.patches import Drawn

TOWERS = SmallTowers(torch.float64)
COUNT = 2 * CPU_PART + 5
WHOLE = unit(torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))
DIRECTION = unit(torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(8)))


class Counting:
    """Counts the patches that are embedded to be differentiated, and the most at once."""

    def __init__(self):
        self.differentiated = self.largest = 0

    def __call__(self, pictures):
        self.differentiated += len(pictures) * pictures.requires_grad
        self.largest = max(self.largest, len(pictures))
        return TOWERS.embed_images(pictures)


def drawn_from(picture, seed, own, some_weightless):
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(COUNT, 3, 16, 16, dtype=torch.float64, generator=random)
    weights = torch.rand(COUNT, dtype=torch.float64, generator=random)
    if some_weightless:
        weights[::3] = 0
    return Drawn(picture * noise, torch.rand_like(noise) if own else None, weights)


def plain(drawn, threshold, weight, picture):
    before = WHOLE if drawn.before is None else unit(TOWERS.embed_images(drawn.before))
    losses = direction_losses(unit(TOWERS.embed_images(drawn.patches)), before, DIRECTION)
    value = weight * (without_satisfied(losses, threshold) * drawn.weights).sum()
    counted = losses[drawn.weights > 0]
    return value, torch.autograd.grad(value, picture, retain_graph=True)[0], float((counted < threshold).float().mean())


@pytest.mark.parametrize("own", [False, True], ids=["the whole content", "the same place"])
@pytest.mark.parametrize("some_weightless", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.4, 2.1])
def test_value_and_gradient_are_those_of_all_patches_at_once(own, some_weightless, threshold):
    """Also in the second iteration, which looks first where the first found most patches satisfied."""
    torch.manual_seed(1)
    start = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    embed = Counting()
    term = PatchTerm(embed, WHOLE, DIRECTION, threshold, LocalHost("cpu"))
    for seed in (3, 4):
        picture = start.clone().requires_grad_()
        drawn = drawn_from(picture, seed, own, some_weightless)
        expected, gradient, satisfied = plain(drawn, threshold, 9000.0, picture)
        embed.differentiated = 0
        value, share = term.add_gradient(drawn.counted(), 9000.0)
        assert float(value) == pytest.approx(expected.item(), rel=1e-10)
        assert share == pytest.approx(satisfied)
        torch.testing.assert_close(picture.grad, gradient, atol=1e-10 * float(gradient.abs().max()), rtol=1e-9)
    counted, looked = len(drawn.counted().weights), satisfied > 0.5
    assert embed.differentiated == (round(counted * (1 - satisfied)) if looked else counted)
    assert embed.largest <= CPU_PART


def test_only_what_is_not_satisfied_is_differentiated():
    """All in the first iteration, which tells how many are satisfied; then the one that is left."""
    picture = torch.rand(1, 3, 16, 16, dtype=torch.float64).requires_grad_()
    drawn = drawn_from(picture, 3, False, False)
    losses = direction_losses(unit(TOWERS.embed_images(drawn.patches)), WHOLE, DIRECTION).detach()
    embed = Counting()
    term = PatchTerm(embed, WHOLE, DIRECTION, float(losses.max()) - 1e-9, LocalHost("cpu"))
    term.add_gradient(drawn, 1.0)
    assert embed.differentiated == COUNT
    term.add_gradient(drawn_from(picture, 3, False, False), 1.0)
    assert embed.differentiated == COUNT + 1


def test_patches_of_no_weight_are_left_out_unless_all_are():
    patches, content = torch.rand(3, 3, 2, 2), torch.rand(3, 3, 2, 2)
    some = Drawn(patches, content, torch.tensor([0.0, 0.5, 0.0])).counted()
    assert torch.equal(some.patches, patches[1:2])
    assert torch.equal(some.before, content[1:2])
    assert some.weights.tolist() == [0.5]
    assert len(Drawn(patches, None, torch.zeros(3)).counted().patches) == 3

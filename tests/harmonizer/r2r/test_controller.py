"""Mask-aware channel attention and the Harmony Controller around it."""

import pytest
import torch
from r2r_networks import small_networks
from torch.nn import functional as F

from regionstyle.nodes.harmonizer.r2r.architecture import TINY, new_unet
from regionstyle.nodes.harmonizer.r2r.controller import HarmonyController, copied_from_unet
from regionstyle.nodes.harmonizer.r2r.hint import hint_of
from regionstyle.nodes.harmonizer.r2r.maca import Maca, background_of


@pytest.fixture(scope="module")
def controller():
    return small_networks().controller


@pytest.fixture
def half():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    return mask


def random_maca(channels=6):
    torch.manual_seed(0)
    maca = Maca(channels)
    for parameter in maca.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return maca.requires_grad_(False)


def full_maps(maca, x, mask):
    """By the definition: convolutions over the whole map, then the mean over all positions."""
    inside = maca.conv1(mask * x).mean((2, 3))
    outside = maca.conv2((1 - mask) * x).mean((2, 3))
    scale, shift = maca.mlp(torch.cat([inside, outside], 1))[:, :, None, None].chunk(2, 1)
    return (1 - mask) * x + mask * ((1 + scale) * (mask * x) + shift)


def test_attention_is_the_identity_at_first_and_for_an_empty_mask(half):
    x = torch.randn(2, 6, 8, 8)
    assert torch.equal(Maca(6)(x, half.expand(2, -1, -1, -1)), x)
    assert torch.equal(random_maca()(x, torch.zeros(2, 1, 8, 8)), x)


def test_attention_equals_its_definition_and_leaves_the_background_bit_for_bit(half):
    x, maca = torch.randn(1, 6, 8, 8), random_maca()
    result = maca(x, half)
    assert (result - full_maps(maca, x, half)).abs().max() < 1e-5
    assert torch.equal(result[..., 4:], x[..., 4:])
    assert (result - x)[..., :4].abs().max() > 0.1


def test_a_reference_that_is_the_pictures_own_background_changes_nothing(half):
    x, maca = torch.randn(1, 6, 8, 8), random_maca()
    own = background_of(x, 1 - half, torch.tensor([0.5]))
    assert (maca(x, half, own) - maca(x, half)).abs().max() < 1e-6
    assert (maca(x, half, own + 1) - maca(x, half)).abs().max() > 0.1


def test_attention_is_differentiable(half):
    maca = random_maca(3).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: maca(x, half.double()), x)


def test_a_new_controller_adds_nothing():
    controller = HarmonyController(TINY)
    with torch.no_grad():
        embedded = controller.embed_hint(torch.rand(1, 7, 64, 64))
        residuals = controller(embedded, 500, torch.randn(1, 4, 32), torch.ones(1, 1, 8, 8))
    assert len(residuals.down) == 12
    assert not any(r.any() for r in (*residuals.down, residuals.mid))


def test_residuals_fit_the_unet_and_change_it(controller):
    unet = small_networks().unet
    with torch.no_grad():
        embedded = controller.embed_hint(torch.rand(1, 7, 64, 128))
        text = torch.randn(1, 4, 32)
        r = controller(embedded, 3.0, text, torch.ones(1, 1, 8, 16))
        given = torch.randn(1, 9, 8, 16)
        plain = unet(given, 3.0, text).sample
        told = unet(
            given, 3.0, text, down_block_additional_residuals=r.down, mid_block_additional_residual=r.mid
        ).sample
    assert (plain - told).abs().max() > 1e-3


def test_the_first_feature_is_the_hint_alone(controller):
    """The ControlNet's own first convolution is never run, whatever it holds."""
    before = controller.conv_in.weight.clone()
    embedded, text, mask = torch.rand(1, 32, 8, 8), torch.randn(1, 4, 32), torch.ones(1, 1, 8, 8)
    one = controller(embedded, 1, text, mask)
    with torch.no_grad():
        controller.conv_in.weight.fill_(7)
    other = controller(embedded, 1, text, mask)
    with torch.no_grad():
        controller.conv_in.weight.copy_(before)
    assert all(torch.equal(a, b) for a, b in zip(one.down, other.down, strict=True))
    assert torch.equal(one.down[0], controller.controlnet_down_blocks[0](embedded))


def test_attention_stands_after_the_downsamplers_and_the_last_block(controller):
    """Zero convolutions of positions 3, 6, 9 and 11 see what it has changed; those before 3 do not."""
    embedded, text = torch.rand(1, 32, 16, 16), torch.randn(1, 4, 32)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    with_it = controller(embedded, 1, text, mask)
    controller.modulates = False
    without = controller(embedded, 1, text, mask)
    controller.modulates = True
    changed = [not torch.equal(a, b) for a, b in zip(with_it.down, without.down, strict=True)]
    assert changed == [False] * 3 + [True] * 9


def test_training_begins_with_the_unets_encoder():
    torch.manual_seed(0)
    unet, controller = new_unet(TINY), HarmonyController(TINY)
    first = controller.conv_in.weight.clone()
    copied_from_unet(controller, unet)
    theirs, own = unet.state_dict(), controller.state_dict()
    shared = [name for name in own if name in theirs and not name.startswith("conv_in.")]
    assert len(shared) > 150
    assert all(torch.equal(own[name], theirs[name]) for name in shared)
    assert torch.equal(controller.conv_in.weight, first)


def test_hints_are_embedded_at_an_eighth(controller):
    composite, mask = torch.rand(1, 3, 50, 70), torch.ones(1, 1, 50, 70)
    assert controller.embed_hint(hint_of(composite, mask, (64, 128))).shape == (1, 32, 8, 16)


def test_soft_resizing_does_not_blur_a_mask():
    mask = (F.interpolate(torch.eye(4)[None, None], (16, 16)) > 0).float()
    maca, x = random_maca(), torch.randn(1, 6, 16, 16)
    assert torch.equal(maca(x, mask)[(1 - mask).bool().expand_as(x)], x[(1 - mask).bool().expand_as(x)])

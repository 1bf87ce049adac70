"""Networks for inpainting over diffusers: what their first layer sees, and that the rest is as with a plain network."""

import copy

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.host.context import running_slice
from regionstyle.nodes.engine.host.memory import BatchSlice
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.predictor.inpainting import masked_pictures
from regionstyle.nodes.router.restyle import restyle_region
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.sms.fake import with_fake
from regionstyle.nodes.sms.settings import SmsSettings
from regionstyle.nodes.sms.stylize import match_style
from regionstyle.nodes.tinyworld.bundled import load_bundled_expert, load_predictor
from regionstyle.nodes.tinyworld.networks import scheduler
from regionstyle.nodes.tinyworld.world import scene


def widened(unet, channels=9):
    """The same U-Net with more input channels, whose weights are 0."""
    wide = copy.deepcopy(unet)
    first = wide.conv_in
    wide.conv_in = torch.nn.Conv2d(channels, first.out_channels, 3, padding=1)
    with torch.no_grad():
        wide.conv_in.weight.zero_()[:, :4] = first.weight
        wide.conv_in.bias.copy_(first.bias)
    wide.register_to_config(in_channels=channels)
    return wide.requires_grad_(False)


class Seen(list):
    """The inputs of a network's first layer."""

    def __init__(self, unet):
        unet.conv_in.register_forward_pre_hook(lambda module, args: self.append(args[0]))


@pytest.fixture
def plain():
    return load_predictor(LocalHost("cpu"), [load_bundled_expert("mosaic")])


@pytest.fixture
def wide(plain):
    unet = widened(plain.unet)
    stack = ExpertStack(unet, [load_bundled_expert("mosaic")]).attach()
    parts = plain.vae, plain.text_encoder, plain.tokenizer
    return DiffusersPredictor(unet, *parts, scheduler(), LocalHost("cpu"), stack)


def picture():
    return torch.from_numpy(scene(3).image.copy()).permute(2, 0, 1)[None]


def region():
    mask = torch.zeros(128, 128)
    mask[24:88, 32:96] = 1
    return mask


def test_without_a_region_everything_is_to_be_redrawn(wide):
    seen, x = Seen(wide.unet), torch.randn(2, 4, 16, 16)
    wide.predict(x, 0.5, wide.encode_text(["a red star"]))
    grey = wide.encode(torch.full((1, 3, 128, 128), 0.5))
    assert wide.inpaints
    assert wide.latent_channels == 4
    assert torch.equal(seen[0][:, :4], x)
    assert torch.equal(seen[0][:, 4], torch.ones(2, 16, 16))
    assert torch.equal(seen[0][:, 5:], grey.expand(2, -1, -1, -1))


def test_inside_a_block_it_is_told_mask_and_masked_picture_of_each(wide):
    images, masks = torch.cat([picture(), picture().flip(-1)]), torch.stack([region(), 1 - region()])
    seen, x = Seen(wide.unet), torch.randn(4, 4, 16, 16)
    text = wide.encode_text(["a red star"])
    with wide.inpainting(images, masks):
        wide.predict(x, 0.5, text)
        with running_slice(BatchSlice(1, 2, 2)):  # of the second picture alone
            wide.predict(x[:2], 0.5, text)
    wide.predict(x, 0.5, text)
    told = torch.cat([masks[:, None, 4::8, 4::8], wide.encode(masked_pictures(images, masks))], 1)
    assert torch.equal(seen[0][:, 4:], told.repeat(2, 1, 1, 1))
    assert torch.equal(seen[1][:, 4:], told[1:].repeat(2, 1, 1, 1))
    assert seen[2][:, 4].min() == 1


def test_a_batch_that_does_not_hold_the_pictures_is_refused(wide):
    with wide.inpainting(picture().repeat(2, 1, 1, 1), region()[None]), pytest.raises(RegionStyleError, match="2 pict"):
        wide.predict(torch.randn(3, 4, 16, 16), 0.5, wide.encode_text([""]))


def test_restyle_tells_the_region_and_gives_what_the_plain_network_does(plain, wide):
    settings = RestyleSettings(strength=0.4, steps=2, cfg=3.0, margin=4.0)
    options = {"gate": lambda r, cut: Gates({"mosaic": RegionGate(r)}), "negative": "", "settings": settings}
    seen = Seen(wide.unet)
    made = [restyle_region(each, picture(), region(), "a star in mosaic style", **options) for each in (plain, wide)]
    torch.testing.assert_close(made[1].image, made[0].image, rtol=0, atol=1e-4)
    grown = torch.zeros(16, 16)
    grown[2:12, 3:13] = 1  # by one cell on every side, as where the expert acts
    assert all(torch.equal(x[row, 4], grown) for x in seen for row in range(len(x)))
    hidden = picture().clone()
    inside = seen[0][0, 5:]
    hidden[..., 24:88, 32:96] = torch.rand(3, 64, 64)  # what lies under the mask is not told
    again = Seen(wide.unet)
    restyle_region(wide, hidden, region(), "a star in mosaic style", **options)
    torch.testing.assert_close(again[0][0, 5:], inside, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_sms_tells_the_region_also_while_the_fake_predictor_learns(plain, wide):
    settings = SmsSettings(iterations=3, preview_every=3)
    seen, made = Seen(wide.unet), []
    images, masks = picture().repeat(2, 1, 1, 1), torch.stack([region(), region().flip(0)])
    for each in (plain, wide):
        with with_fake(each, 1) as (both, fake):
            made.append(match_style(both, images, masks, [""], "mosaic", {"mosaic": 1.0}, fake, settings).images)
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-3)
    assert all(0 < float(x[row, 4].mean()) < 1 for x in seen for row in range(len(x)))
    assert not any(torch.equal(x[0, 4], x[1, 4]) for x in seen)


def test_pictures_beside_the_latent_are_refused_by_their_channels(plain):
    parts = plain.vae, plain.text_encoder, plain.tokenizer, scheduler(), LocalHost("cpu")
    with pytest.raises(RegionStyleError, match="8 input channels"):
        DiffusersPredictor(widened(plain.unet, 8), *parts)

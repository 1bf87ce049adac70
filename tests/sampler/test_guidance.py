"""Guidance on the diffusers host, with the tiny world's own denoiser: the three forms, and what guides nothing."""

import pytest
import torch
from torch.nn import functional as F

from regionstyle.nodes.engine.attention.supervision import AttentionLoss
from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.families.base import BIAS, COMPOSITION, GRADIENT
from regionstyle.nodes.engine.families.registry import families
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.sampling import ddim, partial_times
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.sampler.guidance import LocalGuide, blended, check_form, descend, falling
from regionstyle.nodes.sampler.settings import FORMS, KINDS, GuidanceSettings
from regionstyle.nodes.sampler.targets import area_masks, check_shape, default_prompt, targets_of, unguided_of
from regionstyle.nodes.tinyworld.bundled import load_predictor

PROMPT = "a red star in mosaic style and a blue ring"
CANCEL = [False]


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu", cancelled=lambda: CANCEL[0]))


def box(top, left, bottom, right, side=128):
    mask = torch.zeros(side, side)
    mask[top:bottom, left:right] = 1
    return mask


LEFT, RIGHT = box(32, 0, 96, 64), box(32, 64, 96, 128)


def regions(*items, batch=1):
    found = tuple(Region(phrase, (0, 0, 1, 1), mask, style) for phrase, style, mask in items)
    return Regions(found, 128, 128, batch)


TWO = (("red star", "mosaic", LEFT), ("blue ring", "", RIGHT))


@torch.no_grad()
def drawn(predictor, given=None, *, off=False, steps=3, **settings):
    """A latent from noise, and its guide."""
    text = predictor.encode_text([PROMPT])
    held = regions(*TWO) if given is None else given
    guide = LocalGuide(predictor, text, held, GuidanceSettings(**settings), off=off)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return ddim(predictor, x, partial_times(1.0, steps), text, guide=guide), guide


def test_the_forms_are_those_of_the_families():
    assert set(FORMS) == {BIAS, GRADIENT, COMPOSITION}
    assert all(set(family.guides) <= set(FORMS) for family in families())
    assert KINDS == ("logodds", "text", "joint", "selected")


@pytest.mark.parametrize("form", [BIAS, GRADIENT])
def test_attention_comes_nearer_to_the_regions(predictor, form):
    plain, before = drawn(predictor, off=True)
    made, after = drawn(predictor, form=form, step=0.1)
    assert len(after.recorder.steps) == 3
    assert after.recorder.steps[0].total < before.recorder.steps[0].total - 0.1
    assert after.recorder.steps[-1].total < before.recorder.steps[-1].total
    assert not torch.equal(made, plain)
    star = after.recorder.steps[0].maps[after.supervision.phrases.index("red star")]
    grid = F.interpolate(LEFT[None, None], star.shape, mode="area")[0, 0] > 0.5
    assert float(star[grid].mean()) > float(star[~grid].mean())


def test_off_is_bit_for_bit_the_plain_sampler(predictor):
    text = predictor.encode_text([PROMPT])
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = ddim(predictor, x, partial_times(1.0, 3), text)
    for settings in ({"off": True}, {"end": 0.0}, {"form": GRADIENT, "end": 0.0}):
        assert torch.equal(drawn(predictor, **settings)[0], plain)
    with torch.no_grad():
        assert torch.equal(ddim(predictor, x, partial_times(1.0, 3), text), plain), "something stayed on the network"


def test_composition_is_the_blend_of_the_prompts(predictor):
    made, guide = drawn(predictor, form=COMPOSITION, end=1.0, steps=1)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base, star, ring = (
            predictor.predict(x, 1.0, predictor.encode_text([prompt])).denoised
            for prompt in (PROMPT, "a red star in mosaic style", "a blue ring")
        )
    left, right = (F.interpolate(mask[None, None], (16, 16), mode="area") for mask in (LEFT, RIGHT))
    assert torch.allclose(made, base * (1 - left - right) + star * left + ring * right, atol=1e-5)


def test_falling():
    assert [falling(share, 0.5) for share in (0.0, 0.25, 0.5, 0.9)] == [1.0, 0.5, 0.0, 0.0]
    assert falling(0.0, 0.0) == 0


def test_descend_steps_by_the_latents_size_and_stops():
    x, goal = torch.full((2, 1, 4, 4), 2.0), torch.zeros(2, 1, 4, 4)
    x[1] *= 10

    def loss(latent):
        total = (latent - goal).square().sum()
        return AttentionLoss(total, total, total, 1)

    moved = descend(x, loss, 0.1, GuidanceSettings(), lambda: None)
    assert torch.allclose(moved[0], torch.full((1, 4, 4), 1.8))
    assert torch.allclose(moved[1], torch.full((1, 4, 4), 18.0)), "each picture by its own size"
    assert torch.equal(descend(x, loss, 0.1, GuidanceSettings(stop=100.0), lambda: None) < x, torch.ones_like(x) > 0)
    small = x * 1e-3
    assert torch.equal(descend(small, loss, 0.1, GuidanceSettings(stop=100.0), lambda: None), small)


def test_blended_is_the_base_where_no_mask_is():
    base, part = torch.ones(1, 2, 2, 2), torch.full((1, 2, 2, 2), 3.0)
    masks = torch.tensor([[[[0.0, 1.0], [0.5, 0.0]]]])
    assert blended(base, [part], masks)[0, 0].tolist() == [[1.0, 3.0], [2.0, 1.0]]


@pytest.mark.parametrize("mask", [torch.zeros(128, 128), torch.ones(128, 128)])
def test_masks_without_contrast_guide_nothing_and_are_named(predictor, mask):
    made, guide = drawn(predictor, regions(("red star", "mosaic", mask)))
    assert torch.equal(made, drawn(predictor, off=True)[0])
    assert guide.targets.unguided.startswith("'red star': ")
    assert not guide.recorder.steps
    assert unguided_of(regions(*TWO)) == ""


def test_cancel_restores_the_network(predictor):
    plain = drawn(predictor, off=True)[0]
    CANCEL[0] = True
    try:
        with pytest.raises(Cancelled):
            drawn(predictor, form=GRADIENT)
    finally:
        CANCEL[0] = False
    assert torch.equal(drawn(predictor, off=True)[0], plain)
    assert not sum(len(m._forward_hooks) for m in predictor.network.modules())


def test_absent_phrases_are_named(predictor):
    with pytest.raises(RegionStyleError, match="phrase: got 'green cat'"):
        drawn(predictor, regions(("green cat", "", LEFT)))
    with pytest.raises(RegionStyleError, match="regions: got none"):
        drawn(predictor, regions())


def test_an_unsupported_network_gets_the_table():
    with pytest.raises(RegionStyleError, match="gradient: SD1.5, SD2 and SDXL") as error:
        check_form(BIAS, torch.nn.Linear(1, 1))
    assert "got a Linear" in str(error.value)
    flux = next(family for family in families() if family.name == "FLUX")
    with pytest.raises(RegionStyleError, match="the gradient form for a model of the FLUX class"):
        check_form(GRADIENT, None, flux)


def test_targets(predictor):
    text = predictor.encode_text(["a star in mosaic style and a ring in mosaic style"])
    found = targets_of(
        text, regions(("the leftmost star", "mosaic", LEFT), ("ring", "mosaic", RIGHT)), "style and thing"
    )
    (sample,) = found.samples
    assert [target.phrase for target in sample] == ["mosaic", "the leftmost star", "ring"]
    assert torch.equal(sample[0].mask, torch.maximum(LEFT, RIGHT)), "one style on two things is over both"
    assert "'mosaic': tokens" in found.notice
    assert "[mosaic]" in found.notice
    only = targets_of(text, regions(("star", "mosaic", LEFT)), "thing")
    assert [target.phrase for target in only.samples[0]] == ["star"]
    with pytest.raises(RegionStyleError, match="'style' for 'star'"):
        targets_of(text, regions(("star", "", LEFT)), "style")


def test_the_prompt_made_of_regions():
    assert default_prompt(regions(*TWO)) == "a red star in mosaic style and a blue ring"


def test_area_masks_share_overlaps():
    masks = area_masks(regions(("star", "", LEFT), ("ring", "", torch.maximum(LEFT, RIGHT))), (16, 16))
    assert masks.shape == (1, 2, 16, 16)
    assert float(masks.sum(1).max()) == pytest.approx(1.0)
    assert masks[0, :, 8, 2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("latent", [(1, 4, 16, 32), (1, 4, 8, 16)])
def test_the_regions_must_have_the_latents_shape(latent):
    with pytest.raises(RegionStyleError, match="regions: got pictures of 128 x 128"):
        check_shape(regions(*TWO), latent)
    check_shape(regions(*TWO), (3, 4, 64, 64))
    with pytest.raises(RegionStyleError, match="regions: got 2 pictures"):
        check_shape(regions(*TWO, batch=2), (3, 4, 64, 64))


@pytest.mark.parametrize(
    "wrong", [{"form": "all"}, {"bias": -1.0}, {"end": 2.0}, {"attention": "cross"}, {"repeats": 0}]
)
def test_wrong_settings(wrong):
    with pytest.raises(RegionStyleError):
        GuidanceSettings(**wrong)

"""Grounding by attention on the shipped tiny world, and its parts by hand-made cases."""

import math

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.grounding.finders import attention
from regionstyle.nodes.grounding.finders.attention import mask_from_logodds, otsu, threshold_of
from regionstyle.nodes.grounding.finders.attention_finder import ground_by_attention
from regionstyle.nodes.grounding.masks.refine import guided_filter
from regionstyle.nodes.grounding.settings import AttentionSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor
from regionstyle.nodes.tinyworld.world import scene


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"))


def picture(made) -> torch.Tensor:
    return torch.from_numpy(made.image.copy()).permute(2, 0, 1)[None]


def overlap(mask: torch.Tensor, truth) -> float:
    a, b = mask > 0.5, torch.from_numpy(truth) > 0.5
    return float((a & b).sum() / (a | b).sum())


def test_finds_the_things_that_are_named(predictor):
    scores = []
    for seed in range(6):
        made = scene(seed, split="held-out", count=2)
        for thing in made.objects:
            found = ground_by_attention(predictor, picture(made), thing.phrase)
            assert found.mask.shape == (128, 128)
            scores.append(overlap(found.mask, thing.mask))
    assert sum(scores) / len(scores) >= 0.65


def test_same_seed_same_mask_and_another_seed_another(predictor):
    image = picture(scene(0, split="held-out"))
    phrase = scene(0, split="held-out").objects[0].phrase
    first, again = (ground_by_attention(predictor, image, phrase).logodds for _ in range(2))
    other = ground_by_attention(predictor, image, phrase, settings=AttentionSettings(seed=1)).logodds
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_article_is_the_captions_and_not_looked_for(predictor):
    image = picture(scene(0, split="held-out"))
    bare = ground_by_attention(predictor, image, "orange triangle").logodds
    assert torch.equal(ground_by_attention(predictor, image, "an orange triangle").logodds, bare)
    assert torch.equal(ground_by_attention(predictor, image, "orange triangle", "an orange triangle").logodds, bare)
    assert not torch.equal(ground_by_attention(predictor, image, "orange triangle", "a orange triangle").logodds, bare)


@pytest.mark.parametrize("size", [(97, 180), (40, 40), (300, 130)])
def test_any_size(predictor, size):
    """The thing is found in a scene of any size and shape, in that picture's own pixels."""
    made = scene(1, split="held-out", count=1)
    (thing,) = made.objects
    image, truth = (
        torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        for x in (picture(made), torch.from_numpy(thing.mask)[None, None])
    )
    found = ground_by_attention(predictor, image, thing.phrase)
    assert found.mask.shape == size
    assert overlap(found.mask, truth[0, 0].numpy()) >= 0.5


@pytest.mark.parametrize("stop_after", [1, 3])
def test_cancel_is_heard_at_every_pass(stop_after):
    calls = []
    host = LocalHost("cpu", on_progress=lambda *a: calls.append(a), cancelled=lambda: len(calls) >= stop_after)
    with pytest.raises(Cancelled):
        ground_by_attention(load_predictor(host), torch.rand(1, 3, 128, 128), "red star")
    assert len(calls) == stop_after


def test_a_phrase_that_is_not_in_the_caption_is_refused(predictor):
    with pytest.raises(RegionStyleError, match="blue ring"):
        ground_by_attention(predictor, torch.rand(1, 3, 128, 128), "blue ring", "a red star")


def test_a_caption_without_another_word_is_refused(predictor):
    with pytest.raises(RegionStyleError, match="other words"):
        ground_by_attention(predictor, torch.rand(1, 3, 128, 128), "red star", "red star")


def test_no_contrast_means_not_found():
    found = mask_from_logodds(torch.full((8, 8), 0.3), AttentionSettings())
    assert not found.found
    assert found.score == 0
    assert not found.mask.any()


def test_mask_of_a_clear_map():
    logodds = torch.full((10, 10), -4.0)
    logodds[2:5, 3:8] = 4.0
    found = mask_from_logodds(logodds, AttentionSettings())
    assert found.found
    assert torch.equal(found.mask > 0.5, logodds > 0)
    assert (found.mask[logodds < 0] == 0).all()


def two_things() -> torch.Tensor:
    """A thing at 4, another at 1.5 that the words fit less, on a ground at -4."""
    logodds = torch.full((20, 20), -4.0)
    logodds[2:8, 2:8] = 4.0
    logodds[12:18, 10:18] = 1.5
    return logodds


def test_what_the_words_fit_less_is_another_thing():
    """Otsu's threshold alone keeps both; what lies far below the strongest places is left out, touching or not."""
    logodds = two_things()
    assert float(threshold_of(logodds)) < 1.5
    assert torch.equal(mask_from_logodds(logodds, AttentionSettings()).mask > 0.5, logodds > 2)
    logodds[8:12, 2:18] = 1.5
    assert torch.equal(mask_from_logodds(logodds, AttentionSettings()).mask > 0.5, logodds > 2)


def test_parts_that_are_alike_stay_together():
    logodds = two_things()
    logodds[12:18, 10:18] = 3.8
    assert torch.equal(mask_from_logodds(logodds, AttentionSettings()).mask > 0.5, logodds > 0)
    logodds[12:18, 10:18] = 3.0
    assert torch.equal(mask_from_logodds(logodds, AttentionSettings()).mask > 0.5, logodds > 3.5)


@pytest.mark.parametrize("lift", [0.0, 1.2])
def test_a_place_belongs_to_the_words_that_fit_it_better(lift):
    """Maps are compared above their own thresholds: words that draw more attention everywhere win little by it."""
    one, other = torch.full((20, 20), -4.0), torch.full((20, 20), -4.0) + lift
    one[4:10, 4:16], other[4:10, 4:16] = 2.0, 1.0 + lift
    one[10:16, 4:16], other[10:16, 4:16] = 1.0, 2.0 + lift
    alone = mask_from_logodds(one, AttentionSettings()).mask > 0.5
    beside = mask_from_logodds(one, AttentionSettings(), [other]).mask > 0.5
    assert alone[4:16, 4:16].all()
    assert beside[4:10, 4:16].all()
    assert int(beside.sum()) == 6 * 12


def test_a_thing_that_others_own_everywhere_is_not_found():
    logodds = two_things()
    assert not mask_from_logodds(logodds, AttentionSettings(), [logodds * 2]).found


def test_bias_shrinks_the_mask_also_where_the_strongest_places_decide():
    logodds = two_things()
    logodds[4:6, 4:6] = 5.0
    usual, fewer = (mask_from_logodds(logodds, AttentionSettings(bias=bias)).mask for bias in (0.0, 2.5))
    assert int((fewer > 0.5).sum()) < int((usual > 0.5).sum())


def test_otsu_splits_two_classes_and_survives_a_constant():
    values = torch.cat([torch.linspace(0, 0.2, 50), torch.linspace(0.8, 1, 20)])
    assert 0.2 <= otsu(values) <= 0.8
    assert otsu(torch.ones(9)) == 1
    assert math.isfinite(threshold_of(torch.zeros(4, 4)))


def test_guided_filter_follows_the_edges_of_its_guide():
    guide = torch.zeros(1, 3, 32, 32)
    guide[..., 13:] = 1.0
    blurred = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    result = guided_filter(blurred, guide, 8, 1e-4)
    assert float(result[0, 0, 16, 13] - result[0, 0, 16, 12]) > 0.2
    flat = guided_filter(blurred, torch.full_like(guide, 0.5), 2, 1e-4)
    assert float((flat[0, 0, :, 8:-8] - blurred[0, 0, :, 8:-8]).abs().max()) < 0.05


def test_every_threshold_is_looked_for_once(monkeypatch):
    """A hundred things are compared with each other: without that, ten thousand thresholds."""
    looked, maps = [], [torch.randn(8, 8, generator=torch.Generator().manual_seed(n)) for n in range(20)]
    monkeypatch.setattr(attention, "otsu", lambda values: looked.append(1) or otsu(values))
    for one in maps:
        mask_from_logodds(one, AttentionSettings(), [other for other in maps if other is not one])
    assert len(looked) == 20
    assert threshold_of(maps[0]) == threshold_of(maps[0].clone())

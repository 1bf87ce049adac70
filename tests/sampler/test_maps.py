"""Attention maps to look at."""

import pytest
import torch

from regionstyle.nodes.app.evaluation.scenes import as_image, demo_scene
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.sampler.guidance import StepRecord
from regionstyle.nodes.sampler.maps import as_masks, look, map_pictures, resized, step_lines, step_strip
from regionstyle.nodes.sampler.settings import MapSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor

PROMPT, PHRASES = "a orange triangle and a blue ring", ["orange triangle", "blue ring"]


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"))


@pytest.mark.parametrize("attention", ["logodds", "text", "joint"])
def test_each_phrase_is_seen_where_it_is(predictor, attention):
    scenery = demo_scene(10)
    seen = look(predictor, as_image(scenery), PROMPT, PHRASES, MapSettings(draws=1, attention=attention))
    masks = as_masks(resized(seen.maps, (128, 128)), attention)
    assert masks.shape == (1, 2, 128, 128)
    assert 0 <= float(masks.min()) <= float(masks.max()) <= 1
    for thing in scenery.objects:
        inside = torch.from_numpy(thing.mask) > 0.5
        found = masks[0, PHRASES.index(thing.phrase)]
        assert float(found[inside].mean()) > float(found[~inside].mean())
    assert "[orange]" in seen.tokens
    assert seen.layers.count("shown") < len(seen.layers.splitlines())


def test_layers(predictor):
    image = as_image(demo_scene(10))
    shown = {
        layers: look(predictor, image, PROMPT, PHRASES, MapSettings(draws=1, layers=layers)).layers.count("shown")
        for layers in ("all", "finest", "useful", "mid_block")
    }
    assert shown["all"] > shown["finest"] >= 1
    assert shown["all"] > shown["useful"] >= 1
    assert shown["mid_block"] == 1
    with pytest.raises(RegionStyleError, match="layers: got 'attic'.*mid_block"):
        look(predictor, image, PROMPT, PHRASES, MapSettings(draws=1, layers="attic"))
    with pytest.raises(RegionStyleError, match="phrases: got none"):
        look(predictor, image, PROMPT, [], MapSettings())


def test_pictures():
    assert map_pictures(torch.rand(2, 3, 16, 24), torch.randn(2, 3, 4, 6)).shape == (6, 3, 16, 24)
    records = [StepRecord(number / 8, 1.5, 2.5, 4.0, torch.randn(2, 4, 4)) for number in range(8)]
    assert step_strip(records, 10, 4).shape == (3, 20, 40)
    assert step_strip([], 10).shape == (3, 10, 10)
    assert step_lines(records[:2]) == "step 1: focus 1.500, cover 2.500\nstep 2: focus 1.500, cover 2.500"

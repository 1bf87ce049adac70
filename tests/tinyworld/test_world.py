import time

import numpy as np
import pytest

from regionstyle.nodes.tinyworld.shapes import SHAPES, shape_distance
from regionstyle.nodes.tinyworld.styles import STYLES, apply_style
from regionstyle.nodes.tinyworld.tokenizer import known, load_tokenizer
from regionstyle.nodes.tinyworld.world import COLORS, restyle_object, restyle_whole, scene, vocabulary


def test_a_scene_is_a_function_of_its_seed():
    first, again, other = scene(5), scene(5), scene(6)
    assert (first.image == again.image).all()
    assert first.caption == again.caption
    assert first.image.shape == (128, 128, 3)
    assert (first.image != other.image).any()
    assert 0 <= first.image.min() <= first.image.max() <= 1


def test_held_out_scenes_are_others_and_have_other_photographs():
    assert (scene(5).image != scene(5, split="held-out").image).any()
    words = {scene(n).background for n in range(120)}, {scene(n, split="held-out").background for n in range(120)}
    assert {"cat", "coffee"} <= words[1]
    assert not {"cat", "coffee"} & words[0]
    with pytest.raises(ValueError, match="held-out"):
        scene(0, split="test")


@pytest.mark.parametrize("seed", range(12))
def test_masks_and_boxes_are_what_is_visible(seed):
    made = scene(seed)
    assert 1 <= len(made.objects) <= 3
    total = sum(thing.mask for thing in made.objects)
    assert total.max() <= 1 + 1e-5, "two objects own one pixel"
    for thing in made.objects:
        x0, y0, x1, y1 = thing.box
        outside = thing.mask.copy()
        outside[y0:y1, x0:x1] = 0
        assert outside.max() <= 0.5
        assert thing.phrase in made.caption


def test_the_mask_shows_where_the_object_was_painted():
    with_object = scene(2, count=1, background_kind="plain")
    inside = with_object.objects[0].mask > 0.99
    color = np.array(COLORS[with_object.objects[0].color])
    assert np.abs(with_object.image[inside].mean(0) - color).max() < 0.25


@pytest.mark.parametrize("style", STYLES)
def test_truth_is_the_filter_inside_and_the_picture_outside(style):
    made = scene(1, count=2)
    truth = restyle_object(made, 1, style)
    mask = made.objects[1].mask
    assert (truth.image[mask == 0] == made.image[mask == 0]).all()
    np.testing.assert_allclose(truth.image[mask == 1], apply_style(made.image, style)[mask == 1], atol=1e-6)
    assert f"in {style} style" in truth.caption
    assert restyle_whole(made, style).caption.endswith(f"in {style} style")


@pytest.mark.parametrize("style", STYLES)
def test_patterns_are_anchored_to_the_eight_pixel_grid(style):
    image = scene(3).image
    inner = (slice(32, 96), slice(32, 96))
    whole, part = apply_style(image, style)[inner], apply_style(image[16:112, 16:112], style)[16:80, 16:80]
    np.testing.assert_allclose(whole, part, atol=2e-3)


@pytest.mark.parametrize("style", STYLES)
def test_styles_are_visible_and_stay_in_range(style):
    image = scene(4).image
    styled = apply_style(image, style)
    assert styled.dtype == np.float32
    assert 0 <= styled.min() <= styled.max() <= 1
    assert np.abs(styled - image).mean() > 0.03


def test_an_unknown_style_lists_the_known():
    with pytest.raises(KeyError, match="mosaic"):
        apply_style(scene(0).image, "cubism")


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_whole_and_differ(shape):
    inside = shape_distance(shape, 128, (64.0, 64.0), 40.0, 0.0) < 0
    assert 0.1 < inside.mean() < 0.45
    assert not inside[[0, -1]].any()
    others = [shape_distance(s, 128, (64.0, 64.0), 40.0, 0.0) < 0 for s in SHAPES if s != shape]
    assert all((inside & o).sum() / (inside | o).sum() < 0.93 for o in others)


def test_every_word_is_one_token_and_others_fall_apart():
    tokenizer = load_tokenizer()
    assert [w for w in vocabulary() if len(tokenizer(w)["input_ids"]) != 3] == []
    assert len(tokenizer("dog")["input_ids"]) == 5
    assert known("Star")
    assert not known("dog")


def test_captions_of_two_styles_stay_apart():
    made = restyle_object(restyle_object(scene(1, count=2), 0, "neon"), 1, "mosaic")
    assert "in neon style" in made.caption
    assert "in mosaic style" in made.caption


@pytest.mark.slow
def test_fifty_scenes_a_second_on_one_core():
    scene(0)
    began = time.process_time()
    for seed in range(50):
        scene(seed)
    assert time.process_time() - began < 10, "an order of magnitude too slow"

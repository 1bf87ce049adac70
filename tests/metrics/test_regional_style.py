"""RSM, LPIPS_bg, MSE_bg, LEAST's CLIP score and the four questions."""

import math

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.metrics.measurement import Measurement, mean_of
from regionstyle.nodes.metrics.networks.perceptual import PerceptualDistance
from regionstyle.nodes.metrics.regional_style import background_distance, regional_style_match, regional_style_score
from regionstyle.nodes.metrics.settings import RegionalStyleSettings
from regionstyle.nodes.metrics.text_image import NamedTowers, masked_crop_clip_score, preference_score, region_crop
from regionstyle.nodes.metrics.vlm_questions import Edit, ask_questions, read_answer


class MeanColour:
    """A picture's embedding is its mean colour; a text's is a colour it names."""

    backbone, scale = "colour-tiny", 10.0
    words = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}

    def embed_images(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=-1)

    def embed_texts(self, texts):
        found = [next(v for k, v in self.words.items() if k in text) for text in texts]
        return torch.tensor(found, dtype=torch.float32)


def identity_features(x):
    return [x, torch.nn.functional.avg_pool2d(x, 2)]


CLIP, LPIPS = MeanColour(), PerceptualDistance(identity_features, "identity-tiny")


def scene(size=32):
    """A grey picture, a red square in its result, and the square's mask."""
    source = torch.full((1, 3, size, size), 0.5)
    mask = torch.zeros(1, size, size)
    mask[:, 8:16, 8:20] = 1
    result = source.clone()
    result[:, :, 8:16, 8:20] = torch.tensor([1.0, 0, 0])[:, None, None]
    return source, result, mask


def test_a_perfect_edit():
    source, result, mask = scene()
    score = regional_style_score(CLIP, LPIPS, result, source, mask, ["red"], RegionalStyleSettings(margin=0))
    assert score.rsm.value == pytest.approx(1)
    assert score.mse_bg.value == 0
    # Half resolution bleeds a quarter pixel over every side of the square of 8 x 12; the mean is over what is outside.
    grey_to_red = ((1 - 3**-0.5) ** 2 + 2 / 3) / 3
    bled = 8 * 12 - (8 - 0.5) * (12 - 0.5)
    assert score.lpips_bg.value == pytest.approx(grey_to_red * bled / (32 * 32 - 8 * 12), rel=1e-4)


def test_the_other_style_and_no_edit_score_lower():
    source, result, mask = scene()
    settings = RegionalStyleSettings(margin=0)
    other = regional_style_match(CLIP, result, mask, ["green"], settings)
    none = regional_style_match(CLIP, source, mask, ["red"], settings)
    assert float(other) == pytest.approx(0.5)  # cosine 0
    assert float(none) == pytest.approx((1 + 1 / math.sqrt(3)) / 2)


def test_rsm_is_the_equation_with_a_margin():
    source, result, mask = scene()
    grow = round(0.25 * 12)
    crop = result[0, :, 8 - grow : 16 + grow, 8 - grow : 20 + grow].double().numpy()
    mean = crop.mean((1, 2))
    truth = (1 + mean[0] / np.sqrt((mean**2).sum())) / 2
    found = regional_style_match(CLIP, result, mask, ["red"], RegionalStyleSettings(margin=0.25))
    assert float(found) == pytest.approx(truth, rel=1e-6)


def test_a_change_outside_is_counted_in_the_named_range():
    source, _, mask = scene()
    result = source.clone()
    result[:, :, 0, :] = 1.0  # one row of 32, 0.5 off
    outside = float((1 - mask).sum())
    for pixel_range, scale in (("0..1", 1), ("-1..1", 4), ("0..255", 255**2)):
        settings = RegionalStyleSettings(pixel_range=pixel_range)
        found = regional_style_score(CLIP, LPIPS, result, source, mask, ["red"], settings).mse_bg
        assert found.value == pytest.approx(0.25 * 32 / outside * scale)
        assert found.pixel_range == pixel_range


def test_a_shifted_mask_is_seen():
    source, result, mask = scene()
    right = regional_style_score(CLIP, LPIPS, result, source, mask, ["red"])
    wrong = regional_style_score(CLIP, LPIPS, result, source, torch.roll(mask, 8, -1), ["red"])
    assert wrong.mse_bg.value > right.mse_bg.value == 0
    assert wrong.lpips_bg.value > right.lpips_bg.value
    assert wrong.rsm.value < right.rsm.value


def test_both_ways_to_the_background_agree_on_an_untouched_one():
    source, result, mask = scene()
    fill = background_distance(LPIPS, result, source, mask, RegionalStyleSettings(background="fill"))
    assert float(fill) == 0
    result[:, :, 30, 30] = 0
    assert float(background_distance(LPIPS, result, source, mask, RegionalStyleSettings(background="fill"))) > 0


def test_soft_masks_weigh_or_are_cut():
    source, result, mask = scene()
    result[:, :, 0, 0] = 1
    soft = mask.clone()
    soft[:, 0, 0] = 0.75
    weighed = regional_style_score(CLIP, LPIPS, result, source, soft, ["red"]).mse_bg.value
    cut = regional_style_score(CLIP, LPIPS, result, source, soft, ["red"], RegionalStyleSettings(soft=False)).mse_bg
    assert weighed > 0
    assert cut.value == 0


@pytest.mark.parametrize(("mask", "says"), [(torch.zeros(32, 32), "no region"), (torch.ones(32, 32), "no background")])
def test_no_region_or_no_background_is_an_error(mask, says):
    source, result, _ = scene()
    with pytest.raises(RegionStyleError, match=says):
        regional_style_score(CLIP, LPIPS, result, source, mask, ["red"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"result": torch.rand(1, 3, 8, 8)}, "the same shape"),
        ({"result": torch.full((1, 3, 32, 32), float("nan"))}, "result: got values nan"),
        ({"result": torch.full((1, 3, 32, 32), 200.0)}, "result: got values"),
        ({"mask": torch.ones(1, 8, 8)}, "mask: got shape"),
        ({"mask": torch.full((1, 32, 32), float("nan"))}, "mask: got values nan"),
        ({"mask": torch.full((1, 32, 32), 255.0)}, "mask: got values"),
        ({"styles": ["red", "green"]}, "styles: got 2"),
        ({"styles": [" "]}, "styles: got nothing"),
    ],
)
def test_wrong_input_is_named(change, says):
    source, result, mask = scene()
    given = {"result": result, "source": source, "mask": mask, "styles": ["red"], **change}
    with pytest.raises(RegionStyleError) as caught:
        regional_style_score(CLIP, LPIPS, **given)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mask": torch.zeros(32, 32)}, "no region"),
        ({"mask": torch.ones(8, 8)}, "mask: got shape"),
        ({"styles": ["red", "red"]}, "styles: got 2"),
        ({"fill": 2.0}, "fill"),
        ({"fill": float("nan")}, "fill"),
        ({"images": torch.full((1, 3, 32, 32), float("nan"))}, "nan"),
    ],
)
def test_clip_score_names_what_is_wrong(change, says):
    _, result, mask = scene()
    with pytest.raises(RegionStyleError) as caught:
        masked_crop_clip_score(CLIP, **{"images": result, "mask": mask, "styles": ["red"], **change})
    assert says in str(caught.value)


def test_a_tiny_region_is_measured():
    source, _, _ = scene()
    mask = torch.zeros(1, 32, 32)
    mask[0, 5, 6] = 1
    result = source.clone()
    result[0, :, 5, 6] = torch.tensor([1.0, 0, 0])
    score = regional_style_score(CLIP, LPIPS, result, source, mask, ["red"], RegionalStyleSettings(margin=0))
    assert score.rsm.value == pytest.approx(1)


def test_every_number_says_what_it_is():
    source, result, mask = scene()
    score = regional_style_score(
        CLIP, LPIPS, result.repeat(3, 1, 1, 1), source.repeat(3, 1, 1, 1), mask.repeat(3, 1, 1), ["red"] * 3
    )
    assert [m.name for m in score.all()] == ["RSM-tiny", "LPIPS_bg-tiny", "MSE_bg"]
    assert [m.backbone for m in score.all()] == ["colour-tiny", "identity-tiny", ""]
    assert all(m.pixel_range and m.count == 3 for m in score.all())


@pytest.mark.parametrize(
    "wrong",
    [
        {"background": "crop"},
        {"sentence": "a picture"},
        {"margin": -1},
        {"margin": float("nan")},
        {"pixel_range": "0..7"},
        {"soft_mask": 1},
    ],
)
def test_options_are_checked(wrong):
    (name,) = wrong
    with pytest.raises(RegionStyleError, match=name):
        RegionalStyleSettings(**{name.removesuffix("_mask"): wrong[name]})


def test_clip_score_of_least_is_the_masked_crop():
    _, result, mask = scene()
    half = mask.clone()
    half[:, :, 14:] = 0  # an L-free rectangle: 8 x 6
    assert float(masked_crop_clip_score(CLIP, result, half, ["red"])) == pytest.approx(100)
    ring = mask.clone()
    ring[:, 10:14, 10:18] = 0  # black inside the box does not change the direction of the mean colour
    assert float(masked_crop_clip_score(CLIP, result, ring, ["red"])) == pytest.approx(100)
    grey = masked_crop_clip_score(CLIP, result, ring, ["red"], fill=0.5)
    assert float(grey) < 99


def test_a_faint_mask_is_still_a_region():
    image = torch.rand(3, 16, 16)
    mask = torch.zeros(16, 16)
    mask[4:8, 2:10] = 0.2
    assert torch.equal(region_crop(image, mask), image[None, :, 4:8, 2:10])


def test_preference_scores_differ_by_the_temperature():
    _, result, _ = scene()
    cosine = preference_score(CLIP, result, ["red"], scaled=False)
    assert preference_score(CLIP, result, ["red"], scaled=True).tolist() == pytest.approx((10 * cosine).tolist())
    assert NamedTowers(CLIP, "other").scale == 10


@pytest.mark.parametrize(("reply", "truth"), [("Yes.", True), (" no, it does not", False), ("**YES**", True)])
def test_answers_are_read(reply, truth):
    assert read_answer(reply) is truth


@pytest.mark.parametrize("reply", ["", "maybe", "I see yes", "yesterday", "not sure"])
def test_other_answers_are_an_error(reply):
    with pytest.raises(RegionStyleError, match="yes or no"):
        read_answer(reply)


def test_questions_reach_the_model_and_are_counted():
    asked = []

    def ask(image, question):
        asked.append(question)
        return "yes" if "mosaic" in question and "Look only at the star" in question else "No"

    picture = torch.rand(1, 3, 16, 16)
    edits = [Edit(picture, "star", "mosaic", "neon"), Edit(picture, "ring", "mosaic", "neon")]
    found = ask_questions(ask, edits, "some-vlm")
    assert {m.name: m.value for m in found} == {"Q1": 0.5, "Q2": 0, "Q3": 0, "Q4": 0}
    assert {(m.backbone, m.count) for m in found} == {("some-vlm", 2)}
    assert len(asked) == 8
    assert sum("neon" in q for q in asked) == 4


def test_questions_need_an_opposite_style():
    edit = Edit(torch.rand(1, 3, 8, 8), "star", "mosaic", "mosaic")
    with pytest.raises(RegionStyleError, match="opposite"):
        ask_questions(lambda image, question: "yes", [edit], "vlm")


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ([], "edits: got none"),
        ([Edit(torch.rand(2, 3, 8, 8), "star", "mosaic", "neon")], "2 pictures"),
        ([Edit(torch.rand(1, 3, 8, 8), " ", "mosaic", "neon")], "words for thing"),
        ([Edit(torch.rand(1, 3, 8, 8) * 255, "star", "mosaic", "neon")], "0..1"),
    ],
)
def test_wrong_edits_are_named(edits, says):
    with pytest.raises(RegionStyleError) as caught:
        ask_questions(lambda image, question: "yes", edits, "vlm")
    assert says in str(caught.value)


def test_means_keep_their_means():
    parts = [Measurement("MSE", 1.0, "", "0..1", 1), Measurement("MSE", 4.0, "", "0..1", 2)]
    assert mean_of(parts) == Measurement("MSE", 3.0, "", "0..1", 3)
    with pytest.raises(RegionStyleError, match="one metric"):
        mean_of([parts[0], Measurement("MSE", 1.0, "", "0..255")])
    assert Measurement("PSNR", math.inf).as_json()["value"] == "inf"

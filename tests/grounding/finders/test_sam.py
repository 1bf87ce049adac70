"""Masks equal `SamPredictor`'s bit for bit; regions keep their words; wrong prompts are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions, missing_region
from regionstyle.nodes.engine.sam_network import SamConfig, load_sam, new_sam
from regionstyle.nodes.grounding.finders.sam import (
    SamNetwork,
    SamPrompt,
    SamSegmenter,
    encode,
    segment_points,
    segment_regions,
)
from regionstyle.nodes.grounding.settings import BEST, MASK_CHOICES, SINGLE

SMALL = SamConfig(
    image_size=64, patch=8, width=32, depth=2, heads=2, window=0, global_blocks=(0, 1), prompt_width=32,
    mask_channels=8, decoder_mlp=48, iou_width=24,
)  # fmt: skip
HOST = LocalHost("cpu")


def random_sam(config=SMALL, seed=0):
    torch.manual_seed(seed)
    sam = new_sam(config)
    with torch.no_grad():  # as initialised, masks are nearly flat
        for parameter in sam.mask_decoder.parameters():
            parameter.mul_(1.5)
    return sam


@pytest.fixture(scope="module")
def network():
    return SamNetwork(random_sam(), "small")


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 40, 70, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def embedding(network, images):
    return encode(network, images, HOST)


def predictors_answer(sam, image, points=None, labels=None, box=None, multimask=True):
    predictor = SamPredictor(sam)
    predictor.set_image((image * 255).round().byte().permute(1, 2, 0).numpy())
    return predictor.predict(points, labels, box, multimask_output=multimask, return_logits=True)


PROMPTS = {
    "box": SamPrompt((10.0, 5.0, 40.5, 30.0)),
    "point": SamPrompt(inside=((20.0, 20.0),)),
    "both": SamPrompt((10, 5, 40, 30), ((20.0, 20.0),), ((30.0, 8.0), (12.0, 6.0))),
}


@pytest.mark.parametrize("choice", MASK_CHOICES)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_masks_equal_the_predictors_bit_for_bit(prompt, choice, network, images, embedding):
    points = [*prompt.inside, *prompt.outside]
    given = (
        (np.array(points), np.array([1] * len(prompt.inside) + [0] * len(prompt.outside))) if points else (None,) * 2
    )
    box = None if prompt.box is None else np.array(prompt.box)
    segmenter = SamSegmenter(embedding, HOST, choice)
    for index in (1, 0):
        logits, ious, _ = predictors_answer(network.sam, images[index], *given, box, choice != SINGLE)
        best = {BEST: int(ious.argmax()), SINGLE: 0}.get(choice, MASK_CHOICES.index(choice) - 2)
        found = segmenter.ask(index, prompt)
        assert torch.equal(found.logits, torch.from_numpy(logits[best]))
        assert found.iou == float(ious[best])
    assert tuple(found.logits.shape) == (40, 70)


def test_soft_masks_are_probabilities_with_a_clear_outside(embedding):
    found = SamSegmenter(embedding, HOST).ask(0, PROMPTS["box"])
    found = replace(found, logits=found.logits * 20)
    assert torch.equal(found.soft > 0.5, found.logits.sigmoid() > 0.5)
    assert float(found.soft[found.logits < -4].max()) == 0
    assert ((found.soft > 0) & (found.soft < 1)).any()


def regions_of(*boxes, batch=2):
    items = [
        Region.of_box(f"thing {at}", box, (40, 70), style="neon", score=0.5, image=at % batch)
        for at, box in enumerate(boxes)
    ]
    return Regions(tuple(items), 40, 70, batch)


def test_regions_keep_words_order_and_picture(embedding):
    regions = regions_of((3, 4, 30, 30), (20, 10, 60, 39), (5, 5, 20, 20))
    made = segment_regions(embedding, regions, HOST)
    assert [(r.phrase, r.style, r.image) for r in made] == [
        ("thing 0", "neon", 0),
        ("thing 1", "neon", 1),
        ("thing 2", "neon", 0),
    ]
    for before, after in zip(regions, made, strict=True):
        alone = SamSegmenter(embedding, HOST).ask(before.image, SamPrompt(before.box))
        assert torch.equal(after.mask, alone.soft)
        assert after.score == pytest.approx(0.5 * min(max(alone.iou, 0), 1))


def test_a_region_that_was_not_found_stays_empty(embedding):
    regions = Regions((missing_region("ghost", (40, 70)),), 40, 70, 2)
    (item,) = segment_regions(embedding, regions, HOST)
    assert item.score == 0
    assert not item.mask.any()


def test_points_help_the_box_that_holds_them(embedding):
    regions = regions_of((3, 4, 30, 30), (40, 10, 60, 39))
    points = SamPrompt(inside=((10.0, 10.0),), outside=((50.0, 20.0),))
    made = segment_regions(embedding, regions, HOST, points=points).items
    first = SamSegmenter(embedding, HOST).ask(0, SamPrompt((3, 4, 30, 30), inside=((10.0, 10.0),)))
    second = SamSegmenter(embedding, HOST).ask(1, SamPrompt((40, 10, 60, 39), outside=((50.0, 20.0),)))
    assert torch.equal(made[0].mask, first.soft)
    assert torch.equal(made[1].mask, second.soft)
    with pytest.raises(RegionStyleError, match=r"points.*\(35.0, 5.0\)"):
        segment_regions(embedding, regions, HOST, points=SamPrompt(inside=((35.0, 5.0),)))


def test_points_alone_give_one_region_per_picture(embedding):
    made = segment_points(embedding, PROMPTS["point"], HOST, phrase="cup")
    assert [(r.phrase, r.image) for r in made] == [("cup", 0), ("cup", 1)]
    assert made.batch == 2


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (SamPrompt(), "neither a box nor a point"),
        (SamPrompt(outside=((3.0, 3.0),)), "neither a box nor a point"),
        (SamPrompt(inside=((70.0, 3.0),)), r"points.*x from 0 to 69"),
        (SamPrompt((50.0, 5.0, 20.0, 9.0)), "box.*x0 < x1"),
        (SamPrompt((90.0, 5.0, 95.0, 9.0)), "box.*inside the picture of 70 x 40"),
    ],
)
def test_wrong_prompts_are_refused(prompt, words, embedding):
    with pytest.raises(RegionStyleError, match=words):
        SamSegmenter(embedding, HOST).ask(0, prompt)


def test_wrong_choice_and_other_pictures_are_refused(embedding):
    with pytest.raises(RegionStyleError, match="masks: got 'all'"):
        SamSegmenter(embedding, HOST, "all")
    with pytest.raises(RegionStyleError, match="1 pictures of 70 x 40, expected 2"):
        segment_regions(embedding, regions_of((1, 1, 5, 5), batch=1), HOST)


def test_cancel_between_pictures(network, images):
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[1]), cancelled=lambda: bool(seen))
    with pytest.raises(Cancelled):
        encode(network, images, host)
    assert seen == [1]


@pytest.mark.slow
def test_vit_b_at_full_size(tmp_path):
    """The public architecture as the package itself builds it, through a file, against the package's predictor."""
    torch.manual_seed(0)
    registry = sam_model_registry["vit_b"]()
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(registry.state_dict(), path)
    image = torch.rand(1, 3, 300, 401, generator=torch.Generator().manual_seed(2))
    embedding = encode(SamNetwork(load_sam(path), "vit_b"), image, HOST)
    assert tuple(embedding.features[0].shape) == (1, 256, 64, 64)
    logits, ious, _ = predictors_answer(registry, image[0], box=np.array([50.0, 40.0, 200.0, 210.0]))
    found = SamSegmenter(embedding, HOST).ask(0, SamPrompt((50, 40, 200, 210)))
    assert torch.equal(found.logits, torch.from_numpy(logits[ious.argmax()]))

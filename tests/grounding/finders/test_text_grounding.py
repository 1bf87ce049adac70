"""Sentence to masks: whoever finds the boxes, each thing keeps its own mask, in every picture of a batch."""

import pytest
import torch
from tiny_networks import save_tiny_dino

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.language.instruction import EditRequest, Instruction, Selector
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.engine.sam_network import SamConfig, new_sam
from regionstyle.nodes.grounding.finders.dino import load_detector
from regionstyle.nodes.grounding.finders.sam import SamMask, SamNetwork, SamPrompt, SamSegmenter, encode
from regionstyle.nodes.grounding.finders.text_grounding import (
    DetectorSource,
    RegionsSource,
    _segmented,
    _settled,
    ground,
    segment_all,
)
from regionstyle.nodes.grounding.language.prompt import parse_regions
from regionstyle.nodes.grounding.settings import BEST, DetectorSettings

HOST = LocalHost("cpu")
SIZE = (40, 70)
SMALL = SamConfig(
    image_size=64, patch=8, width=32, depth=1, heads=2, window=0, global_blocks=(0,), prompt_width=32, mask_channels=8,
    decoder_mlp=48, iou_width=24,
)  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def embedding(images):
    """A network whose mask is the box: its decoder's answers are replaced below where exact masks matter."""
    torch.manual_seed(0)
    return encode(SamNetwork(new_sam(SMALL), "small"), images, HOST)


@pytest.fixture
def box_masks(monkeypatch):
    """SAM answers with the box itself, so that what is done with its masks can be followed exactly."""
    from regionstyle.nodes.grounding.finders.sam import SamMask

    def answer(self, image, prompt):
        logits = torch.full(SIZE, -9.0)
        x0, y0, x1, y1 = prompt.box
        logits[y0:y1, x0:x1] = 9.0
        return SamMask(logits, 0.5)

    monkeypatch.setattr(SamSegmenter, "ask", answer)


def named(*boxes, batch=2):
    items = [Region.of_box(phrase, box, SIZE, score=score, image=image) for phrase, box, score, image in boxes]
    return Regions(tuple(items), *SIZE, batch)


CATS = named(
    ("the Cat", (2, 2, 20, 20), 0.8, 0), ("cat", (40, 5, 60, 30), 0.9, 0), ("dog", (20, 22, 39, 38), 1.0, 0),
    ("cat", (5, 5, 15, 15), 0.7, 1),
)  # fmt: skip


def hard(region):
    return region.mask > 0.5


def test_every_thing_keeps_its_own_mask_style_and_picture(images, embedding, box_masks):
    sentence = parse_regions("make the leftmost cat a mosaic, and the dog neon")
    found = ground(images, embedding, RegionsSource(CATS, sentence), HOST)
    assert [(r.phrase, r.style, r.image) for r in found.regions] == [
        ("leftmost cat", "mosaic", 0), ("dog", "neon", 0), ("leftmost cat", "mosaic", 1), ("dog", "neon", 1),
    ]  # fmt: skip
    assert [r.box for r in found.regions] == [(2, 2, 20, 20), (20, 22, 39, 38), (5, 5, 15, 15), (0, 0, 0, 0)]
    assert found.regions.items[0].score == pytest.approx(0.4)
    assert found.regions.items[3].score == 0
    assert found.notice == "'dog' not found in image 1: empty mask"
    assert "leftmost cat -> mosaic" in found.understood[0]


def test_a_region_is_found_by_its_very_name(images, embedding, box_masks):
    named = Regions(
        tuple(Region.of_box(name, (2, 2, 20, 20), SIZE) for name in ("Left Cat", "dogs", "background")), *SIZE, 2
    )
    sentence = parse_regions("make the left cat a mosaic, the dogs neon and the background gothic")
    found = ground(images, embedding, RegionsSource(named, sentence), HOST)
    assert [r.style for r in found.regions.of_image(0)] == ["mosaic", "neon", "gothic"]
    assert "in image 0" not in found.notice


def test_all_and_the_background(images, embedding, box_masks):
    sentence = parse_regions("make all cats neon and the background a mosaic")
    found = ground(images, embedding, RegionsSource(CATS, sentence), HOST).regions.of_image(0)
    assert [r.style for r in found] == ["neon", "neon", "mosaic"]
    assert torch.equal(hard(found[2]), ~(hard(found[0]) | hard(found[1])))


def test_a_models_boxes_are_taken_as_they_are():
    """What the model chose is not chosen again: two leftmost cats are two boxes."""
    left, rest = Selector(order="left"), Selector(kind="rest")
    requests = (EditRequest("left cat", "neon", "cat", left), EditRequest("left cat", "mosaic", "cat", left),
                EditRequest("background", "neon", "background", rest), EditRequest("owl", "neon"))  # fmt: skip
    sentence, find, _ = _settled(Instruction(requests), ((1, 2, 9, 9), (20, 2, 30.5, 9), None, None), SIZE)
    assert [r.phrase for r in sentence.requests] == ["left cat", "left cat", "background", "owl"]
    assert sentence.requests[2].selector.kind == "rest"
    boxes = [[one.box for one in find(r.query, True)] for r in sentence.requests if r.selector.kind == "thing"]
    assert boxes == [[(1, 2, 9, 9)], [(20, 2, 31, 9)], []]


def test_with_real_networks_the_masks_are_those_of_the_detectors_boxes(images, embedding, tmp_path_factory):
    detector = load_detector(save_tiny_dino(tmp_path_factory.mktemp("models") / "dino"))
    settings = DetectorSettings(0.0, 0.0, 3)
    found = ground(images, embedding, DetectorSource(detector, parse_regions("red star"), HOST, settings), HOST)
    assert {r.phrase for r in found.regions} == {"red star"}
    assert {r.image for r in found.regions} == {0, 1}
    find = DetectorSource(detector, parse_regions("red star"), HOST, settings).look(0, images[0]).find
    best = find("red star", False)[0]
    assert torch.equal(found.regions.items[0].mask, SamSegmenter(embedding, HOST).ask(0, SamPrompt(best.box)).soft)


def test_another_picture_is_refused(images, embedding):
    source = RegionsSource(CATS, parse_regions("the cat"))
    with pytest.raises(
        RegionStyleError, match="embedding: got one of 2 images of 70 x 40, expected one of 1 of 70 x 40"
    ):
        ground(images[:1], embedding, source, HOST)
    with pytest.raises(RegionStyleError, match="expected one of 2 of 69 x 40"):
        ground(images[..., :-1], embedding, source, HOST)


def test_cancel_between_pictures(images, embedding):
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[0]), cancelled=lambda: len(seen) > 2)
    looked = [RegionsSource(CATS, parse_regions("the cat")).look(at, image) for at, image in enumerate(images)]
    with pytest.raises(Cancelled):
        segment_all(looked * 1, embedding, LocalHost("cpu", cancelled=lambda: True), "single")
    with pytest.raises(Cancelled):
        ground(images, embedding, RegionsSource(CATS, parse_regions("the cat")), host)
    assert seen == ["boxes", "boxes", "SAM"]


class _Specked:
    """A segmenter whose every mask has a speck in the far corner."""

    def ask(self, image, prompt):
        logits = torch.full((40, 40), -9.0)
        x0, y0, x1, y1 = (int(value) for value in prompt.box)
        logits[y0:y1, x0:x1], logits[39, 39] = 9.0, 0.1
        return SamMask(logits, 0.8)


def test_specks_of_a_mask_do_not_move_the_thing():
    """Positions are told by the finder's boxes: with the masks' own, both things would end in the corner."""
    things = [Region.of_box("ring", box, (40, 40)) for box in ((2, 2, 10, 10), (20, 4, 30, 12))]
    found = [_segmented(one, _Specked(), 0) for one in things]
    assert [one.box for one in found] == [one.box for one in things]
    assert all(float(one.mask[39, 39]) > 0.5 for one in found)


def test_the_answer_nearest_to_the_shape_that_was_found_is_taken():
    shape = torch.zeros(40, 40)
    shape[10:20, 10:30] = 1.0
    asked = []

    class Segmenter(SamSegmenter):
        def __init__(self):
            self.choice = BEST

        def answers(self, image, prompt):
            asked.append(prompt)
            wrong, right = torch.full((40, 40), -9.0), torch.full((40, 40), -9.0)
            wrong[5:25, 10:30], right[10:20, 10:29] = 9.0, 9.0
            return [SamMask(wrong, 0.99), SamMask(right, 0.5)]

    shape[15:20, 10:20] = 0.0  # no box
    found = _segmented(Region.of_mask("moon", shape), Segmenter(), 0)
    assert found.score == pytest.approx(0.5)
    assert [one.box for one in asked] == [(10, 10, 30, 20)] * 2
    assert [len(one.inside) for one in asked] == [0, 1]

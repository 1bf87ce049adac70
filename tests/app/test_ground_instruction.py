"""`stylize` with Segment Anything and Grounding DINO: who finds, who outlines, and what does not go together."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import WORDS, save_tiny_dino

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.evaluation.masks import held_out_scene
from regionstyle.nodes.app.evaluation.scenes import as_image
from regionstyle.nodes.app.ground_instruction import (
    NothingFound,
    Where,
    check_all_found,
    check_finders,
    check_tiny_words,
    ground_instruction,
    instruction_of,
    load_sam_of,
    named_in,
)
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.grounding.finders.dino import load_detector
from regionstyle.nodes.grounding.finders.sam import encode, soft_iou
from regionstyle.nodes.grounding.finders.text_grounding import DetectorSource, ground
from regionstyle.nodes.grounding.language.prompt import parse_regions, parse_sentence
from regionstyle.nodes.tinyworld.bundled import load_predictor
from regionstyle.nodes.tinyworld.tiny_sam import load_tiny_sam

HOST = LocalHost("cpu")


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_tiny_dino(tmp_path_factory.mktemp("dino") / "dino", words=f"{WORDS} star moon")


@pytest.mark.slow
def test_sam_outlines_what_attention_finds(predictor, tmp_path):
    made = held_out_scene(660)  # a red circle that touches a cyan one
    torch.save(load_tiny_sam().state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    masks = {}
    with predictor.loaded():
        for name, sam in (("attention", None), ("tiny", "tinyworld"), ("file", str(tmp_path / "sam_vit_b_01ec64.pth"))):
            found = ground_instruction(predictor, as_image(made), parse_regions("the cyan circle"), Where(sam=sam))
            masks[name] = found.regions.items[0].mask
    assert soft_iou(masks["tiny"], torch.from_numpy(made.objects[1].mask)) > 0.85
    assert not torch.equal(masks["tiny"], masks["attention"])
    assert torch.equal(masks["tiny"], masks["file"])


@pytest.mark.slow
def test_the_detector_finds_instead_of_attention(predictor, detector):
    """Its weights are random: wherever its boxes are, they are what is outlined."""
    image, sentence = as_image(held_out_scene(0)), parse_regions("the star")
    source = DetectorSource(load_detector(detector), sentence, HOST)
    wanted = ground(image, encode(load_sam_of("tinyworld"), image, HOST), source, HOST).regions
    assert wanted.items[0].score > 0
    with predictor.loaded():
        by_attention = ground_instruction(predictor, image, sentence, Where(sam="tinyworld")).regions.items[0]
    where = Where(sam="tinyworld", detector=detector)
    by_detector = ground_instruction(None, image, sentence, where, HOST).regions.items[0]
    assert torch.equal(by_detector.mask, wanted.items[0].mask)
    assert not torch.equal(by_detector.mask, by_attention.mask)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--detector", "dino"], "--sam"),
        (["--sam", "tinyworld", "--whole"], "one or the other"),
        (["--sam", "nowhere.pth"], "nowhere.pth"),
        (["--sam", "tinyworld", "--detector", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_go_together_is_an_error(options, said, tmp_path, capsys):
    path = tmp_path / "scene.png"
    Image.fromarray((held_out_scene(660).image * 255).round().astype(np.uint8)).save(path)
    words = ["stylize", str(path), "make the cyan circle mosaic", "-o", str(tmp_path / "o.png"), "--device", "cpu"]
    assert main([*words, *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


def test_missing_files_are_named_with_their_folder(tmp_path):
    with pytest.raises(RegionStyleError, match=r"--sam: got 'no/such\.pth'.*no.*sam_vit_b_01ec64\.pth"):
        check_finders("no/such.pth", None)
    with pytest.raises(RegionStyleError, match=r"--detector: got .*config\.json.*grounding-dino-tiny"):
        check_finders("tinyworld", tmp_path)
    check_finders("tinyworld", None)
    check_finders(None, None)


SIZE = (20, 30)
PICTURE = torch.zeros(1, 3, *SIZE)


def named(name: str, x0: int, x1: int, image: int = 0) -> Region:
    return Region.of_box(name, (x0, 5, x1, 15), SIZE, image=image)


def given() -> Regions:
    return Regions((named("Cat", 20, 25), named("cat", 0, 5), named("dog", 8, 12), named("cat", 3, 6, 1)), *SIZE, 2)


class TestNamedRegions:
    def test_they_are_found_by_their_words(self):
        found = named_in(parse_sentence("make the leftmost cat neon and the background a mosaic"), given()).regions
        assert [(region.phrase, region.style, region.image) for region in found] == [
            ("leftmost cat", "neon", 0),
            ("background", "mosaic", 0),
            ("leftmost cat", "neon", 1),
            ("background", "mosaic", 1),
        ]
        assert [region.box[0] for region in found if region.phrase == "leftmost cat"] == [0, 3]
        every = ground_instruction(None, PICTURE, parse_sentence("make the cat neon"), Where(regions=given())).regions
        assert [region.box[0] for region in every] == [20, 0, 3]

    def test_one_that_is_not_there_in_one_picture_is_said(self):
        found = named_in(parse_sentence("make the dog neon"), given())
        assert found.notice == "'dog' not found in image 1: empty mask"
        with pytest.raises(NothingFound, match="'dog' not found in image 1"):
            check_all_found(found)
        with pytest.raises(RegionStyleError, match=r"'bird'.*'cat', 'dog'"):
            named_in(parse_sentence("make the bird neon"), given())


class TestGivenRegion:
    def found(self, sentence="make it neon", **where):
        return ground_instruction(None, PICTURE, parse_sentence(sentence), Where(**where)).regions.items

    def test_a_box_a_mask_or_everything(self):
        mask = torch.rand(SIZE)
        assert self.found(box=(2, 3, 7, 9))[0].box == (2, 3, 7, 9)
        assert torch.equal(self.found(mask=mask)[0].mask, mask)
        assert bool((self.found(whole=True)[0].mask == 1).all())
        assert self.found(whole=True)[0].style == "neon"

    def test_what_it_cannot_be(self):
        with pytest.raises(RegionStyleError, match="several things"):
            self.found("make the star mosaic and the moon neon", whole=True)
        with pytest.raises(RegionStyleError, match=r"mask: got \[5, 5\].*\[20, 30\]"):
            self.found(mask=torch.ones(5, 5))
        with pytest.raises(RegionStyleError, match="box"):
            self.found(box=(40, 0, 50, 9))
        with pytest.raises(RegionStyleError, match="several of --mask, --box and --whole"):
            Where(box=(0, 0, 1, 1), whole=True).check()


def test_phrases_to_find():
    asked = instruction_of(["the red star", "second cat from the left", "the red star"]).requests
    assert [(request.phrase, request.query) for request in asked] == [
        ("red star", "red star"),
        ("second cat from the left", "cat"),
    ]
    for wrong in ([], [""], ["the"], [3]):
        with pytest.raises(RegionStyleError, match="phrases"):
            instruction_of(wrong)


def test_the_tiny_world_names_the_words_it_does_not_know():
    check_tiny_words(parse_regions("the leftmost red star, the background"))
    with pytest.raises(RegionStyleError, match="no word 'dog'"):
        check_tiny_words(parse_regions("the red star, the dog"))

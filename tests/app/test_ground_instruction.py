"""`stylize` with Segment Anything and Grounding DINO: who finds, who outlines, and what does not go together."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import WORDS, save_tiny_dino

from regionstyle.nodes.app.cli.demo import as_image
from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.evaluation.masks import held_out_scene
from regionstyle.nodes.app.ground_instruction import check_finders, ground_instruction, load_sam_of
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.grounding.finders.dino import load_detector
from regionstyle.nodes.grounding.finders.sam import encode, soft_iou
from regionstyle.nodes.grounding.finders.text_grounding import DetectorSource, ground
from regionstyle.nodes.grounding.language.prompt import parse_regions
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
            found = ground_instruction(predictor, as_image(made), parse_regions("the cyan circle"), sam, None, 0)
            masks[name] = found[0].mask
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
        by_attention = ground_instruction(predictor, image, sentence, "tinyworld", None, 0)
        found = ground_instruction(predictor, image, sentence, "tinyworld", detector, 0)
    assert torch.equal(found[0].mask, wanted.items[0].mask)
    assert not torch.equal(found[0].mask, by_attention[0].mask)


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

"""Several regions in turn, by words or by regions found elsewhere."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.comfyui import sentence as comfy_sentence
from regionstyle.nodes.app.comfyui.sentence import for_style
from regionstyle.nodes.app.sentence import named_in, prompt_for, restyle_in_turn
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.expert import LoraLayer
from regionstyle.nodes.engine.region.region import Region, RegionCrop
from regionstyle.nodes.engine.region.regions import Regions, missing_region
from regionstyle.nodes.grounding.language.prompt import parse_sentence
from regionstyle.nodes.router.restyle import Restyled, RestyleSettings
from regionstyle.nodes.tinyworld.bundled import STRENGTHS, load_bundled_expert

SIZE = (20, 30)


def box(name: str, x0: int, x1: int, style: str = "", image: int = 0) -> Region:
    return Region.of_box(name, (x0, 5, x1, 15), SIZE, style=style, image=image)


def test_each_region_is_worked_on_with_its_own_mask_on_the_result_so_far():
    image, seen = torch.zeros(1, 3, *SIZE), []

    def brighten(picture, region):
        seen.append((region.phrase, float(picture.sum())))
        return Restyled(picture + region.mask, region.mask, RegionCrop(*SIZE, 0, 0, 30, 32))

    regions = [box("a", 0, 5), missing_region("b", SIZE), box("c", 10, 12)]
    result, mask = restyle_in_turn(image, regions, brighten)
    assert seen == [("a", 0.0), ("c", 150.0)]
    assert torch.equal(mask, torch.maximum(regions[0].mask, regions[2].mask))
    assert torch.equal(result[0, 0], mask)
    assert not image.any()


@pytest.mark.parametrize(
    ("phrase", "prompt"),
    [
        ("red star", "a red star in neon style"),
        ("second cat from the left", "a cat in neon style"),
        ("two dogs", "a dog in neon style"),
        ("background", "a picture in neon style"),
        ("whole picture", "a picture in neon style"),
    ],
)
def test_prompts_name_the_thing_and_not_its_place(phrase, prompt):
    assert prompt_for(box(phrase, 0, 5, "neon")) == prompt


def test_templates():
    assert prompt_for(box("cat", 0, 5, "neon"), "nn style, {style}") == "nn style, neon"
    with pytest.raises(RegionStyleError, match="template"):
        prompt_for(box("cat", 0, 5, "neon"), "a {phrase}")


def given() -> Regions:
    return Regions((box("Cat", 20, 25), box("cat", 0, 5), box("dog", 8, 12), box("cat", 3, 6, image=1)), *SIZE, 2)


def test_given_regions_are_found_by_their_words():
    found = named_in(parse_sentence("make the leftmost cat neon and the background a mosaic"), given()).regions
    assert [(one.phrase, one.style, one.image) for one in found] == [
        ("leftmost cat", "neon", 0),
        ("background", "mosaic", 0),
        ("leftmost cat", "neon", 1),
        ("background", "mosaic", 1),
    ]
    assert [one.box[0] for one in found if one.phrase == "leftmost cat"] == [0, 3]
    every = named_in(parse_sentence("make the cat neon"), given()).regions
    assert [one.box[0] for one in every] == [20, 0, 3]


def test_a_region_that_is_not_there_in_one_picture_is_said():
    found = named_in(parse_sentence("make the dog neon"), given())
    assert found.notice == "'dog' not found in image 1: empty mask"
    with pytest.raises(RegionStyleError, match=r"'bird'.*'cat', 'dog'"):
        named_in(parse_sentence("make the bird neon"), given())


@pytest.fixture
def scene_file(tmp_path):
    from regionstyle.nodes.tinyworld.world import scene

    made = scene(10, split="held-out", count=2)
    path = tmp_path / "scene.png"
    pixels = np.round(made.image.transpose(1, 2, 0) if made.image.shape[0] == 3 else made.image, 6)
    Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    return path, [thing.phrase for thing in made.objects]


@pytest.mark.slow
def test_stylize_restyles_several_things_of_one_sentence(scene_file, tmp_path):
    path, (first, second) = scene_file
    outputs = {}
    for name, prompt in (
        ("both", f"the {first} in mosaic, the {second} like pixel art"),
        ("first", f"make the {first} mosaic"),
    ):
        out = tmp_path / f"{name}.png"
        assert main(["stylize", str(path), prompt, "-o", str(out), "--steps", "2", "--device", "cpu"]) == 0
        outputs[name] = np.asarray(Image.open(out).convert("RGB"))
    before = np.asarray(Image.open(path))
    changed = {name: (after != before).any(-1) for name, after in outputs.items()}
    assert 0 < changed["first"].mean() < changed["both"].mean() < 0.9


def test_a_given_region_takes_one_thing(scene_file, tmp_path, capsys):
    prompt = "make the star mosaic and the moon neon"
    assert (
        main(["stylize", str(scene_file[0]), prompt, "-o", str(tmp_path / "o.png"), "--whole", "--device", "cpu"]) == 2
    )
    assert "several things" in capsys.readouterr().err


def test_strength_0_is_what_the_style_itself_wants():
    usual, own = RestyleSettings(strength=0.4), RestyleSettings(strength=0.0)
    assert for_style(usual, "neon", {"neon": 0.75}) == usual
    assert for_style(own, "Neon", {"neon": 0.75}) == RestyleSettings(strength=0.75)
    for style, known in (("neon", {"neon": None}), ("anime", {})):
        with pytest.raises(RegionStyleError, match=f"strength: got 0 for the style '{style}'"):
            for_style(own, style, known)


def test_where_a_style_says_its_strength(monkeypatch):
    """In the file's metadata, or for a shipped expert in the tiny world; a namesake with other weights says nothing."""
    neon = load_bundled_expert("neon")
    path, layer = next(iter(neon.layers.items()))
    other = replace(neon, layers={path: LoraLayer(layer.down + 1, layer.up)})
    told = replace(other, style="", name="van-gogh", metadata={"regionstyle_strength": "0.5"})

    def strengths(*experts):
        monkeypatch.setattr(
            comfy_sentence, "attached_experts", lambda model: [SimpleNamespace(source=e) for e in experts]
        )
        return comfy_sentence.own_strengths(None)

    own = {"neon": STRENGTHS["neon"], "mosaic": STRENGTHS["mosaic"], "van gogh": 0.5}
    assert strengths(neon, load_bundled_expert("mosaic"), told) == own
    assert strengths(other) == {"neon": None}
    with pytest.raises(RegionStyleError, match="regionstyle_strength of 'van-gogh': got '7'"):
        strengths(replace(told, metadata={"regionstyle_strength": "7"}))

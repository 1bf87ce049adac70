"""The Python API: what may be given, what comes back, and that it is the command line's use case."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import regionstyle
from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.evaluation.masks import held_out_scene
from regionstyle.nodes.app.ground_instruction import NothingFound
from regionstyle.nodes.app.image_types import given_image, given_mask
from regionstyle.nodes.engine.errors import RegionStyleError

BOX = (10, 12, 90, 100)
FAST = {"box": BOX, "steps": 1, "device": "cpu", "seed": 3}
PROMPT = "make it mosaic"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A scene of 128 pixels, uint8 `[H,W,3]`."""
    return (held_out_scene(660).image * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def made(pixels):
    return regionstyle.stylize(pixels, PROMPT, **FAST)


def test_an_array_gives_an_array(pixels, made):
    assert isinstance(made.image, np.ndarray)
    assert (made.image.dtype, made.image.shape) == (np.uint8, pixels.shape)
    assert made.mask.shape == pixels.shape[:2]
    outside = made.mask == 0
    assert 0.2 < outside.mean() < 0.9
    assert (made.image[outside] == pixels[outside]).all()
    assert (made.image[20:80, 20:80] != pixels[20:80, 20:80]).any()
    assert made.regions[0].box == BOX


def test_by_clip_any_style_it_knows_without_an_expert(pixels):
    quick = {"iterations": 1, "patches": 2, "optimise": "pixels"}
    options = {"box": BOX, "device": "cpu", "method": "clip"}
    made = regionstyle.stylize(pixels, "make it posterised", **options, clip_settings=quick)
    outside = made.mask == 0
    assert (made.image[outside] == pixels[outside]).all()
    assert (made.image[~outside] != pixels[~outside]).any()
    for settings, said in (
        ({"iterations": 0}, "iterations: got 0"),
        ({"steps": 3}, "steps: got it"),
        (5, "names and"),
        ({"seed": 3}, "clip_settings: got seed, expected it without, since seed is an argument"),
        ({"next_iterations": 3}, "clip_settings: got next_iterations"),
        ({"preview_every": 3}, "clip_settings: got preview_every"),
        ({"keep_best": False}, "clip_settings: got keep_best"),
    ):
        with pytest.raises(RegionStyleError, match=said):
            regionstyle.stylize(pixels, "make it posterised", **options, clip_settings=settings)


def test_by_clip_from_another_methods_result(pixels):
    options = {"box": BOX, "device": "cpu", "method": "clip"}
    still = {"iterations": 1, "patches": 2, "optimise": "pixels", "rate": 1e-9, "feather": 0}
    start = np.full_like(pixels, 255 if pixels.dtype == np.uint8 else 1)
    start[..., 0] = 0
    made = regionstyle.stylize(pixels, "neon", **options, clip_settings=still, start_image=start)
    inside = made.mask == 1
    assert inside.any()
    far = np.abs(made.image[inside].astype(float) - start[inside])
    assert far.mean() < 1e-2 * start.max()  # but for the seam of what was resized
    for given, said in ((start[:-1], "start_image: got"), (5, "start_image: got a int")):
        with pytest.raises(RegionStyleError, match=said):
            regionstyle.stylize(pixels, "neon", **options, start_image=given)
    with pytest.raises(RegionStyleError, match="'expert' with start_image"):
        regionstyle.stylize(pixels, PROMPT, box=BOX, device="cpu", start_image=start)


@pytest.mark.slow
def test_by_sms_as_the_command_line_does(pixels, tmp_path):
    options = {"box": BOX, "device": "cpu", "method": "sms", "seed": 3}
    made = regionstyle.stylize(pixels, "make it neon", **options, sms_settings={"iterations": 2})
    outside = made.mask == 0
    assert (made.image[outside] == pixels[outside]).all()
    assert (made.image[~outside] != pixels[~outside]).any()
    source, out = tmp_path / "source.png", tmp_path / "out.png"
    Image.fromarray(pixels).save(source)
    command = ["stylize", str(source), "make it neon", "-o", str(out), "--box", ",".join(map(str, BOX))]
    assert main([*command, "--device", "cpu", "--method", "sms", "--seed", "3", "--sms-iterations", "2"]) == 0
    assert (np.asarray(Image.open(out).convert("RGB")) == made.image).all()
    for settings, said in (
        ({"iterations": 1}, "iterations: got 1"),
        ({"steps": 3}, "steps: got it"),
        (5, "names and"),
        ({"seed": 3}, "sms_settings: got seed, expected it without, since every method has it"),
    ):
        with pytest.raises(RegionStyleError, match=said):
            regionstyle.stylize(pixels, "make it neon", **options, sms_settings=settings)
    with pytest.raises(RegionStyleError, match="'expert' with sms_settings"):
        regionstyle.stylize(pixels, "make it neon", box=BOX, device="cpu", sms_settings={})
    noise = {"method": "clip", "clip_settings": {"start": "noise"}, "start_image": pixels}
    for more, said in (
        (noise, "it with clip_settings {'start': 'picture'}. Leave out start in"),
        ({"method": "sms", "steps": 3}, "is in sms_settings"),
    ):
        with pytest.raises(RegionStyleError, match=said):
            regionstyle.stylize(pixels, "make it neon", box=BOX, device="cpu", **more)


def test_by_words_alone_nothing_is_masked(pixels):
    options = {"device": "cpu", "method": "edit"}
    with pytest.raises(RegionStyleError, match="'edit' with mask, box or whole"):
        regionstyle.stylize(pixels, PROMPT, **options, box=BOX)
    with pytest.raises(RegionStyleError, match="the thing 'dragon'"):
        regionstyle.stylize(pixels[:128, :128].copy(), "make the dragon neon", **options)
    with pytest.raises(RegionStyleError, match="'expert' with composite"):
        regionstyle.stylize(pixels, PROMPT, composite=True, device="cpu")


@pytest.mark.parametrize("name", ["harmonize", "whole", "composite"])
def test_a_word_is_no_switch(pixels, name):
    with pytest.raises(RegionStyleError, match=f"{name}: got 'no', expected True or False"):
        regionstyle.stylize(pixels, PROMPT, **{name: "no"}, device="cpu")


def test_a_result_that_is_its_source_says_so(pixels, made, caplog):
    assert made.warning == ""
    empty = regionstyle.stylize(pixels, PROMPT, mask=np.zeros(pixels.shape[:2], np.uint8), steps=1, device="cpu")
    assert (empty.image == pixels).all()
    assert empty.warning == "empty mask, unchanged: image 0"
    assert "stylize: empty mask, unchanged: image 0" in caplog.text


def test_a_picture_gives_a_picture_and_a_path_too(pixels, made, tmp_path):
    picture = Image.fromarray(pixels)
    result = regionstyle.stylize(picture, PROMPT, **FAST)
    assert (result.image.mode, result.mask.mode) == ("RGB", "L")
    assert (np.asarray(result.image) == made.image).all()
    assert ((np.asarray(result.mask) == 0) == (made.mask == 0)).all()
    picture.save(tmp_path / "in.png")
    for path in (tmp_path / "in.png", str(tmp_path / "in.png")):
        assert (np.asarray(regionstyle.stylize(path, PROMPT, **FAST).image) == made.image).all()


def test_it_is_what_the_command_does(pixels, made, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "in.png")
    line = ["stylize", str(tmp_path / "in.png"), PROMPT, "-o", str(tmp_path / "out.png"), "--device", "cpu"]
    assert main([*line, "--box", ",".join(map(str, BOX)), "--steps", "1", "--seed", "3"]) == 0
    assert (np.asarray(Image.open(tmp_path / "out.png")) == made.image).all()


@pytest.mark.parametrize("batched", [False, True])
def test_a_tensor_gives_a_tensor(pixels, made, batched):
    tensor = torch.from_numpy(pixels).double() / 255 + 1e-9
    tensor = tensor.clamp(0, 1)[None] if batched else tensor.clamp(0, 1)
    before = tensor.clone()
    result = regionstyle.stylize(tensor, PROMPT, **FAST)
    assert (result.image.dtype, result.image.shape) == (torch.float64, tensor.shape)
    assert result.mask.shape == tensor.shape[:-1]
    assert torch.equal(result.image[result.mask == 0], tensor[result.mask == 0])
    assert torch.equal(tensor, before)
    near = (result.image.reshape(pixels.shape) * 255).round().numpy()
    assert np.abs(near - made.image).max() <= 1


def test_given_masks_of_every_kind_are_one(pixels, tmp_path):
    mask = np.zeros((128, 128), np.uint8)
    mask[30:70, 20:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    kinds = [
        mask, mask > 0, mask / 255, mask.astype(np.float32) / 255, torch.from_numpy(mask), torch.from_numpy(mask > 0),
        torch.from_numpy(mask).float()[None] / 255, Image.fromarray(mask), Image.fromarray(mask).convert("1"),
        Image.fromarray(mask).convert("RGB"), tmp_path / "mask.png", str(tmp_path / "mask.png"),
    ]  # fmt: skip
    wanted = torch.from_numpy(mask).float() / 255
    assert all(torch.equal(given_mask(kind, (128, 128)), wanted) for kind in kinds)
    result = regionstyle.stylize(pixels, PROMPT, mask=mask, steps=1, device="cpu")
    assert (result.image[result.mask == 0] == pixels[result.mask == 0]).all()
    assert (result.image[35:65, 25:55] != pixels[35:65, 25:55]).any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_pictures_of_every_mode(mode):
    grey = Image.fromarray(np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    else:
        picture = grey.convert(mode)
    given = given_image(picture)
    assert given.image.shape == (1, 3, 48, 64)
    back, mask = given.returned(1 - given.image, torch.zeros(1, 48, 64))
    assert back.size == mask.size == (64, 48)
    assert back.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")
    expected = grey if mode in ("I;16", "F") else picture.convert("RGB")
    assert (np.asarray(back.convert("RGB")) == np.asarray(expected.convert("RGB"))).all()


def test_transparency_stays():
    alpha = np.arange(64 * 48, dtype=np.uint32).reshape(48, 64).astype(np.uint8)
    picture = Image.fromarray(np.dstack([np.full((48, 64, 3), 90, np.uint8), alpha]))
    back, _ = given_image(picture).returned(torch.ones(1, 3, 48, 64), torch.ones(1, 48, 64))
    assert (np.asarray(back)[..., 3] == alpha).all()
    assert (np.asarray(back)[..., :3] == 255).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "image: got a NoneType"),
        ([[1, 2, 3]], "image: got a list"),
        (np.zeros((8, 8)), r"an array \[8, 8\]"),
        (np.zeros((3, 8, 8), np.uint8), r"an array \[3, 8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"an array \[8, 8, 4\]"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (np.zeros((8, 8, 3), np.complex64), "complex64"),
        (np.full((8, 8, 3), 2.0), "values from 2 to 2"),
        (np.full((8, 8, 3), np.nan), "values from nan"),
        (np.zeros((0, 8, 3), np.uint8), "no values"),
        (torch.zeros(1, 3, 8, 8), r"a tensor \[1, 3, 8, 8\].*permute"),
        (torch.zeros(2, 8, 8, 3), "One picture at a time"),
        (torch.full((8, 8, 3), -1.0), "values from -1"),
        ("nowhere.png", "no such file"),
        (Image.fromarray(np.full((8, 8), 300.0, np.float32)), "mode 'F'"),
    ],
)
def test_what_is_no_picture(image, said):
    with pytest.raises(RegionStyleError, match=said):
        regionstyle.stylize(image, PROMPT, **FAST)
    with pytest.raises(RegionStyleError, match=said):
        regionstyle.find(image, "star")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": ""}, "prompt: got ''"),
        ({"prompt": None}, "prompt: got None"),
        ({"prompt": "hello"}, "not understood"),
        ({"prompt": "make it cubism"}, "expected one of: .*mosaic"),
        ({"mask": np.zeros((5, 5))}, r"mask: got \[5, 5\], expected \[128, 128\]"),
        ({"mask": "nowhere.png"}, "no such file"),
        ({"mask": 3}, "mask: got a int"),
        ({"mask": np.full((128, 128), 3.0)}, "mask: got values from 3"),
        ({"box": (1, 2, 3)}, "box"),
        ({"box": "abcd"}, "box: got 'abcd'"),
        ({"box": BOX, "whole": True}, "several of mask, box and whole"),
        ({"whole": True, "sam": "tinyworld"}, "^sam: got it with mask, box or whole"),
        ({"detector": "dino"}, "^detector: got it without sam"),
        ({"sam": "nowhere.pth"}, "^sam: got 'nowhere.pth'"),
        ({"model": "nowhere", "whole": True}, "^model: got 'nowhere'"),
        ({"expert": "a.safetensors", "whole": True}, "^expert: got a file with the tiny world"),
        ({"generator": "watercolor", "steps": 2, "whole": True}, "^generator: got it with steps"),
        ({"generator": "moonlight", "whole": True}, "moonlight"),
        ({"strength": 0, "whole": True}, "^strength: got 0"),
        ({"steps": "many", "whole": True}, "^steps: got 'many'"),
        ({"cfg": -1, "whole": True}, "^cfg: got -1"),
        ({"seed": -1, "whole": True}, "^seed: got -1"),
        ({"seed": 1.5, "whole": True}, "^seed: got 1.5"),
        ({"prompt": "make the dog mosaic"}, "no word 'dog'"),
        ({"style": 3, "whole": True}, "^style: got 3"),
        ({"model": 3, "whole": True}, "^model: got a int"),
        ({"expert": 3, "whole": True}, "^expert: got a int"),
        ({"device": "toaster", "whole": True}, "^device: got 'toaster'"),
        ({"device": 1.5, "whole": True}, "^device: got 1.5"),
        ({"prompt": "make the star mosaic and the moon neon", "whole": True}, "several things"),
    ],
)
def test_wrong_options(pixels, options, said):
    given = {"prompt": PROMPT, "device": "cpu", **options}
    with pytest.raises(RegionStyleError, match=said) as error:
        regionstyle.stylize(pixels, **given)
    assert "--" not in str(error.value)


@pytest.mark.slow
def test_a_thing_that_is_not_there_is_an_error_of_its_own():
    grey = np.full((128, 128, 3), 120, np.uint8)
    with pytest.raises(NothingFound, match="second star from the left"):
        regionstyle.stylize(grey, "make the second star from the left neon", device="cpu")


class TestFind:
    def test_phrases_in_their_order(self, pixels):
        phrases = [thing.phrase for thing in held_out_scene(660).objects]
        regions = regionstyle.find(pixels, [*phrases, "the background"], sam="tinyworld", device="cpu")
        assert regions.phrases == (*phrases, "background")
        for region, thing in zip(regions, held_out_scene(660).objects, strict=False):
            truth = torch.from_numpy(thing.mask) > 0.5
            inside = region.mask > 0.5
            assert float((truth & inside).sum() / (truth | inside).sum()) > 0.7
            assert 0 < region.score <= 1
        background = regions.items[-1]
        assert torch.equal(background.mask, 1 - regions.with_items(regions.items[:-1]).union()[0])

    def test_one_phrase_may_be_a_string(self, pixels):
        phrase = held_out_scene(660).objects[0].phrase
        alone, listed = (regionstyle.find(Image.fromarray(pixels), asked, device="cpu") for asked in (phrase, [phrase]))
        assert torch.equal(alone.items[0].mask, listed.items[0].mask)

    @pytest.mark.slow
    def test_what_is_not_there_has_nothing(self):
        regions = regionstyle.find(np.full((128, 128, 3), 120, np.uint8), "second star from the left", device="cpu")
        assert (regions.missing, len(regions)) == (regions.items, 1)
        assert (regions.items[0].score, regions.items[0].box) == (0, (0, 0, 0, 0))

    @pytest.mark.parametrize(
        ("phrases", "options", "said"),
        [
            ([], {}, "phrases: got nothing"),
            ("", {}, "phrases: got ''"),
            ([3], {}, "phrases: got 3"),
            ("dog", {}, "no word 'dog'"),
            ("background", {}, "without naming a thing"),
            ("star", {"detector": "dino"}, "^detector: got it without sam"),
            ("star", {"model": "nowhere"}, "^model: got 'nowhere'"),
            ("star", {"seed": "x"}, "^seed"),
            (None, {}, "phrases: got None"),
            (7, {}, "phrases: got 7"),
            ("star", {"sam": 3}, "^sam: got a int"),
            ("star", {"device": "toaster"}, "^device: got 'toaster'"),
        ],
    )
    def test_wrong_options(self, pixels, phrases, options, said):
        with pytest.raises(RegionStyleError, match=said):
            regionstyle.find(pixels, phrases, **{"device": "cpu", **options})


def test_the_names_are_there_and_cost_nothing_until_used():
    assert {"stylize", "find", "RegionStyleError"} <= set(dir(regionstyle))
    assert regionstyle.RegionStyleError is RegionStyleError
    program = """
import sys, regionstyle
assert not {"torch", "numpy", "PIL", "regionstyle.nodes.app"} & set(sys.modules)
assert callable(regionstyle.stylize) and callable(regionstyle.find)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

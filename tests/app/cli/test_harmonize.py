"""`regionstyle harmonize`, `paste` and `make harmony-data`: files in, files out, exit codes."""

import json

import numpy as np
import pytest
from PIL import Image
from r2r_networks import small_networks

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.harmonizer.r2r.files import save_r2r


def gradient(h=60, w=80):
    ramp = np.linspace(60, 200, w)[None, :, None] * np.ones((h, 1, 3))
    return (ramp + np.arange(h)[:, None, None] % 7).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    values, mask = gradient(), np.zeros((60, 80), np.uint8)
    mask[15:45, 20:60] = 255
    values[mask > 0] = values[mask > 0] * 0.7
    Image.fromarray(values).save(tmp_path / "c.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    thing = np.dstack([gradient(20, 30), np.zeros((20, 30), np.uint8)])
    thing[4:16, 5:25, 3] = 255
    Image.fromarray(thing).save(tmp_path / "thing.png")
    return tmp_path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def values(path):
    return np.asarray(Image.open(path))


def test_harmonize(files):
    assert run("harmonize", files / "c.png", "--mask", files / "m.png", "-o", files / "o.png") == 0
    before, after, mask = values(files / "c.png"), values(files / "o.png"), values(files / "m.png")
    assert np.array_equal(after[mask == 0], before[mask == 0])
    truth = gradient().astype(int)
    errors = [np.abs(x.astype(int) - truth)[mask > 0].mean() for x in (before, after)]
    assert errors[1] < 0.4 * errors[0]


def test_strict_writes_nothing_for_an_empty_mask(files, capsys):
    Image.new("L", (80, 60)).save(files / "empty.png")
    given = ("harmonize", files / "c.png", "--mask", files / "empty.png", "-o", files / "o.png")
    assert run(*given, "--strict") == 3
    assert not (files / "o.png").exists()
    assert "mask is empty" in capsys.readouterr().err
    assert run(*given) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--mask", "thing.png"), "mask"),
        (("--mask", "none.png"), "no such file"),
        (("--reference-mask", "m.png"), "--reference"),
        (("--method", "poisson", "--reference", "c.png"), "Poisson"),
        (("--method", "r2r"), "--weights: got none with r2r"),
        (("--method", "r2r", "--weights", "nowhere"), "nowhere, which does not exist"),
        (("--method", "r2r", "--weights", "."), "without Clear-VAE"),
        (("--weights", "."), "--weights: got them with the method 'bundled'"),
        (("--resolution", "64"), "settings of R2R: got them with the method 'bundled'"),
    ],
)
def test_what_is_refused(files, change, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    given = ["harmonize", "c.png", "--mask", "m.png", "-o", "o.png", *change]
    assert run(*given) == 2
    assert message in capsys.readouterr().err
    assert not (files / "o.png").exists()


@pytest.mark.parametrize("more", [(), ("--harmonize",), ("--harmonize", "--seam", 3), ("--scale", 1.5)])
def test_paste(files, more):
    plain, out = gradient(), files / "o.png"
    Image.fromarray(plain).save(files / "b.png")
    assert run("paste", files / "thing.png", files / "b.png", "--at", "10,12", "-o", out, *more) == 0
    changed = (values(out) != plain).any(-1)
    rows, columns = np.nonzero(changed)
    scale = 1.5 if "--scale" in more else 1
    assert rows.min() >= 12 + 4 * scale - 2
    assert columns.max() < 10 + 25 * scale + 2
    assert changed.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--at", "500,3"), "place"),
        (("--reference", "c.png"), "--harmonize"),
        (("--method", "r2r", "--weights", "."), "--weights: got one, expected it with --harmonize"),
        (("--mask", "m.png"), "mask"),
    ],
)
def test_paste_refuses(files, change, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert run("paste", "thing.png", "c.png", "--at", "1,1", "-o", "o.png", *change) == 2
    assert message in capsys.readouterr().err


def test_r2r_from_files(files):
    """Both commands; R2R changes the foreground only, and its settings arrive."""
    save_r2r(small_networks(), files / "r2r")
    Image.fromarray(gradient()).save(files / "b.png")
    r2r = ("--method", "r2r", "--weights", files / "r2r", "--resolution", 64, "--device", "cpu")
    given = ("harmonize", files / "c.png", "--mask", files / "m.png", *r2r)
    assert run(*given, "--steps", 1, "-o", files / "one.png") == 0
    assert run(*given, "--steps", 2, "-o", files / "two.png") == 0
    before, inside = values(files / "c.png"), values(files / "m.png") > 0
    one, two = values(files / "one.png"), values(files / "two.png")
    assert np.array_equal(one[~inside], before[~inside])
    assert (one != before)[inside].mean() > 0.5
    assert not np.array_equal(one, two)
    pasting = ("paste", files / "thing.png", files / "b.png", "--at", "10,12", "-o", files / "p.png")
    assert run(*pasting, "--harmonize", *r2r, "--steps", 1) == 0
    assert (values(files / "p.png") != gradient()).any()


def test_paste_refuses_a_mask_without_anything(files, capsys):
    Image.new("L", (30, 20)).save(files / "empty.png")
    given = ("paste", files / "thing.png", files / "c.png", "--at", "1,1", "-o", files / "o.png")
    assert run(*given, "--mask", files / "empty.png") == 2
    assert "black everywhere" in capsys.readouterr().err
    assert not (files / "o.png").exists()


@pytest.mark.parametrize("option", [("--method", "poisson"), ("--seam", 9), ("--seed", 3), ("--device", "cpu")])
def test_paste_takes_no_options_of_harmonising_without_it(files, option, capsys):
    given = ("paste", files / "thing.png", files / "c.png", "--at", "1,1", "-o", files / "o.png")
    assert run(*given, *option) == 2
    assert f"{option[0]}: got" in capsys.readouterr().err
    assert run(*given, *option, "--harmonize") == 0


def test_a_place_may_be_negative(files):
    assert run("paste", files / "thing.png", files / "c.png", "--at", "-5,3", "-o", files / "o.png") == 0
    rows, columns = np.nonzero((values(files / "o.png") != values(files / "c.png")).any(-1))
    assert (rows.min(), columns.min(), columns.max()) == (7, 0, 19)


@pytest.mark.parametrize("more", [(), ("--harmonize",)])
def test_paste_onto_a_transparent_background_is_seen(files, more):
    behind = np.dstack([gradient(), np.zeros((60, 80), np.uint8)])
    behind[:, 30:, 3] = 255
    behind[:, 29, 3] = 128
    Image.fromarray(behind).save(files / "b.png")
    thing = values(files / "thing.png").copy()
    thing[4, 5:25, 3] = 100
    Image.fromarray(thing).save(files / "soft.png")
    assert run("paste", files / "soft.png", files / "b.png", "--at", "10,12", "-o", files / "o.png", *more) == 0
    made = values(files / "o.png")
    assert (made[17:28, 15:35, 3] == 255).all()
    assert (made[16, 15:29, 3] == 100).all(), "nothing but the thing's own edge is there"
    outside = np.ones((60, 80), bool)
    outside[16:28, 15:35] = False
    assert np.array_equal(made[outside], behind[outside])
    if not more:
        assert np.array_equal(made[16:28, 15:29, :3], thing[4:16, 5:19, :3])


@pytest.mark.parametrize("method", ["bundled", "reinhard", "mkl", "histogram", "poisson"])
def test_what_is_transparent_is_no_background(files, method):
    """The same result whatever colours a transparent frame hides, and near that of the opaque part alone."""
    picture, mask = values(files / "c.png"), values(files / "m.png")
    wide = np.full((100, 140, 4), 255, np.uint8)
    wide[..., 3] = 0
    wide[20:80, 30:110] = np.dstack([picture, np.full((60, 80), 255, np.uint8)])
    Image.fromarray(wide).save(files / "wide.png")
    Image.fromarray(np.pad(mask, ((20, 20), (30, 30)))).save(files / "wide_mask.png")
    cut, whole = files / "cut.png", files / "whole.png"
    assert run("harmonize", files / "c.png", "--mask", files / "m.png", "--method", method, "-o", cut) == 0
    assert run("harmonize", files / "wide.png", "--mask", files / "wide_mask.png", "--method", method, "-o", whole) == 0
    difference = np.abs(values(whole)[20:80, 30:110, :3].astype(int) - values(cut))
    assert difference[mask > 0].mean() < (3 if method == "bundled" else 0.01)


def test_a_references_transparency_is_its_mask(files):
    guide = np.dstack([gradient(40, 40) // 2, np.zeros((40, 40), np.uint8)])
    guide[10:30, 10:30, 3] = 255
    Image.fromarray(guide).save(files / "guide.png")
    Image.fromarray(guide[10:30, 10:30, :3]).save(files / "part.png")
    given = ("harmonize", files / "c.png", "--mask", files / "m.png", "--method", "mkl")
    for name in ("guide", "part"):
        assert run(*given, "--reference", files / f"{name}.png", "-o", files / f"by_{name}.png") == 0
    assert np.array_equal(values(files / "by_guide.png"), values(files / "by_part.png"))


def test_other_colour_profiles_are_said(files, capsys):
    from PIL import ImageCms

    for name, kind in (("lab", "LAB"), ("srgb", "sRGB")):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()
        Image.open(files / "thing.png").save(files / f"{name}.png", icc_profile=profile)
    for name in ("lab", "srgb"):
        assert run("paste", files / f"{name}.png", files / "c.png", "--at", "1,1", "-o", files / "o.png") == 0
        assert ("colour profile is another one" in capsys.readouterr().err) == (name == "lab")
    given = ("harmonize", files / "c.png", "--mask", files / "m.png", "--reference", files / "lab.png")
    assert run(*given, "-o", files / "o.png") == 0
    assert "lab.png: its colour profile" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["99999999999999999999", "-1", "x"])
def test_a_seed_that_is_none(files, seed):
    with pytest.raises(SystemExit) as stopped:
        run("train", "harmonizer", "-o", files / "n.safetensors", "--steps", 1, "--batch", 1, "--seed", seed)
    assert stopped.value.code == 2


def test_nothing_but_transparency_around(files, capsys):
    picture = np.dstack([values(files / "c.png"), values(files / "m.png")])
    Image.fromarray(picture).save(files / "alone.png")
    assert run("harmonize", files / "alone.png", "--mask", files / "m.png", "-o", files / "o.png") == 2
    assert "opaque and outside the mask" in capsys.readouterr().err


def test_paste_needs_a_shape(files, capsys):
    given = ("paste", files / "c.png", files / "c.png", "--at", "0,0", "-o", files / "o.png")
    assert run(*given) == 2
    assert "no transparency" in capsys.readouterr().err
    assert run(*given, "--mask", files / "m.png") == 0


@pytest.mark.parametrize("at", ["1", "a,b", "1,2,3"])
def test_places_that_are_none(files, at):
    with pytest.raises(SystemExit) as stopped:
        run("paste", "a", "b", "--at", at, "-o", "c.png")
    assert stopped.value.code == 2


def test_make_harmony_data(files, capsys):
    images, masks, out = files / "images", files / "masks", files / "out"
    images.mkdir(), masks.mkdir()
    for name in "ab":
        Image.open(files / "c.png").save(images / f"{name}.png")
        Image.open(files / "m.png").save(masks / f"{name}.png")
    given = ("make", "harmony-data", "--images", images, "--masks", masks, "-o", out, "--variants", 2)
    assert run(*given) == 0
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"train": 4, "test": 0}
    assert run(*given) == 0
    assert run(*given, "--seed", 1) == 2
    assert "other settings" in capsys.readouterr().err
    (images / "a.png").write_bytes(b"broken")
    assert run(*given[:-3], files / "other", "--variants", 1) == 1
    assert "left out" in capsys.readouterr().err

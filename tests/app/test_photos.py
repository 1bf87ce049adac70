"""A photograph through the doors: detail, outlines, bare styles, and what is said about them."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.cli.tinyworld import _check_options
from regionstyle.nodes.app.comfyui.sentence import in_tiles
from regionstyle.nodes.app.edit import EditResult, EditSettings, edit
from regionstyle.nodes.app.evaluation.photos import held_out_photo, photo_table, recognised, summary
from regionstyle.nodes.app.ground_instruction import Where
from regionstyle.nodes.app.local_model import tiny_settings, tiny_settings_in_tiles
from regionstyle.nodes.app.painters.expert import ExpertPainter
from regionstyle.nodes.app.painters.generator import PainterByRegion, bundled_for, check_settings
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.grounding.masks.grabcut import has_opencv
from regionstyle.nodes.metrics.structure import edge_correlation
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import IN_TILES, expert_files
from regionstyle.nodes.tinyworld.classifier import load_photo_classifier


class Sizes:
    """What `detail_of` asks of a predictor."""

    native_size, factor = 128, 8


def region(side: int, style: str = "mosaic", at: int = 0) -> Region:
    return Region.of_box("thing", (at, 0, at + side, side), (600, 1300), style=style)


class TestPainter:
    painter = ExpertPainter(Sizes(), tiny_settings, tiled=tiny_settings_in_tiles)

    @pytest.mark.parametrize("style", list(expert_files()))
    def test_a_large_region_has_its_own_settings(self, style):
        small, large = (self.painter._for_region(region(side, style), EditSettings()) for side in (100, 500))
        assert small == RestyleSettings(**{**vars(tiny_settings(style)), "detail": "native"})
        assert large == tiny_settings_in_tiles(style)
        assert (large.detail, large.inverted, large.strength) == ("full", 1.0, IN_TILES[style]["strength"])
        assert (small.weight, large.weight) == (1.0, IN_TILES[style].get("weight", 1.0))

    def test_what_is_chosen_counts(self):
        chosen = EditSettings(strength=0.2, steps=3, detail="both")
        made = self.painter._for_region(region(500), chosen)
        assert (made.strength, made.steps, made.detail) == (0.2, 3, "both")
        assert self.painter._for_region(region(500), EditSettings(detail="native")).detail == "native"
        assert self.painter._for_region(region(500), EditSettings(detail="auto")).detail == "full"

    def test_neighbours_with_equal_settings_share_a_pass(self):
        large = [region(500), region(500, at=600), region(500, "neon"), region(60), region(60)]
        for painter in (self.painter, PainterByRegion(lambda size, one: self.painter)):
            groups = painter.together((600, 1300), large, EditSettings())
            assert [len(group) for group in groups] == [2, 1, 1, 1]
            assert [one for group in groups for one in group] == large

    def test_edit_paints_them_together(self):
        calls = []

        class Recorder(ExpertPainter):
            def paint(self, image, one, settings):
                calls.append(1)
                return EditResult(image, one.mask[None], (one,), notes=("a",))

            def paint_together(self, image, regions, settings):
                calls.append(len(regions))
                return EditResult(image, regions[0].mask[None], tuple(regions), notes=("b",))

        painter = Recorder(Sizes(), tiny_settings, tiled=tiny_settings_in_tiles)
        made = edit(torch.zeros(1, 3, 600, 1300), [region(500), region(500, at=600), region(60)], painter)
        assert calls == [2, 1]
        assert made.notes == ("b", "a")
        assert made.warning(torch.ones(1, 3, 600, 1300)).endswith("b\na")


def test_a_generator_follows_no_detail():
    assert bundled_for((600, 600), "neon", EditSettings()) is not None
    assert bundled_for((600, 600), "neon", EditSettings(detail="auto")) is not None
    assert bundled_for((600, 600), "neon", EditSettings(detail="full")) is None
    with pytest.raises(RegionStyleError, match="--detail"):
        check_settings(EditSettings(detail="full"))
    with pytest.raises(RegionStyleError, match="detail"):
        EditSettings(detail="sharp")


def test_strength_0_in_comfyui_is_how_an_expert_paints_tiles():
    own, tiled = (
        {"neon": 0.75, "ukiyo-e": 0.4},
        {"neon": {"strength": 0.5, "steps": 4, "detail": "full", "inverted": 1.0}},
    )
    unset = RestyleSettings(strength=0.0, steps=9)
    assert in_tiles(unset, "Neon", own, tiled) == RestyleSettings(strength=0.5, steps=9, detail="full", inverted=1.0)
    assert in_tiles(unset, "ukiyo-e", own, tiled).strength == 0.4
    assert in_tiles(RestyleSettings(strength=0.0, detail="both"), "neon", own, tiled).detail == "both"
    heavier = {"neon": {**tiled["neon"], "weight": 1.15}}
    assert in_tiles(unset, "neon", own, heavier).weight == 1.15
    assert in_tiles(RestyleSettings(strength=0.3), "neon", own, tiled) == RestyleSettings(strength=0.3)


class TestOutlineOption:
    @pytest.mark.parametrize(
        ("where", "words"),
        [
            (Where(whole=True, outline="grabcut"), "--box"),
            (Where(box=(1, 1, 9, 9), outline="sam"), "network"),
            (Where(box=(1, 1, 9, 9), outline="lasso"), "outline"),
            (Where(box=(1, 1, 9, 9), outline="box", sam="tinyworld"), "--sam"),
            (Where(whole=True, sam="tinyworld"), "need not be found"),
        ],
    )
    def test_what_would_be_ignored_is_refused(self, where, words):
        with pytest.raises(RegionStyleError, match=words):
            where.check()

    def test_a_box_may_be_outlined_by_anything(self):
        for options in ({}, {"outline": "box"}, {"outline": "grabcut"}, {"sam": "tinyworld"}):
            Where(box=(1, 1, 9, 9), **options).check()


@pytest.fixture
def photo(tmp_path):
    """A red disc on a green ground, with some noise."""
    y, x = np.mgrid[:160, :220]
    inside = (y - 70) ** 2 + (x - 90) ** 2 < 45**2
    colours = np.where(inside[..., None], (200, 50, 60), (60, 150, 70))
    noisy = colours + np.random.default_rng(0).normal(0, 8, colours.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def changed(photo, out):
    before, after = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (photo, out))
    return np.abs(before - after).max(-1) > 0


@pytest.mark.skipif(not has_opencv(), reason="OpenCV is not installed")
def test_a_bare_style_in_a_box(photo, tmp_path, capsys):
    """The thing and not the rectangle; the rectangle where it is asked for; and it says which."""
    line = ["stylize", str(photo), "mosaic", "--box", "35,15,145,125", "--steps", "1", "--device", "cpu", "-o"]
    assert main([*line, str(tmp_path / "cut.png")]) == 0
    assert "outline: GrabCut" in capsys.readouterr().err
    assert main([*line, str(tmp_path / "box.png"), "--outline", "box"]) == 0
    assert "outline: box" in capsys.readouterr().err
    cut, box = (changed(photo, tmp_path / name) for name in ("cut.png", "box.png"))
    assert box[18:122, 38:142].mean() > 0.95
    assert cut[18:28, 38:48].mean() < 0.05
    assert cut[50:90, 70:110].mean() > 0.95


@pytest.mark.parametrize("where", ["--whole", "--box", "--mask"])
@pytest.mark.parametrize(
    "words", ["cubism", "mosaic and neon", "neon, mosaic", "make it mosaic and neon", "the dragon"]
)
def test_what_is_no_bare_style_is_refused_wherever_the_region_comes_from(words, where, photo, tmp_path, capsys):
    """An unknown style, two of them, a thing alone."""
    Image.fromarray(np.full(np.asarray(Image.open(photo)).shape[:2], 255, np.uint8)).save(tmp_path / "mask.png")
    value = {"--whole": [], "--box": ["10,10,90,90"], "--mask": [str(tmp_path / "mask.png")]}[where]
    out = tmp_path / "out.png"
    assert main(["stylize", str(photo), words, where, *value, "-o", str(out), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "the style alone is enough" in error
    assert all(style in error for style in expert_files())
    assert not out.exists()


def test_a_bare_style_needs_a_region_and_a_named_thing_in_one_counts_for_it(photo, tmp_path, capsys):
    """Without a region there is nothing to paint; with one, nobody asks whether the thing is there."""
    out = tmp_path / "out.png"
    line = ["stylize", str(photo), "mosaic", "-o", str(out), "--device", "cpu"]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert "not understood: 'mosaic'" in error
    assert "region given" not in error
    for several in ("make the dragon mosaic and the knight neon", "mosaic, everything else neon"):
        assert main([*line[:2], several, "--box", "10,10,90,90", *line[3:]]) == 2
    assert not out.exists()
    named, bare = tmp_path / "named.png", tmp_path / "bare.png"
    for words, made in (("make the dragon mosaic", named), ("mosaic", bare)):
        more = ["--box", "10,10,60,60", "--outline", "box", "--steps", "1", "--device", "cpu"]
        assert main(["stylize", str(photo), words, "-o", str(made), *more]) == 0
    assert (np.asarray(Image.open(named)) == np.asarray(Image.open(bare))).all()
    assert changed(photo, named).any()


def test_edge_correlation():
    image = torch.rand(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(edge_correlation(image, image), torch.ones(2, dtype=torch.float64))
    assert float(edge_correlation(1 - image, image).min()) > 0.99
    assert float(edge_correlation(image, image.flip(0)).abs().max()) < 0.5
    assert float(edge_correlation(torch.zeros_like(image), image).abs().max()) == 0


class TestEvaluation:
    def test_photographs_are_sized_and_the_judge_reads_sixteen_crops(self):
        photo = held_out_photo("cat", 200)
        assert photo.shape == (1, 3, 133, 200)
        share = recognised(load_photo_classifier(), photo, "plain")
        assert share * 16 == int(share * 16)
        with pytest.raises(RegionStyleError, match="--side"):
            held_out_photo("cat", 100)

    def test_the_table_has_every_row_and_mark(self):
        row = {"photograph": "cat", "side": 512, "style": "neon", "recognised": 0.5, "recognised_exact": 1.0,
               "recognised_native": 0.2, "psnr_photograph": 8.0, "psnr_native": 7.0, "psnr_full": 11.0, "edges": 0.4,
               "edges_native": 0.1, "edges_exact": 0.3, "seconds": 2.0}  # fmt: skip
        shown = photo_table({"rows": [row], **summary([row])})
        for words in ("neon", "+4.0 dB", "yes", "50%", "100%"):
            assert words in shown
        worse = {**row, "psnr_full": 7.9}
        assert "NO" in photo_table({"rows": [row, worse], **summary([row, worse])})

    @pytest.mark.parametrize(("what", "name"), [("photos", "scenes"), ("masks", "side"), ("tinyworld", "style")])
    def test_options_of_another_measurement_are_refused(self, what, name):
        given = {"what": what, "scenes": None, "side": [], "style": [], "out": None, name: 5}
        with pytest.raises(RegionStyleError, match=f"--{name}"):
            _check_options(argparse.Namespace(**given))

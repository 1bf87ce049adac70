"""Restyling in tiles at the picture's own size, with the shipped tiny world."""

from dataclasses import replace

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.engine.tiles.grid import TileGrid, overlap_without_lines
from regionstyle.nodes.router.full_size import TiledWork, restyle_in_tiles
from regionstyle.nodes.router.restyle import RegionTask, detail_of, restyle_region, restyle_regions
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import load_bundled_expert, load_predictor

FEW = RestyleSettings(strength=0.3, steps=1, cfg=1.0, feather=0)
PROMPT = "a picture in {} style"


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"), [load_bundled_expert(style) for style in ("mosaic", "watercolor")])


def box_in(size, box):
    mask = torch.zeros(size)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def picture(*size, seed=0):
    small = torch.rand(1, 3, size[0] // 8 + 1, size[1] // 8 + 1, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size, mode="bicubic").clamp(0, 1)


def task(mask, style="mosaic", **options):
    return RegionTask(mask, PROMPT.format(style), lambda region, cut: Gates({style: RegionGate(region)}), **options)


class TestDetail:
    @pytest.mark.parametrize(
        ("side", "strength", "detail"),
        [(60, 0.3, "native"), (128, 0.3, "native"), (130, 0.3, "full"), (130, 0.6, "both"), (400, 0.5, "full")],
    )
    def test_auto_is_decided_by_how_far_a_crop_would_be_enlarged(self, predictor, side, strength, detail):
        mask = box_in((1000, 1000), (10, 10, 10 + side, 10 + side))
        assert detail_of(predictor, mask, replace(FEW, strength=strength)) == detail
        for chosen in ("native", "full", "both"):
            assert detail_of(predictor, mask, replace(FEW, detail=chosen)) == chosen

    def test_an_unknown_detail_is_refused(self):
        with pytest.raises(RegionStyleError, match="detail"):
            RestyleSettings(detail="sharp")

    def test_what_fits_is_one_crop_as_it_was(self, predictor):
        image, mask = picture(150, 140), box_in((150, 140), (30, 20, 90, 100))
        auto, native = (
            restyle_region(predictor, image, mask, "a picture", gate=task(mask).gate, settings=replace(FEW, detail=d))
            for d in ("auto", "native")
        )
        assert torch.equal(auto.image, native.image)
        assert (auto.detail, auto.note) == ("native", "")

    def test_an_enlarged_crop_says_so(self, predictor):
        image, mask = picture(400, 400), torch.ones(400, 400)
        settings = replace(FEW, detail="native")
        restyled = restyle_region(predictor, image, mask, "a picture", gate=task(mask).gate, settings=settings)
        assert "enlarged 3.1 times" in restyled.note
        assert "full" in restyled.note


def test_outside_the_mask_every_pixel_is_equal(predictor):
    image, mask = picture(161, 203), box_in((161, 203), (20, 10, 170, 140))
    for feather in (0, 5):
        made = restyle_in_tiles(predictor, image, [task(mask)], replace(FEW, feather=feather))
        outside = (made.mask == 0).expand_as(image)
        assert torch.equal(made.image[outside], image[outside])
        assert float((made.image != image)[..., mask == 1].float().mean()) > 0.95
        assert made.idle == {"mosaic": ""}


def test_weight_is_the_experts_strength(predictor):
    image, mask = picture(128, 128), torch.ones(128, 128)
    stronger = Gates({"mosaic": RegionGate(mask[None], 1.5)})
    by_hand = RegionTask(mask, PROMPT.format("mosaic"), lambda inside, cut: stronger)
    plain, weighted, wanted = (
        restyle_in_tiles(predictor, image, [one], replace(FEW, steps=1, weight=weight)).image
        for one, weight in ((task(mask), 1.0), (task(mask), 1.5), (by_hand, 1.0))
    )
    assert torch.equal(weighted, wanted)
    assert not torch.equal(weighted, plain)
    with pytest.raises(RegionStyleError, match="weight"):
        replace(FEW, weight=0.0)
    with pytest.raises(RegionStyleError, match="weight: got 1.5, expected 1 where a region has no gates"):
        restyle_in_tiles(predictor, image, [RegionTask(mask, "a picture")], replace(FEW, weight=1.5))


def test_the_region_decides_the_tiles_and_the_picture_does_not(predictor):
    """The same region in a picture of 6000 px and in one of 1500 costs the same."""
    counts = []
    for side in (1500, 6000):
        image = torch.zeros(1, 3, 1, 1).expand(1, 3, side, side)
        work = TiledWork(predictor, image, box_in((side, side), (700, 600, 1000, 900)), FEW)
        counts.append((len(work.corners), work.canvas.height * work.canvas.width))
    assert counts[0] == counts[1]
    assert counts[0][0] == 25


def calls_of(predictor, image, mask, steps=1):
    """How many tiles the network was asked for, and how many the autoencoder read, while a region was restyled."""
    asked, read = [], []
    hooks = [
        predictor.unet.register_forward_hook(lambda network, args, output: asked.append(len(args[0]))),
        predictor.vae.encoder.register_forward_hook(lambda network, args, output: read.append(len(args[0]))),
    ]
    restyle_in_tiles(predictor, image, [task(mask)], replace(FEW, steps=steps))
    for hook in hooks:
        hook.remove()
    return sum(asked), sum(read)


@pytest.mark.slow
def test_calls_go_with_the_region_and_not_with_the_picture(predictor):
    """A small region in a large photograph costs what its own area costs, and twice the area twice as much."""
    counts = {}
    for side in (1200, 4000):
        mask = box_in((side, side), (700, 600, 820, 720))
        counts[side] = calls_of(predictor, torch.zeros(1, 3, side, side), mask, steps=2)
    assert counts[1200] == counts[4000] == (8, 4)
    calls = {}
    for width in (352, 704, 1408):  # with the context around it
        mask = box_in((160, 1600), (0, 0, width - 16, 160))
        calls[width] = calls_of(predictor, picture(160, 1600), mask)[0]
    per_pixel = [count / width for width, count in calls.items()]
    assert max(per_pixel) < 1.15 * min(per_pixel), calls


def test_the_noise_at_a_place_is_the_same_whatever_the_region_and_its_tiles(predictor):
    image = picture(520, 700)
    whole, part = (
        TiledWork(predictor, image, mask, FEW)
        for mask in (torch.ones(520, 700), box_in((520, 700), (203, 171, 590, 420)))
    )
    latents = [torch.zeros(1, 4, *work.canvas.cells) for work in (whole, part)]
    large, small = (work.noise(latent, [0.5], [], None) for work, latent in zip((whole, part), latents, strict=True))
    (top, left), (height, width) = part.canvas.cell_corner, part.canvas.cells
    assert (top, left) != (0, 0)
    assert torch.equal(small, large[..., top : top + height, left : left + width])
    other = TiledWork(predictor, image, torch.ones(520, 700), FEW)
    other.grid = TileGrid.over(other.canvas.cells, 16, 8, overlap=0.25)
    assert torch.equal(other.noise(latents[0], [0.5], [], None), large)


def test_the_cost_is_linear_in_the_area(predictor):
    sides = (512, 1024, 2048, 4096)
    tiles = [len(TileGrid.over((side // 8, side // 8), 16, 8, overlap_without_lines(16)).corners) for side in sides]
    per_megapixel = [count / side**2 * 2**20 for count, side in zip(tiles, sides, strict=True)]
    assert max(per_megapixel) < 1.3 * min(per_megapixel)  # a strip at the frame is covered once, not twice


def test_the_size_of_batches_makes_no_difference(predictor, monkeypatch):
    """Memory runs out for more than one tile: the batch is halved until it fits."""
    image = picture(128, 260)
    whole = restyle_in_tiles(predictor, image, [task(torch.ones(128, 260))], FEW).image
    forward = predictor.unet.forward

    def short(sample, *args, **options):
        if len(sample) > 1:
            raise RuntimeError("CUDA out of memory")
        return forward(sample, *args, **options)

    monkeypatch.setattr(predictor.unet, "forward", short)
    parts = restyle_in_tiles(predictor, image, [task(torch.ones(128, 260))], FEW).image
    assert float((whole - parts).abs().max()) < 1e-3
    assert float((whole - image).abs().mean()) > 0.02


def test_cancel_and_previews():
    previews = []
    host = LocalHost("cpu", on_progress=lambda label, done, total, preview: previews.append(preview),
                     cancelled=lambda: len(previews) >= 1)  # fmt: skip
    image = picture(128, 260)
    with pytest.raises(Cancelled):
        restyle_in_tiles(load_predictor(host), image, [RegionTask(torch.ones(128, 260), "a picture")],
                         replace(FEW, steps=3))  # fmt: skip
    assert len(previews) == 1
    assert previews[0].shape == (3, 64, 128)


def test_looking_for_the_noise_is_progress_too():
    seen = []
    host = LocalHost("cpu", on_progress=lambda label, done, total, preview: seen.append((done, total)))
    task_of = RegionTask(torch.ones(128, 128), "a picture")
    restyle_in_tiles(load_predictor(host), picture(128, 128), [task_of], replace(FEW, steps=2, inverted=0.5))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


class TestSeveralRegions:
    def test_each_has_its_own_expert_in_one_pass(self, predictor):
        image = picture(128, 260)
        left, right = box_in((128, 260), (0, 0, 110, 128)), box_in((128, 260), (150, 0, 260, 128))
        both = restyle_regions(predictor, image, [task(left), task(right, "watercolor")], replace(FEW, detail="full"))
        alone = restyle_in_tiles(predictor, image, [task(left)], FEW)
        swapped = restyle_regions(predictor, image, [task(left, "watercolor"), task(right)],
                                  replace(FEW, detail="full"))  # fmt: skip
        assert torch.equal(both.mask, torch.maximum(left, right))
        assert torch.equal(both.image[..., 112:148], image[..., 112:148])
        assert both.idle == {"mosaic": "", "watercolor": ""}
        near = (both.image - alone.image)[..., :90].abs().mean()
        assert float(near) < 0.25 * float((both.image - swapped.image)[..., :90].abs().mean())

    def test_the_later_lies_on_top(self, predictor):
        image, whole = picture(128, 150), torch.ones(128, 150)
        settings = replace(FEW, detail="full")
        both = restyle_regions(predictor, image, [task(whole), task(whole, "watercolor")], settings)
        last = restyle_regions(predictor, image, [task(whole, "watercolor")], settings)
        assert torch.equal(both.image, last.image)

    def test_nothing_and_native_are_refused(self, predictor):
        mask = torch.ones(128, 128)
        for tasks, settings, words in (
            ([], FEW, "tasks"),
            ([task(mask), task(mask)], replace(FEW, detail="native"), "native"),
            ([task(torch.zeros(128, 128))], replace(FEW, detail="full"), "mask"),
        ):
            with pytest.raises(RegionStyleError, match=words):
                restyle_regions(predictor, picture(128, 128), tasks, settings)


def test_inversion_keeps_more_of_the_picture(predictor):
    image, mask = picture(128, 128, seed=4), torch.ones(128, 128)
    bare = RegionTask(mask, "a picture", lambda region, cut: Gates())
    kept = [restyle_in_tiles(predictor, image, [bare], replace(FEW, steps=3, inverted=share)).image
            for share in (0.0, 1.0)]  # fmt: skip
    coded = predictor.decode(predictor.encode(image))
    errors = [float((one - coded).square().mean()) for one in kept]
    assert errors[1] < 0.4 * errors[0]
    with pytest.raises(RegionStyleError, match="inverted"):
        replace(FEW, inverted=1.5)


@pytest.mark.slow
def test_both_differs_from_either(predictor):
    image, mask = picture(200, 200), torch.ones(200, 200)
    native, full, both = (
        restyle_region(predictor, image, mask, "a picture", gate=task(mask).gate, settings=replace(FEW, detail=d))
        for d in ("native", "full", "both")
    )
    assert both.detail == "both"
    assert (full.note, native.enlarged) == ("", both.enlarged)
    assert "enlarged 1.6 times: the picture's own fine detail is lost. Choose detail full" in both.note
    assert float((both.image - full.image).abs().mean()) > 0.01
    assert float((both.image - native.image).abs().mean()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("width", [512, 1280])
def test_no_step_at_the_borders_of_tiles(predictor, width):
    """Mean step between neighbouring columns at the tiles' borders, against the other borders of latent cells."""
    steps = torch.zeros(width)
    for seed in range(3 if width < 1024 else 2):
        image, mask = picture(128, width, seed=seed), torch.ones(128, width)
        made = restyle_in_tiles(predictor, image, [task(mask, "watercolor")], replace(FEW, steps=3)).image
        steps[1:] += (made[..., 1:] - made[..., :-1]).abs().mean((0, 1, 2))
    starts = {column for _, column in TileGrid.over((16, width // 8), 16, 8, overlap_without_lines(16)).corners}
    borders = {at for start in starts for at in (start, start + 16)} - {0, width // 8}
    others = set(range(1, width // 8)) - borders
    at_borders, elsewhere = (float(steps[[cell * 8 for cell in cells]].mean()) for cells in (borders, others))
    assert abs(at_borders / elsewhere - 1) < 0.05
